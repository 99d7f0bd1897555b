"""Exercises of notebook 02: patches, and PSNR. Its others are in tokenizer_quantizing.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workshop_lib.exercises.exercise import Exercise, MistakeError, short

if TYPE_CHECKING:
    import torch

Attempt = Callable[..., Any]


def patchify(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Frames (B, H, W, C) as patches (B, N, size * size * C), in reading order."""
    B, H, W, C = frames.shape
    x = frames.reshape(B, H // size, size, W // size, size, C)  # row, within, column, within
    x = x.permute(0, 1, 3, 2, 4, 5)  # row, column, within, within
    return x.reshape(B, (H // size) * (W // size), size * size * C)


def psnr(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """uint8 frames (N, H, W, C) and what they should be: decibels, float (N,)."""
    error = (frames.float() - target.float()).square().mean(dim=(1, 2, 3))
    return 10 * (255**2 / error.clamp_min(1e-6)).log10()


def tensor_of(value: Any, kind: str, shape: Sequence[int], given: str) -> torch.Tensor:
    """What an attempt returned, if it is a tensor of that shape."""
    import torch

    if not isinstance(value, torch.Tensor):
        name = type(value).__name__
        raise MistakeError(f"{kind} must be a torch tensor, not a {name}.", given, got=short(value))
    if tuple(value.shape) != tuple(shape):
        raise MistakeError(
            f"{kind} has the wrong shape.", given, f"shape {tuple(shape)}", f"{tuple(value.shape)}"
        )
    return value


def rounded(values: torch.Tensor) -> str:
    return short([round(float(v), 3) for v in values.detach().flatten()[:12]])


def _test_patchify(attempt: Attempt) -> None:
    import torch

    frames = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    given = "two frames of 4 by 6 pixels and 3 colors, size = 2"
    result = tensor_of(attempt(frames.clone(), 2), "The result", (2, 6, 12), given)
    expected = patchify(frames, 2)
    if torch.equal(result, expected):
        return
    pixel = expected.reshape(2, 2, 3, 2, 2, 3)  # B, row, column, y, x, C
    known = {
        "Only the shape is right: this cuts every frame into strips of one pixel's height. A "
        "patch is a square: split H and W first, then bring the axes in order.": frames.reshape(
            2, 6, 12
        ),
        "The patches go down the columns first. Reading order is along the rows.": pixel.transpose(
            1, 2
        ).reshape(2, 6, 12),
        "Each patch is transposed: within it, rows come before columns.": pixel.transpose(
            3, 4
        ).reshape(2, 6, 12),
        "Within a patch the colors come first. They come last: the three numbers of one pixel "
        "stay together.": pixel.movedim(-1, 3).reshape(2, 6, 12),
    }
    shown = {"expected": rounded(expected[0, 1]), "got": rounded(result[0, 1])}
    for message, wrong in known.items():
        if torch.equal(result, wrong):
            raise MistakeError(message, f"{given}; the second patch:", **shown)
    raise MistakeError(
        "Some pixels end up in the wrong patch, or in the wrong order.",
        f"{given}; the second patch:",
        **shown,
    )


def _test_psnr(attempt: Attempt) -> None:
    import torch

    target = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    frames = target.clone()
    frames[0] -= 10  # everywhere 10 too dark
    frames[1, 0, 0] = 255  # one pixel wrong
    given = "frame 0 is everywhere 90 for 100; in frame 1 one pixel of 16 is 255 for 100"
    expected = psnr(frames, target)
    result = attempt(frames.clone(), target.clone())
    if getattr(result, "shape", None) == ():
        raise MistakeError("One number for all: take the mean over each frame only.", given)
    result = tensor_of(result, "The result", (2,), given).float()
    shown = {"expected": rounded(expected), "got": rounded(result)}
    if torch.allclose(result, expected, atol=0.01):
        return
    wrapped = (frames - target).float().square().mean(dim=(1, 2, 3))
    in_bytes = (frames - target).square().float().mean(dim=(1, 2, 3))
    known = {
        "uint8 cannot go below 0: 90 - 100 becomes 246. Make both `.float()` first.": [
            10 * torch.log10(255**2 / error.clamp_min(1e-6)) for error in (wrapped, in_bytes)
        ],
        "That is the natural logarithm; decibels use the one to base 10.": [
            expected * math.log(10)
        ],
        "The wrong way round: a smaller error must give more decibels.": [-expected],
        "Decibels are 10 times the logarithm of a ratio of squares (20 times without squares).": [
            2 * expected,
            expected / 2,
        ],
        "The highest value of a pixel is 255, and it is squared like the error.": [
            expected - 10 * math.log10(255**2),
            expected - 10 * math.log10(255),
        ],
    }
    for message, wrongs in known.items():
        if any(torch.allclose(result, wrong, atol=0.05) for wrong in wrongs):
            raise MistakeError(message, given, **shown)
    raise MistakeError("The decibels are off.", given, **shown)


EXERCISES = (
    Exercise(
        patchify,
        _test_patchify,
        (
            "Split each of the two long axes in two: H is (rows of patches, pixels within), and W "
            "likewise. `reshape` does that without moving a single number.",
            "After `frames.reshape(B, H // size, size, W // size, size, C)` the axes are: frame, "
            "row, y within, column, x within, color. Which order do you want?",
            "`.permute(0, 1, 3, 2, 4, 5)` brings row and column together; then reshape to "
            "(B, number of patches, size * size * C).",
        ),
    ),
    Exercise(
        psnr,
        _test_psnr,
        (
            "First the mean squared error of each frame, over height, width and color.",
            "Pixels are uint8: make them `.float()` before you subtract. `.mean(dim=(1, 2, 3))` "
            "leaves one number per frame.",
            "`10 * torch.log10(255**2 / error)`; `error.clamp_min(1e-6)` spares you a division by "
            "zero where both are equal.",
        ),
    ),
)
