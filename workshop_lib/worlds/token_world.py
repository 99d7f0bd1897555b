"""A world dreamed in tokens: a tokenizer, MaskGIT dynamics, and perhaps a latent action model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import UNKNOWN, Dynamics
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.nn.cache import TimeCache
from workshop_lib.nn.packed import packed
from workshop_lib.worlds.checks import check_actions, check_prompt, check_step, dice


class InfersActions(Protocol):
    """A latent action model, as far as a world needs it.

    key_codes: int64 (K + 1, 15), the latent action that stands for each of the game's keys after
        each latent action, last after none that is known; or None.
    """

    key_codes: Tensor | None

    def infer(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, C) to what led from each frame to the next, int64 (B, T - 1)."""
        ...


@dataclass(frozen=True)
class TokenState:
    """A moment of B dreams. Never changes: step it as often as you like.

    tokens: int64 (B, T, h, w), the newest frames, as many as the next one can depend on.
    led_by: int64 (B, T), the action, or latent action, that led to each; -1 for none.
    number: how many frames were dreamed so far.
    shown: float (B, K), how often each code was in the prompt and the dream, where the dynamics has
        a palette.
    """

    tokens: Tensor
    led_by: Tensor
    number: int
    shown: Tensor | None = None

    def then(
        self, tokens: Tensor, led_by: Tensor, kept: int, shown: Tensor | None = None
    ) -> TokenState:
        """The moment after this one, with its frame (B, h, w); the past is cut to `kept` frames."""
        return TokenState(
            torch.cat([self.tokens, tokens[:, None]], dim=1)[:, -kept:],
            torch.cat([self.led_by, led_by[:, None]], dim=1)[:, -kept:],
            self.number + 1,
            shown,
        )

    def equals(self, other: TokenState) -> bool:
        """Whether the same frames led here by the same actions."""
        return torch.equal(self.tokens, other.tokens) and torch.equal(self.led_by, other.led_by)


