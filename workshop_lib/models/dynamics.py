"""MaskGIT dynamics: from the tokens of past frames and an action to the tokens of the next.

Bruce et al. 2024, "Genie", section 2.1, with its space-time transformer; masks as in
models/maskgit.py. Two things differ from Genie:

Training plays at every moment at once. Beside the settled frames of a clip the model gets a
masked draft of each frame but the first, and a draft sees the settled frames before it: exactly
what it has in play, at all moments of the clip, for the price of two.

Codes have digits where the tokenizer is FSQ or LFQ, and a code is known from them, in the input
and in the output (nn/code_table.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.maskgit import MaskedClip, draw, mask_clip, mean_where, unmask
from workshop_lib.models.palette import Palette
from workshop_lib.models.spoiling import elsewhere
from workshop_lib.nn.cache import TimeCache
from workshop_lib.nn.code_table import CodeTable
from workshop_lib.nn.frame_stack import FrameStack
from workshop_lib.nn.linear import Linear, linear
from workshop_lib.nn.packed import packed
from workshop_lib.nn.space_time import SpaceTimeTransformer

IGNORED = -100  # a target that is not asked for
UNKNOWN = -1  # an action that nobody recorded, and what led to a clip's first frame


class Dynamics(nn.Module):
    """Predicts a frame's tokens from its past and the action that led to it.

    A token is 0 to K - 1, or K, the mask. Below, `led_by` int64 (B, T) is the action that led to
    each frame, -1 where there is none: for the first frame of a clip, or where nobody knows.
    """

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        shape, dim, group = config.transformer, config.dim, config.group
        codes = config.num_codes, dim, config.code_factors
        self.mask_id = config.num_codes
        self.codes = CodeTable(*codes, std=1.0, extra=1)
        self.to_group = Linear(group**2 * dim, dim) if group > 1 else nn.Identity()
        self.places = nn.Parameter(0.1 * torch.randn(math.prod(shape.grid), dim))
        self.actions = nn.Embedding(config.num_actions + 1, dim)  # the last one: unknown
        bodies: dict[str, Any] = {"conv": FrameStack, "transformer": SpaceTimeTransformer}
        self.transformer = bodies[config.body](shape)
        self.from_group = Linear(dim, group**2 * dim) if group > 1 else nn.Identity()
        self.outputs = CodeTable(*codes, std=0.02)
        self.output_bias = nn.Parameter(torch.zeros(config.num_codes))
        self.head: nn.Module | None = None  # the last two in one, for play
        palette = config.num_codes, config.code_factors, config.palette
        self.palette = Palette(*palette) if config.palette else None

    def embed(self, tokens: Tensor, led_by: Tensor) -> Tensor:
        """int64 (B, T, h, w) and (B, T) to what the transformer reads, (B, T, N, D)."""
        x, g = F.embedding(tokens, self.codes()), self.config.group
        if g > 1:
            x = rearrange(x, "b t (h g) (w k) d -> b t (h w) (g k d)", g=g, k=g)
        x = self.to_group(x).flatten(2, -2) + self.places
        action = self.embed_actions(led_by)[:, :, None]  # B T 1 D
        if self.config.transformer.extra_tokens:
            return torch.cat([action, x], dim=2)
        return x + action

    def embed_actions(self, led_by: Tensor) -> Tensor:
        """int64 (B, T) to vectors (B, T, D); or float (B, T, A + 1), shares, of unknown last.

        Raises WorkshopError for actions that there are not (on the CPU; a GPU would have to wait
        for the answer).
        """
        if led_by.is_floating_point():
            return led_by @ self.actions.weight
        count = self.config.num_actions
        if led_by.device.type == "cpu":
            least, most = (end.item() for end in led_by.aminmax())
            if least < UNKNOWN or most >= count:
                raise WorkshopError(
                    f"actions must be 0 to {count - 1}, or {UNKNOWN} for unknown, got"
                    f" {least if least < UNKNOWN else most}"
                )
        if self.config.drive == "none":
            led_by = torch.full_like(led_by, UNKNOWN)
        return self.actions(led_by.masked_fill(led_by == UNKNOWN, count))

    def forward(
        self,
        tokens: Tensor,
        led_by: Tensor,
        cache: TimeCache | None = None,
        write: bool = True,
        drafts: bool = False,
    ) -> Tensor:
        """int64 (B, T, h, w) and (B, T) to features (B, T, N, D), which `logits` turns into codes.

        cache, write, drafts: as in SpaceTimeTransformer.

        Raises WorkshopError for tokens of another grid, and for actions out of range.
        """
        if tokens.ndim != 4 or tuple(tokens.shape[2:]) != tuple(self.config.grid):
            raise WorkshopError(
                f"tokens: {tuple(tokens.shape)} should be (B, T, {self.config.grid[0]},"
                f" {self.config.grid[1]}): was this dynamics trained with another tokenizer?"
            )
        x = self.embed(tokens, led_by)
        x = self.transformer(x, cache=cache, write=write, drafts=drafts)
        return x[:, :, self.config.transformer.extra_tokens :]

    def logits(self, features: Tensor) -> Tensor:
        """(B, T, N, D) to logits of the codes, (B, T, h, w, K)."""
        return self.read(self.ungroup(features))

    def ungroup(self, features: Tensor) -> Tensor:
        """(B, T, N, D) to features of each token, (B, T, h, w, D)."""
        g, (h, w) = self.config.group, self.config.transformer.grid
        x = self.from_group(features)
        return rearrange(x, "b t (h w) (g k d) -> b t (h g) (w k) d", h=h, w=w, g=g, k=g)

    def read(self, features: Tensor) -> Tensor:
        """Features of single tokens (..., D) to logits of the codes (..., K)."""
        if self.head is not None:
            return self.head(features)
        return linear(features, self.outputs(), self.output_bias)

    def reader(self, shown: Tensor | None) -> Callable[[Tensor], Tensor]:
        """`read` for features (B, n, D) of dreams that have shown (B, K), if there is a palette."""
        if shown is None or self.palette is None:
            return self.read
        against = self.palette.against(shown)[:, None]
        return lambda features: self.read(features) + against

    def loss(self, clip: Clip, latents: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, in nats, of the masked tokens of every frame but the first.

        Logs the share of masked tokens that the model's first guess has right (accuracy), the same
        in frames that are masked as a whole, where generation begins (accuracy_whole), and there
        the share that copying the frame before would have right (accuracy_copy).

        latents: int64 (B, T - 1) or (B, T), the latent action after each frame, for drive
            "latent"; or float (B, T - 1, A), 1 for the action, through which gradients flow.

        Raises WorkshopError for a clip without tokens, or latents that do not go with the drive.
        """
        tokens = self._tokens(clip)
        if self.training and self.palette is not None:
            self.palette.learn(tokens)
        led_by = self._led_by(clip, latents)
        past, drafts, masked, whole = self.task(tokens)
        if self.training and self.config.own_past:
            past = self._own_past(past, drafts, led_by)
        logits = self._guess(past, drafts, led_by)
        targets = tokens[:, 1:]
        asked = targets.masked_fill(~masked, IGNORED)
        loss = F.cross_entropy(logits.flatten(0, -2).float(), asked.flatten(), ignore_index=IGNORED)
        right = logits.detach().argmax(dim=-1) == targets
        whole = whole[..., None, None].expand_as(right)
        logs = {
            "accuracy": mean_where(right, masked),
            "accuracy_whole": mean_where(right, whole),
            "accuracy_copy": mean_where(tokens[:, :-1] == targets, whole),
        }
        return loss, logs

    def _guess(self, past: Tensor, drafts: Tensor, led_by: Tensor) -> Tensor:
        """Logits (B, T - 1, h, w, K) for the drafts of frames 1 to T - 1 after frames 0 to T - 2;
        led_by: (B, T)."""
        features = self(
            torch.cat([past, drafts], dim=1),
            torch.cat([led_by[:, :-1], led_by[:, 1:]], dim=1),
            drafts=True,
        )
        return self.logits(features[:, past.shape[1] :])

    @torch.no_grad()
    def _own_past(self, past: Tensor, drafts: Tensor, led_by: Tensor) -> Tensor:
        """The past with the drafts in it, their masks filled as the model would do it at once, in
        the first of the clips: a share of them all. In play it has no other past."""
        some = slice(max(1, round(self.config.own_past * len(past))))
        logits = self._guess(past[some], drafts[some], led_by[some])[:, :-1]
        guess, _ = draw(logits.float(), 1.0, torch.rand_like(logits[..., 0], dtype=torch.float32))
        draft, own = drafts[some, :-1], past.clone()
        own[some, 1:] = torch.where(draft == self.mask_id, guess, draft)
        return own

    def task(self, tokens: Tensor) -> MaskedClip:
        """What the model sees of clips int64 (B, T, h, w), and where it is asked: random in
        training; in evaluation always the same, with the past as it was."""
        config, generator = self.config, torch.Generator(tokens.device)
        generator.manual_seed(int(torch.randint(2**31, ())) if self.training else 0)
        spoiled = (config.corrupt, config.masked_past) if self.training else (0.0, 0.0)
        task = mask_clip(tokens, config.num_codes, config.schedule, *spoiled, generator)
        if self.training and config.spoiled:
            return task._replace(past=elsewhere(task.past[:, :, None], config.spoiled)[:, :, 0])
        return task

    def _tokens(self, clip: Clip) -> Tensor:
        if clip.tokens is None:
            raise WorkshopError("these clips have no tokens: train on what `workshop encode` wrote")
        if clip.tokens.shape[1] < 2:
            raise WorkshopError("data.length must be 2 or more: a frame follows from another")
        if clip.tokens.device.type == "cpu" and clip.tokens.max() >= self.config.num_codes:
            raise WorkshopError(
                f"these clips have tokens up to {int(clip.tokens.max())}, but model.num_codes is"
                f" {self.config.num_codes}: it must be that of the tokenizer that encoded them"
            )
        return clip.tokens

    def _led_by(self, clip: Clip, latents: Tensor | None) -> Tensor:
        if (latents is None) == (self.config.drive == "latent"):
            drive = self.config.drive
            raise WorkshopError(
                f"loss() takes latents only with drive 'latent'; here it is {drive!r}"
            )
        after = clip.actions if latents is None else latents
        if after.is_floating_point():
            led_by = F.pad(after, (0, 1, 1, 0))
            led_by[:, 0, -1] = 1  # nothing led to the first frame
            return led_by
        return F.pad(after[:, : clip.actions.shape[1] - 1], (1, 0), value=UNKNOWN)

    @torch.no_grad()
    def for_play(self) -> Dynamics:
        """A copy that computes the same, quicker, and cannot be trained."""
        head = nn.Linear(self.config.dim, self.config.num_codes).to(self.output_bias.device)
        head.weight.copy_(self.outputs())
        head.bias.copy_(self.output_bias)
        player = copy.deepcopy(self)
        player.codes.fold()
        player.head = head
        return packed(player)

    def new_cache(self, batch_size: int) -> TimeCache:
        """An empty cache for batch_size dreams, where the model is."""
        return self.transformer.new_cache(batch_size)

    @torch.no_grad()
    def unmasking(
        self,
        cache: TimeCache,
        action: Tensor,
        newest: tuple[Tensor, Tensor] | None = None,
        steps: int = 4,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        shown: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The next frame, int64 (B, h, w), after each step of unmasking; the last one is done.

        cache: holds the past; the new frame is not put there (call the model on it for that).
        action: int64 (B,), what leads to the frame.
        newest: the last frame of the past, int64 (B, h, w), and what led to it, (B,), if the cache
            lacks it: the first step takes it there, which costs less than calling the model on it.
        temperature, generator: as in `unmask`.
        shown: what the dream has shown so far, (B, K), for a model with a palette.
        """
        batch, (h, w) = len(action), self.config.grid

        def predict(tokens: Tensor) -> Tensor:
            nonlocal newest
            frames, led_by = tokens.view(batch, 1, h, w), action[:, None]
            if newest is None:
                features = self(frames, led_by, cache=cache, write=False)
            else:
                frames = torch.cat([newest[0][:, None], frames], dim=1)
                led_by = torch.stack([newest[1], action], dim=1)
                features = self(frames, led_by, cache=cache, drafts=True)[:, 1:]
                newest = None
            return self.ungroup(features).flatten(1, 3)

        start = torch.full((batch, h * w), self.mask_id, device=action.device)
        how = steps, temperature, self.config.schedule, generator, self.reader(shown)
        for tokens in unmask(predict, start, *how):
            yield tokens.view(batch, h, w)

    def generate(self, cache: TimeCache, action: Tensor, **how: Any) -> Tensor:
        """The next frame, int64 (B, h, w); how: arguments of `unmasking`."""
        *_, tokens = self.unmasking(cache, action, **how)
        return tokens
