"""The exercises of notebook 01: pairing frames with actions, clips, splits, and a player."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workshop_lib.data.actions import (
    HORIZONTAL,
    MERGED_NAMES,
    NOTHING,
    NUM_ACTIONS,
    VERTICAL,
    merge_actions,
)
from workshop_lib.exercises.exercise import Exercise, MistakeError, short


def align(frames: np.ndarray, actions: np.ndarray) -> list:
    """Every transition of an episode, as a list of (frame before, action, frame after)."""
    return [(frames[t], actions[t], frames[t + 1]) for t in range(len(frames) - 1)]


def clip_starts(lengths: list[int], clip_length: int) -> list[tuple[int, int]]:
    """Every place where a clip fits into an episode, as a list of (episode, first frame)."""
    return [
        (episode, start)
        for episode, length in enumerate(lengths)
        for start in range(length - clip_length + 1)
    ]


def split_levels(levels: list[int], val: float, test: float) -> list[str]:
    """For each episode "train", "val" or "test", so that no level is in two of them."""
    unique = sorted(set(levels))
    num_val, num_test = round(val * len(unique)), round(test * len(unique))
    names = ["val"] * num_val + ["test"] * num_test
    names += ["train"] * (len(unique) - len(names))
    set_of = dict(zip(unique, names, strict=True))
    return [set_of[level] for level in levels]


def policy(last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The next action of each game: mostly the same keys again, else new ones, often RIGHT."""
    keys = [1, 2, 4, 5, 7, 8]  # left, left-jump, nothing, jump, right, right-jump
    new = rng.choice(keys, size=last.shape, p=[0.1, 0.1, 0.1, 0.1, 0.3, 0.3])
    return np.where(rng.random(last.shape) < 0.8, last, new)


Attempt = Callable[..., Any]


def _test_align(attempt: Attempt) -> None:
    frames, actions = [10, 20, 30, 40, 50], [7, 8, 1, 4, 5]
    returned = attempt(np.array(frames), np.array(actions))
    expected = align(np.array(frames), np.array(actions))
    example = {
        "given": f"frames = {frames}, actions = {actions}",
        "expected": short(expected),
        "got": short(returned),
    }
    if isinstance(returned, tuple) and len(returned) == 3 and np.size(returned[0]) > 1:
        raise MistakeError(
            "This is a triple of lists; what is wanted is a list of triples. `zip(...)` turns one "
            "into the other.",
            **example,
        )
    result = [tuple(np.asarray(part).item() for part in item) for item in returned]
    for item in result:
        if item not in expected:
            raise MistakeError(_wrong_triple(item, frames, actions), **example)
    if result != expected:
        raise MistakeError(
            f"{len(frames)} frames have {len(expected)} transitions between them, in order of "
            f"time; you have {len(result)}.",
            **example,
        )
    _test_align_on_pictures(attempt)


def _wrong_triple(item: tuple, frames: list[int], actions: list[int]) -> str:
    """What is wrong with one (before, action, after)."""
    shown = short(item)
    if len(item) != 3 or item[0] not in frames or item[1] not in actions or item[2] not in frames:
        return f"{shown} is not of the form (frame before, action, frame after)."
    before, after = frames.index(item[0]), frames.index(item[2])
    if after != before + 1:
        return f"In {shown} the second frame is not the one that came right after the first."
    shift = actions.index(item[1]) - before
    why = "`actions[t]` is pressed AFTER frame t was seen, and leads to frame t+1"
    if shift == 1:
        return f"{shown} has the action of one frame too late: {why}."
    if shift == -1:
        return f"{shown} has the action of one frame too early: {why}."
    return f"{shown} has an action from somewhere else: {why}."


def _test_align_on_pictures(attempt: Attempt) -> None:
    """The same with real shapes, where frames are arrays."""
    frames = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    for result, t in zip(attempt(frames, np.array([4, 7, 4])), range(2), strict=True):
        if not (np.array_equal(result[0], frames[t]) and np.array_equal(result[2], frames[t + 1])):
            raise MistakeError(
                "It works for numbers, but not for real frames: each is a picture (H, W, 3).",
                given="frames of shape (3, 2, 2, 3)",
            )


