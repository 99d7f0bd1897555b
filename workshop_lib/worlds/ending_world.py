"""A dream whose levels end, as those of the game do: with the coin, or with the player's death."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.termination import Termination
from workshop_lib.worlds.world import World


@dataclass(frozen=True)
class EndingState:
    """A moment of B dreams. Never changes: step it as often as you like.

    dream, begun: the dreaming world's states, now and when the level began.
    prompt, seen: uint8 (B, T, H, W, C), the last frames of the prompt and of the dream, as many as
        the model of endings looks at.
    ended: int64 (B,), what the last action led to: 0 another frame, 1 the level's end with a
        reward, 2 without; after an end the level begins anew.
    """

    dream: Any
    begun: Any
    prompt: Tensor
    seen: Tensor
    ended: Tensor


class EndingWorld:
    """Another world, and a model that says when its level is over (models/termination.py).

    When it is, the next frame is the prompt's last one, and the dream goes on from there: the level
    begins anew, as `evaluate game` has it for the real game.

    Args:
        world: of the game's keys.
        termination: sees the dreamed frames.

    ends: turned off, no level ends.

    Raises WorkshopError for a world of other actions than the model knows.
    """

    def __init__(self, world: World, termination: Termination) -> None:
        knows = termination.config.num_actions
        if world.num_actions != knows:
            raise WorkshopError(
                f"a model that knows {knows} keys cannot say when the levels end of a world of"
                f" {world.num_actions} actions"
            )
        self.world, self.termination = world, termination.eval()
        self.num_actions, self.context = world.num_actions, world.context
        self.ends = True

    def begin(self, frames: Tensor, actions: Tensor) -> EndingState:
        """The state after a prompt: uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1).

        Raises WorkshopError for a prompt that does not fit.
        """
        dream = self.world.begin(frames, actions)
        seen = frames[:, -self.termination.config.frames :]
        none = torch.zeros(len(frames), dtype=torch.int64)
        return EndingState(dream, dream, seen, seen, none)

    def step(self, state: EndingState, action: Tensor) -> tuple[Tensor, EndingState]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have, and where some of several
        dreams begin anew after a prompt shorter than what the world looks back on.
        """
        ended = self.termination.ending(state.seen, action) if self.ends else 0 * action
        over = (ended != 0).cpu()
        if over.all():  # nothing to dream of
            dream = _other_dice(state.begun, state.dream)
            prompt = state.prompt
            return prompt[:, -1], EndingState(dream, state.begun, prompt, prompt, ended)
        frame, dream = self.world.step(state.dream, action)
        kept = self.termination.config.frames
        seen = torch.cat([state.seen, frame[:, None]], dim=1)[:, -kept:]
        if over.any():
            frame = rows(over, state.prompt[:, -1], frame)
            dream = rows(over, state.begun, dream)
            longer = torch.cat([state.prompt[:, :1]] * kept + [state.prompt], dim=1)
            seen = rows(over, longer[:, -seen.shape[1] :], seen)
        return frame, EndingState(dream, state.begun, state.prompt, seen, ended)


def _other_dice(begun: Any, before: Any) -> Any:
    """The state in which a level began; dice that fall by the number of frames fall anew."""
    number = getattr(before, "number", None)
    return begun if number is None else replace(begun, number=number + 1)


def rows(some: Tensor, these: Any, others: Any) -> Any:
    """Those of B dreams: `these` where bool (B,) is true, `others` elsewhere; tensors (B, ...), or
    states made of such. What is not a tensor, a number of frames, say, is the others'.

    Raises WorkshopError where their pasts are of different lengths.
    """
    if isinstance(these, Tensor):
        if these.shape != others.shape:
            raise WorkshopError(
                f"a level cannot begin anew in one of several dreams: its prompt has"
                f" {these.shape[1]} frames that count, the dreams have {others.shape[1]}; give a"
                f" longer prompt"
            )
        chosen = some.view(-1, *[1] * (these.ndim - 1)).to(these.device)
        return torch.where(chosen, these, others)
    changed = {
        field.name: rows(some, getattr(these, field.name), getattr(others, field.name))
        for field in fields(others)
        if isinstance(getattr(others, field.name), Tensor)
    }
    return replace(others, **changed)
