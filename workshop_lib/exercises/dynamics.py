"""Exercises of notebook 04: hiding tokens, and a past that is not quite right. Its others are in
dynamics_unmasking.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError, short
from workshop_lib.exercises.tokenizer import Attempt, tensor_of

if TYPE_CHECKING:
    import torch


def hide_tokens(
    tokens: torch.Tensor, masked: torch.Tensor, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model sees of tokens (B, h, w), and what it is asked: the tokens where `masked`
    (bool) is True, -100 elsewhere. Both int64 (B, h, w)."""
    seen = tokens.masked_fill(masked, mask_id)
    targets = tokens.masked_fill(~masked, -100)
    return seen, targets


def spoil(past: torch.Tensor, share: float, num_codes: int) -> torch.Tensor:
    """The past int64 (B, T, h, w), where about that share of tokens is any other code."""
    import torch

    hit = torch.rand(past.shape) < share
    other = torch.randint(num_codes, past.shape)
    return torch.where(hit, other, past)


def _test_hide_tokens(attempt: Attempt) -> None:
    import torch

    tokens = torch.tensor([[[3, 0], [7, 1]], [[5, 5], [0, 6]]])
    masked = torch.tensor([[[True, False], [False, True]], [[False, True], [True, True]]])
    given = f"tokens = {_flat(tokens)}, masked = {short(masked.flatten().int().tolist())}, "
    given += "mask_id = 8 (each flattened)"
    mine = tokens.clone()
    returned = attempt(mine, masked.clone(), 8)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise MistakeError("It must return two things: what is seen, and the targets.", given)
    seen = tensor_of(returned[0], "What is seen", tokens.shape, given)
    targets = tensor_of(returned[1], "The targets", tokens.shape, given)
    wanted_seen, wanted = hide_tokens(tokens, masked, 8)
    shown = {"expected": f"seen {_flat(wanted_seen)}", "got": f"seen {_flat(seen)}"}
    if torch.equal(seen, tokens.masked_fill(~masked, 8)):
        raise MistakeError("The wrong way round: `masked` is True where it hides.", given, **shown)
    if not torch.equal(seen, wanted_seen):
        hides = torch.equal(seen[~masked], tokens[~masked])
        raise MistakeError(
            "The mask has a number of its own, mask_id. Any other number is a code, and the model "
            "could not tell a mask from it."
            if hides
            else "Where `masked` is False, the tokens must be seen as they are.",
            given,
            **shown,
        )
    shown = {"expected": f"targets {_flat(wanted)}", "got": f"targets {_flat(targets)}"}
    _test_targets(targets, tokens, masked, given, shown)
    if not torch.equal(mine, tokens):
        raise MistakeError(
            "It changes the tokens that it was given, and the next use of them finds masks in the "
            "data. `masked_fill` (without the underscore) makes a copy.",
            given,
        )


def _test_targets(
    targets: torch.Tensor,
    tokens: torch.Tensor,
    masked: torch.Tensor,
    given: str,
    shown: dict[str, str],
) -> None:
    import torch

    if torch.equal(targets, tokens):
        raise MistakeError(
            "It is asked about all tokens. Most of the answers it would just read off: ask only "
            "where they are hidden, and put -100 elsewhere.",
            given,
            **shown,
        )
    if (targets[masked] == 8).all():
        raise MistakeError(
            "The targets say 'mask' where something is masked. What the model shall find is the "
            "token as it was: take the targets from the tokens, not from what is seen.",
            given,
            **shown,
        )
    if (targets[masked] == -100).all():
        raise MistakeError(
            "The targets are asked where nothing is hidden, and not where it is. -100 means "
            "'not asked'.",
            given,
            **shown,
        )
    if not torch.equal(targets, tokens.masked_fill(~masked, -100)):
        raise MistakeError("The targets are off.", given, **shown)


def _test_spoil(attempt: Attempt) -> None:
    import torch

    codes, share = 40, 0.25
    tokens = torch.randint(codes, (6, 3, 20, 20), generator=torch.Generator().manual_seed(1))
    given = f"tokens of shape {tuple(tokens.shape)}, share = {share}, num_codes = {codes}"
    mine = tokens.clone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = tensor_of(attempt(mine, share, codes), "The result", tokens.shape, given)
    changed = result != tokens
    part = changed.float().mean().item()
    shown = {"expected": f"about {share:.0%} changed", "got": f"{part:.0%} changed"}
    if not torch.equal(mine, tokens):
        raise MistakeError("It changes the past that it was given: return a new tensor.", given)
    if not changed.any():
        raise MistakeError("Nothing has changed.", given, **shown)
    values = result[changed]
    if (values == codes).float().mean() > 0.5:
        raise MistakeError(
            "These are masks. A mask says 'nobody knows'; but a mistake looks like any other "
            "token, and that is what the model must learn to bear with.",
            given,
        )
    if values.min() < 0 or values.max() >= codes:
        raise MistakeError(
            "Some codes do not exist: they are 0 to num_codes - 1, and num_codes is the mask.",
            given,
            f"0 to {codes - 1}",
            f"{int(values.min())} to {int(values.max())}",
        )
    _test_codes(values, given)
    places = changed.flatten(0, 1)  # frames, h, w
    if (places.float().mean(dim=(1, 2)) > 0.9).any() and part < 0.9:
        raise MistakeError(
            "Whole frames are random and others untouched: draw for each token.", given
        )
    if not 0.2 < part < 0.3:
        message = "The rest is random, and the share is kept." if 0.7 < part < 0.8 else ""
        raise MistakeError(message or "Another share of the tokens is random.", given, **shown)
    # Each of two frames changes a quarter of its places; both a sixteenth, if drawn apart.
    if (places[0] & places[1]).float().mean() > 0.15:
        raise MistakeError(
            "The same places are hit in different frames: draw for each token of each frame "
            "(`past.shape`).",
            given,
        )


def _test_codes(values: torch.Tensor, given: str) -> None:
    """values: the tokens that are new, (n,)."""
    found = len(set(values.tolist()))
    if found == 1:
        raise MistakeError("Every changed token has the same code: draw one for each.", given)
    if found < 10:
        raise MistakeError("Only a few codes come up: any of them may.", given)


def _flat(tokens: torch.Tensor) -> str:
    return short(tokens.flatten().tolist())


EXERCISES = (
    Exercise(
        hide_tokens,
        _test_hide_tokens,
        (
            "`tokens.masked_fill(where, value)` gives a copy of tokens that has the value "
            "wherever `where` is True.",
            "What is seen has mask_id where `masked`. The targets have -100 where not masked: "
            "`~masked`.",
            "Both are made from `tokens`: `seen = tokens.masked_fill(masked, mask_id)`, and the "
            "targets likewise.",
        ),
    ),
    Exercise(
        spoil,
        _test_spoil,
        (
            "Two draws for each token: is it hit, and which code does it get then?",
            "`torch.rand(past.shape) < share` is True in that share of the places; "
            "`torch.randint(num_codes, past.shape)` is a random code for each.",
            "`torch.where(hit, other, past)` takes the one or the other.",
        ),
    ),
)