def _test_clip_starts(attempt: Attempt) -> None:
    lengths, T = [5, 2, 3], 3
    expected = clip_starts(lengths, T)
    result = [(int(episode), int(start)) for episode, start in attempt(lengths, T)]
    example = {
        "given": f"lengths = {lengths}, clip_length = {T}",
        "expected": short(expected),
        "got": short(result),
    }
    for episode, start in result:
        if not (0 <= episode < len(lengths) and start >= 0):
            raise MistakeError(f"There is no frame {start} of episode {episode}.", **example)
        if start + T > lengths[episode]:
            raise MistakeError(
                f"The clip that begins at frame {start} of episode {episode} needs frames up to "
                f"{start + T - 1}, but the episode ends with frame {lengths[episode] - 1}: the "
                f"rest would come from another episode.",
                **example,
            )
    missing = [place for place in expected if place not in result]
    if missing == [(0, 2), (2, 0)]:
        raise MistakeError(
            "The last clip of each episode is missing: an episode of exactly clip_length frames "
            "has one clip, not none.",
            **example,
        )
    if missing:
        raise MistakeError(
            f"{missing[0]} is missing. Clips may overlap: one begins at every frame that has "
            f"enough frames after it.",
            **example,
        )
    if len(result) != len(expected):
        raise MistakeError("Some place is there twice: it would be drawn too often.", **example)
    if len(list(attempt([2, 9], 4))) != len(clip_starts([2, 9], 4)):
        given = "lengths = [2, 9], clip_length = 4"
        raise MistakeError("It is right for the example above, but not for this one.", given)


def _test_split_levels(attempt: Attempt) -> None:
    # 20 levels, each played three times, and not in order
    levels = np.random.default_rng(0).permutation(np.repeat(np.arange(100, 120), 3)).tolist()
    result = [str(name) for name in attempt(levels, 0.2, 0.1)]
    given = f"levels = [{', '.join(map(str, levels[:6]))}, ...], val = 0.2, test = 0.1"
    got = f"[{', '.join(result[:6])}, ...]"
    if len(result) != len(levels):
        raise MistakeError(
            f"It needs one name for each episode: {len(levels)}, not {len(result)}.", given, got=got
        )
    unknown = [name for name in result if name not in ("train", "val", "test")]
    if unknown:
        raise MistakeError(f'"{unknown[0]}" is not "train", "val" or "test".', given, got=got)
    sets: dict[int, set[str]] = {}
    for level, name in zip(levels, result, strict=True):
        sets.setdefault(level, set()).add(name)
    for level, names in sorted(sets.items()):
        if len(names) > 1:
            raise MistakeError(
                f"Level {level} leaks: its episodes are in {' and '.join(sorted(names))}. Decide "
                f"for the level, not for the episode.",
                given,
                expected="one set for each level",
                got=f"{sum(len(names) > 1 for names in sets.values())} of {len(sets)} levels leak",
            )
    count = {name: sum(names == {name} for names in sets.values()) for name in ("val", "test")}
    wanted = {"val": round(0.2 * len(sets)), "test": round(0.1 * len(sets))}
    for name, number in wanted.items():
        if abs(count[name] - number) > 1:
            raise MistakeError(
                f"{name} has the wrong share of the levels.",
                given,
                expected=f"about {number} of {len(sets)} levels in {name}",
                got=f"{count[name]}",
            )


GAMES, STEPS, STAIR, FARTHER = 64, 400, 8, 3


def _test_policy(attempt: Attempt) -> None:
    pressed = _play_stairs(attempt)
    shares = np.bincount(merge_actions(pressed).reshape(-1), minlength=6) / pressed.size
    for name, share in zip(MERGED_NAMES, shares, strict=True):
        if share < 0.01:
            raise MistakeError(
                f"It hardly ever presses {name}. What is not in the data no model can learn: "
                f"every one of {', '.join(MERGED_NAMES)} should be there.",
                expected=f"{name} in 1% of the frames or more",
                got=f"{100 * share:.1f}%",
            )
    if (pressed == pressed[:, :1]).all():
        raise MistakeError(
            "All games press the same key at the same time. Draw for each game: the random "
            "functions of rng take `size=last.shape`."
        )
    random = np.random.default_rng(0).integers(0, NUM_ACTIONS, pressed.shape)
    mine, uniform = _distance(pressed), _distance(random)
    if mine < FARTHER * uniform:
        raise MistakeError(
            "It does not get far: a key must be held for a while, and RIGHT pressed more often "
            f"than LEFT. Measured on stairs, one step every {STAIR} fields, in {STEPS} frames.",
            expected=f"{FARTHER * uniform:.0f} fields, {FARTHER} times what uniform play reaches",
            got=f"{mine:.0f} fields",
        )


