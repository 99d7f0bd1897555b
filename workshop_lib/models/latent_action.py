"""The latent action model: what was pressed between two frames, learned without being told.

    encoder(frames up to t + 1) -> one of K codes -> decoder(frames up to t, code) -> later frames

As in Genie (Bruce et al. 2024, section 2.1) the decoder knows the past and not the future, so all
that it lacks must come through the code, and there is room for no more than one of K = 6 to 8: what
changes most, if all goes well what was pressed.

Unlike Genie's, code t must help to draw not only frame t + 1 but any frame up to t + `stride`
(drawn at random). A key moves CoinRun's next frame by less than half a pixel, but a key that is
held moves the eighth by many: from far off, left and right are the largest thing there is to say,
and what the past says already, the speed, counts for less. The encoder never sees more than frame
t + 1, so code t speaks of what was pressed at t, and not of what came after it.

And code t must tell which way the player faces in the frames after it: see
models/latent_portrait.py, without which codes say little about keys.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.latent_code import ActionCode, Coded
from workshop_lib.models.latent_coders import (
    TransformerDecoder,
    UNetDecoder,
    gather_frames,
    make_encoder,
    small_video,
)
from workshop_lib.models.latent_config import (
    LatentActionConfig,
    TransformerEncoderConfig,
    UNetDecoderConfig,
)
from workshop_lib.models.latent_portrait import Portrait
from workshop_lib.models.tokenizer import psnr

COND = 64  # channels of the decoder's condition
STILL = 0.003  # mean squared error below which a prediction need not get better


class LatentActionModel(nn.Module):
    """uint8 frames (B, T, H, W, C) to latent actions, int64 (B, T - 1), and back to frames.

    Code t tells what led from frame t to frame t + 1. `key_codes` says which code stands for each
    of the game's 15 keys after each code, once `workshop evaluate lam` has found out.
    """

    keys: Tensor

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.config = config
        self.code = ActionCode(
            config.quantizer, config.soft, config.soft_steps, config.spread, config.temperature
        )
        if config.labels and max(config.action_codes) >= self.num_codes:
            raise WorkshopError(
                f"model.action_codes go up to {max(config.action_codes)}, but there are "
                f"{self.num_codes} codes"
            )
        self.encoder = make_encoder(config.encoder, config.size, config.history, self.code.dim)
        self.to_cond = nn.Linear(self.code.dim, COND)
        nn.init.normal_(self.to_cond.weight, std=self.code.dim**-0.5)
        self.distance = nn.Embedding(config.stride, COND)
        self.decoder: UNetDecoder | TransformerDecoder
        if isinstance(config.decoder, UNetDecoderConfig):
            self.decoder = UNetDecoder(config.decoder, config.history, COND, config.scale)
        else:
            self.decoder = TransformerDecoder(
                config.decoder, config.size, config.history, COND, config.scale, config.from_first
            )
        self.portrait: Portrait | None = None
        if config.portrait:
            self.portrait = Portrait(config.portrait, config.size, self.code.dim)
        self.register_buffer("keys", torch.full((self.num_codes + 1, len(config.action_codes)), -1))

    @property
    def num_codes(self) -> int:
        """K, latent actions."""
        return self.code.num_codes

    @property
    def key_codes(self) -> Tensor | None:
        """int64 (K + 1, 15), the latent action of each of the game's keys, after each latent action
        and, last, where what led to the moment is unknown; None while nobody has found out."""
        return self.keys if bool((self.keys >= 0).all()) else None

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *how: Any) -> None:
        """A file from when a key had one code, (15,), is understood as well."""
        keys = state.get(f"{prefix}keys")
        if keys is not None and keys.ndim == 1:
            state[f"{prefix}keys"] = keys.expand(len(self.keys), -1)
        super()._load_from_state_dict(state, prefix, *how)

    @property
    def reads_tokens(self) -> bool:
        encoder = self.config.encoder
        return isinstance(encoder, TransformerEncoderConfig) and encoder.num_tokens > 0

    def read(self, seen: Tensor, places: Tensor) -> Coded:
        """Transitions `places` int64 (B, n) of what the encoder sees (frames or tokens)."""
        coded: Coded = self.code(self.encoder(seen, places))
        return coded

    @torch.no_grad()
    def infer(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, C) to latent actions int64 (B, T - 1), 0 to K - 1.

        A model that reads tokens is given these instead, int64 (B, T, h, w). Code t depends on
        frame t + 1 and those before it, nothing later.

        Raises WorkshopError for frames of another size, and for tokens in place of frames.
        """
        self._check(frames)
        return self.read(frames, self._all_places(frames)).codes

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The decoder's error, and what the code adds: quantizer, entropy and labels."""
        config = self.config
        seen = self.seen(clip)
        # Measuring must not depend on chance.
        generator = None
        if not self.training:
            generator = torch.Generator(clip.frames.device).manual_seed(0)
        places, distances = self._draw(clip.frames, generator)
        coded = self.read(seen, places)
        cond = self._condition(coded.vectors)
        if self.training and config.drop:
            cond = cond * (torch.rand_like(cond[..., :1]) >= config.drop)
        drawn = self._predictions(clip.frames, cond + self.distance(distances - 1), places)
        target = self._small(gather_frames(clip.frames, places + distances))
        error = (drawn.float() - target).square()
        if config.loss == "log":
            # A tenth of it is about as large as the mean squared error.
            measured = 0.1 * (error.mean(dim=(-3, -2, -1)) + STILL).log().mean()
        else:
            measured = error.mean()
        spread = self.code.begun * entropy_of_mean(coded.log_soft)
        loss = measured + coded.loss - config.entropy * spread
        logs = {"psnr": psnr(drawn.detach(), target), **coded.logs}
        if self.portrait is not None:
            vectors, later = coded.vectors.flatten(0, 1), self._reach(places, clip, generator)
            errors = [
                self.portrait.error(frames_to_video(frames).flatten(0, 1), vectors)
                for frames in (gather_frames(clip.frames, places + n) for n in (1, later))
            ]
            logs["portrait"] = (errors[0] + errors[1]) / 2
            loss = loss + config.portrait_weight * logs["portrait"]
        if config.labels:
            named, logs["label_accuracy"] = self._label_loss(clip, coded, places)
            loss = loss + config.label_weight * named
        return loss, logs

    @torch.no_grad()
    def predict(self, frames: Tensor, codes: Tensor) -> Tensor:
        """A rollout: n frames by its own predictions, after the frames and under the codes.

        frames: uint8 (B, T, H, W, C), T >= 1. codes: int64 (B, n), what is to happen after the
        last frame, then after the one drawn, and so on. Returns uint8 (B, n, H, W, C).

        Raises WorkshopError for frames of another size and for codes out of range.
        """
        self._check_frames(frames)
        frames = frames[:, -1:] if self.config.from_first else frames
        vectors = self.code.decode(codes)
        cond = self._condition(vectors) + self.distance.weight[0]
        video, length = frames_to_video(frames), frames.shape[1]
        if isinstance(self.decoder, TransformerDecoder):
            past = self.read(frames, self._all_places(frames)).vectors
            cond = torch.cat([self._condition(past) + self.distance.weight[0], cond], dim=1)
        for i in range(codes.shape[1]):
            if isinstance(self.decoder, UNetDecoder):
                following = self.decoder.draw(self._last(video), cond[:, i])
            else:
                following = self.decoder.draw(video, cond[:, : length + i])[:, -1]
            if self.portrait is not None:
                following = self.portrait.paint(following, vectors[:, i])
            video = torch.cat([video, following[:, None].clamp(-1, 1)], dim=1)
        return video_to_frames(video[:, length:])

    def preview(self, clip: Clip) -> dict[str, Tensor]:
        """Frames, and each drawn again from those before it and the code inferred."""
        codes, again = self.infer(self.seen(clip)), [clip.frames[:, :1]]
        for t in range(codes.shape[1]):
            past = clip.frames[:, max(0, t + 1 - self.config.history) : t + 1]
            again.append(self.predict(past, codes[:, t : t + 1]))
        return {"real": clip.frames, "again": torch.cat(again, dim=1)}

    def _draw(self, frames: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Transitions to train on and how far to look ahead from each: int64 (B, n), twice."""
        B, T = frames.shape[:2]
        if T < 2:
            raise WorkshopError(f"data.length: a transition takes 2 frames, clips have {T}")
        n, device = self.config.transitions, frames.device

        def random(limit: Tensor | int) -> Tensor:  # 0 to limit - 1
            drawn = torch.rand(B, n or T - 1, generator=generator, device=device)
            return (drawn * limit).long()

        reach = min(self.config.stride, T - 1)
        if n:
            distances = 1 + random(reach)
            return random(T - distances), distances
        places = self._all_places(frames)
        return places, 1 + random((T - 1 - places).clamp_max(reach))

    def _reach(self, places: Tensor, clip: Clip, generator: torch.Generator | None) -> Tensor:
        """How far ahead of `places` later portraits lie, at random, as far as the clips go."""
        most = (clip.frames.shape[1] - 1 - places).clamp_max(self.config.portrait_reach)
        drawn = torch.rand(places.shape, generator=generator, device=places.device)
        return 1 + (drawn * most).long()

    def _predictions(self, frames: Tensor, cond: Tensor, places: Tensor) -> Tensor:
        """Small frames (B, n, C, h, w) that the decoder draws."""
        if isinstance(self.decoder, TransformerDecoder):
            return self.decoder(self._small(frames[:, :-1]), cond)
        if not self.config.from_first:
            steps = torch.arange(1 - self.config.history, 1, device=places.device)
            windows = self._small(gather_frames(frames, places[..., None] + steps))
            drawn = self.decoder(windows.flatten(0, 1), cond.flatten(0, 1))
            return drawn.unflatten(0, places.shape)
        video = self._small(frames[:, :1])
        for i in range(cond.shape[1]):
            following = self.decoder(self._last(video), cond[:, i])
            video = torch.cat([video, following[:, None]], dim=1)
        return video[:, 1:]

    def _condition(self, vectors: Tensor) -> Tensor:
        cond: Tensor = self.to_cond(vectors)
        return cond

    def _last(self, video: Tensor) -> Tensor:
        """The last k frames of (B, T, ...), the first one repeated if T < k."""
        missing = max(0, self.config.history - video.shape[1])
        return torch.cat([video[:, :1]] * missing + [video], dim=1)[:, -self.config.history :]

    def _small(self, frames: Tensor) -> Tensor:
        return small_video(frames, self.config.scale)

    def _label_loss(self, clip: Clip, coded: Coded, places: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the labeled transitions' soft codes, and the share that is right."""
        pressed = clip.actions.gather(1, places)
        known = labeled(clip.frames, self.config.labels).gather(1, places) & (pressed >= 0)
        codes = torch.tensor(self.config.action_codes, device=pressed.device)
        wanted = codes[pressed.clamp_min(0)]
        each = F.nll_loss(coded.log_soft.flatten(0, 1), wanted.flatten(), reduction="none")
        # Divided by how many are expected, not by how many there are: a single one counts little.
        loss = (each * known.flatten()).sum() / (self.config.labels * known.numel())
        right = ((coded.codes == wanted) & known).sum() / known.sum().clamp_min(1)
        return loss, right

    def seen(self, clip: Clip) -> Tensor:
        """What the encoder reads of a clip: its frames, or their tokens."""
        if not self.reads_tokens:
            self._check_frames(clip.frames)
            return clip.frames
        if clip.tokens is None:
            raise WorkshopError(
                "model.encoder.num_tokens: the data has no tokens; `workshop encode` makes them"
            )
        return clip.tokens

    def _all_places(self, seen: Tensor) -> Tensor:
        return torch.arange(seen.shape[1] - 1, device=seen.device).expand(len(seen), -1)

    def _check(self, seen: Tensor) -> None:
        if not self.reads_tokens:
            self._check_frames(seen)
        elif seen.ndim != 4 or seen.dtype != torch.int64:
            raise WorkshopError(f"tokens must be int64 (B, T, h, w), got {tuple(seen.shape)}")

    def _check_frames(self, frames: Tensor) -> None:
        size = self.config.size
        if frames.ndim != 5 or frames.shape[2:4] != (size, size) or frames.dtype != torch.uint8:
            raise WorkshopError(
                f"frames must be uint8 (B, T, {size}, {size}, 3), got {frames.dtype} "
                f"{tuple(frames.shape)}"
            )


def entropy_of_mean(log_soft: Tensor) -> Tensor:
    """Entropy in nats of the mean of soft assignments, whose logarithms are (..., K)."""
    return torch.special.entr(log_soft.exp().flatten(0, -2).mean(dim=0)).sum()


def labeled(frames: Tensor, share: float) -> Tensor:
    """Which transitions have a label: bool (B, T), always the same ones, about `share` of all.

    frames: uint8 (B, T, H, W, C). It goes by the pixels of frame t, the same in every epoch.
    """
    pixels = frames[:, :, ::4, ::4].flatten(2).long()
    numbers = torch.arange(1, pixels.shape[2] + 1, device=frames.device)
    return (pixels * numbers).sum(dim=2) % 10007 < share * 10007