class TokenWorld:
    """Dynamics over a tokenizer's tokens, behind the two verbs of all worlds (worlds/world.py).

    A prompt is encoded once; from then on frames are only decoded. The world keeps the keys and
    values of the moment that was stepped last, so that going on, or trying another action at the
    same moment, costs one frame; another moment's are computed again from its tokens.

    Args:
        tokenizer, dynamics: trained together: of one grid and one codebook.
        lam: the latent action model of a dynamics with drive "latent". It tells what happened in
            a prompt. With key codes the world takes the game's 15 keys, else latent actions.
        steps: of unmasking, for each frame.
        temperature: 0 always takes what is likeliest; 1 draws from what the model believes.
        seed: of the draws. The same action at the same moment gives the same frame.

    Raises WorkshopError for parts that do not fit together, and for a tokenizer that makes one
    grid of several frames: the next frame alone could not be shown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dynamics: Dynamics,
        lam: InfersActions | None = None,
        steps: int = 4,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        _check_parts(tokenizer, dynamics, lam)
        self.tokenizer, self.dynamics, self.lam = packed(tokenizer), dynamics.for_play(), lam
        self.steps, self.temperature, self.seed = steps, temperature, seed
        self.device = next(dynamics.parameters()).device
        self.key_codes = None if lam is None else lam.key_codes
        keys = self.key_codes
        self.num_actions = dynamics.config.num_actions if keys is None else keys.shape[1]
        self.context = dynamics.config.window
        # A per-frame decoder needs the frame alone, the others the frames that they look back on.
        per_frame = tokenizer.config.architecture == "conv"
        self.shown = 1 if per_frame else tokenizer.config.window
        self.kept = max(dynamics.config.reach + 1, self.shown)
        self._cache: TimeCache | None = None
        self._cached: TokenState | None = None  # the moment whose past and present it holds

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor) -> TokenState:
        """The state after a prompt: uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1).

        With a latent action model the actions are inferred from the frames instead.

        Raises WorkshopError for a prompt that does not fit.
        """
        check_prompt(frames, actions)
        palette = self.dynamics.palette
        whole = frames.to(self.device)
        frames = whole[:, -self.kept :]
        led_by = actions[:, actions.shape[1] - frames.shape[1] + 1 :].to(self.device)
        if self.lam is None:
            check_actions(actions, self.num_actions)
        elif frames.shape[1] > 1:
            led_by = self.lam.infer(frames)
        led_by = torch.nn.functional.pad(led_by, (1, 0), value=UNKNOWN)
        if palette is None:
            return TokenState(self.tokenizer.encode(frames), led_by, 0)
        tokens = self.tokenizer.encode(whole)  # all of it tells what belongs to the dream
        return TokenState(tokens[:, -self.kept :], led_by, 0, palette.count(tokens))

    @torch.inference_mode()
    def step(self, state: TokenState, action: Tensor) -> tuple[Tensor, TokenState]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have.
        """
        check_step(action, len(state.tokens), self.num_actions)
        led_by = action.to(self.device)
        if self.key_codes is not None:  # after UNKNOWN: the last row
            led_by = self.key_codes.to(self.device)[state.led_by[:, -1], led_by]
        cache, newest = self._recall(state)
        tokens = self.dynamics.generate(
            cache,
            led_by,
            newest=newest,
            steps=self.steps,
            temperature=self.temperature,
            generator=self.noise(state),
            shown=state.shown,
        )
        self._cached = state
        shown, palette = state.shown, self.dynamics.palette
        if shown is not None and palette is not None:
            shown = palette.then(shown, tokens)
        following = state.then(tokens, led_by, self.kept, shown)
        frame = self.tokenizer.decode(following.tokens[:, -self.shown :])[:, -1]
        return frame.to(action.device), following

    def noise(self, state: TokenState) -> torch.Generator:
        """Of the draws for the frame after a state: a function of seed and number of the frame."""
        return dice(self.seed, state.number)

    def _recall(self, state: TokenState) -> tuple[TimeCache, tuple[Tensor, Tensor] | None]:
        """The keys and values of a moment's past; and its own frame, unless theirs are there, too,
        with what led to it."""
        new = self._frames_missing(state)
        if self._cache is None or new == state.tokens.shape[1]:
            self._cache = self.dynamics.new_cache(len(state.tokens))
        if new == 0:
            return self._cache, None
        self._cached = None  # an interruption would leave it half written
        if new > 1:
            past = state.tokens[:, -new:-1], state.led_by[:, -new:-1]
            self.dynamics(*past, cache=self._cache)
        return self._cache, (state.tokens[:, -1], state.led_by[:, -1])

    def _frames_missing(self, state: TokenState) -> int:
        """How many frames of a moment's past the cache lacks: none, the newest, or all."""
        cached = self._cached
        if cached is not None and len(cached.tokens) == len(state.tokens):
            if cached.equals(state):
                return 0
            if cached.then(state.tokens[:, -1], state.led_by[:, -1], self.kept).equals(state):
                return 1
        return state.tokens.shape[1]


def _check_parts(tokenizer: Tokenizer, dynamics: Dynamics, lam: Any) -> None:
    if tokenizer.config.time_patch > 1:
        raise WorkshopError(
            f"this tokenizer makes one grid of {tokenizer.config.time_patch} frames (time_patch),"
            " but play needs every frame by itself: use one with time_patch 1"
        )
    ours = tuple(tokenizer.config.grid), tokenizer.num_codes
    theirs = tuple(dynamics.config.grid), dynamics.config.num_codes
    if ours != theirs:
        raise WorkshopError(
            f"the tokenizer has grid and codes {ours}, but the dynamics was trained on {theirs}:"
            " use the tokenizer that encoded its data"
        )
    if lam is not None and dynamics.config.drive != "latent":
        raise WorkshopError(
            f"a latent action model goes with a dynamics of drive 'latent', not"
            f" {dynamics.config.drive!r}"
        )