def _play_stairs(press: Attempt) -> np.ndarray:
    """What a policy presses: int (STEPS, GAMES)."""
    rng = np.random.default_rng(0)
    last = np.full(GAMES, NOTHING)
    pressed = []
    for _ in range(STEPS):
        chosen = np.asarray(press(last, rng))
        if chosen.shape != last.shape or chosen.dtype.kind not in "iu":
            raise MistakeError(
                "It must return one whole number for each game, in an array like `last`.",
                given=f"last of shape {last.shape}, {last.dtype}",
                expected=f"an array of shape {last.shape} of whole numbers",
                got=f"{chosen.dtype} of shape {chosen.shape}",
            )
        if chosen.min() < 0 or chosen.max() >= NUM_ACTIONS:
            wrong = f"{chosen.min() if chosen.min() < 0 else chosen.max()}"
            raise MistakeError(f"Actions run from 0 to {NUM_ACTIONS - 1}.", got=wrong)
        last = chosen
        pressed.append(chosen)
    return np.stack(pressed)


def _distance(pressed: np.ndarray) -> float:
    """How far players get on stairs, on average: a stand-in for the game that is always here.

    LEFT and RIGHT move by one field; the step up at every STAIR-th field needs a jump.
    """
    place = furthest = np.zeros(pressed.shape[1], dtype=np.int64)
    for actions in pressed:
        to = np.maximum(place + HORIZONTAL[actions], 0)
        blocked = (to > place) & (to % STAIR == 0) & (VERTICAL[actions] != 1)
        place = np.where(blocked, place, to)
        furthest = np.maximum(furthest, place)
    return float(furthest.mean())


EXERCISES = (
    Exercise(
        align,
        _test_align,
        (
            "How many transitions are there between 5 frames? Write them down for frames 0 to 4.",
            "`actions[t]` is pressed after frame t was seen, and frame t+1 is what came of it. So "
            "three things belong together: `frames[t]`, `actions[t]` and `frames[t + 1]`.",
            "A list comprehension does it: `[(..., ..., ...) for t in range(len(frames) - 1)]`.",
        ),
    ),
    Exercise(
        policy,
        _test_policy,
        (
            "Two things keep uniform play near the start: it presses LEFT as often as RIGHT, and "
            "it lets go of a key after one frame. Change both.",
            "Hold keys by chance: in each frame, keep `last` with probability 0.8 or so, which "
            "`np.where(rng.random(last.shape) < 0.8, last, new)` does for all games at once.",
            "Draw `new` with `rng.choice([1, 2, 4, 5, 7, 8], size=last.shape, p=[...])`, where p "
            "gives right (7) and right-jump (8) more than the others, but none of them 0.",
        ),
    ),
    Exercise(
        clip_starts,
        _test_clip_starts,
        (
            "How many clips of 3 frames fit into an episode of 5 frames? Of 3? Of 2?",
            "In an episode of `length` frames the last clip begins at `length - clip_length`, and "
            "that start counts, too.",
            "Two loops: `for episode, length in enumerate(lengths)`, and within it "
            "`for start in range(length - clip_length + 1)`.",
        ),
    ),
    Exercise(
        split_levels,
        _test_split_levels,
        (
            "First list the different levels, then decide for each level, and only then look up "
            "each episode.",
            "`sorted(set(levels))` gives each level once. Give the first few to val, the next to "
            "test, the rest to train; `round(val * len(unique))` says how many.",
            "Keep the decision in a dictionary from level to name; the answer is "
            "`[set_of[level] for level in levels]`.",
        ),
    ),
)
