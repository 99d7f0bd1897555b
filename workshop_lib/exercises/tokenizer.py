"""The exercises of notebook 02: patches, the three steps of quantizing, and PSNR."""

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


def nearest_code(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """For each of vectors (n, D) the number of the nearest code of codebook (K, D): int64 (n,)."""
    distance = (vectors[:, None] - codebook[None]).square().sum(dim=-1)  # (n, K)
    return distance.argmin(dim=1)


def straight_through(q: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Forward the values of q, backward the gradient of u."""
    return u + (q - u).detach()


def fsq(u: torch.Tensor, levels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """u (n, D) to digits (n, D), channel i from 0 to levels[i] - 1, and tokens (n,)."""
    places = [math.prod(levels[:i]) for i in range(len(levels))]  # 1, L0, L0 * L1, ...
    share = (u.tanh() + 1) / 2  # 0 to 1
    digits = (share * (u.new_tensor(levels) - 1)).round().long()
    return digits, (digits * digits.new_tensor(places)).sum(dim=-1)


def psnr(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """uint8 frames (N, H, W, C) and what they should be: decibels, float (N,)."""
    error = (frames.float() - target.float()).square().mean(dim=(1, 2, 3))
    return 10 * (255**2 / error.clamp_min(1e-6)).log10()


def _tensor(value: Any, kind: str, shape: Sequence[int], given: str) -> torch.Tensor:
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


def _rounded(values: torch.Tensor) -> str:
    return short([round(float(v), 3) for v in values.detach().flatten()[:12]])


def _test_patchify(attempt: Attempt) -> None:
    import torch

    frames = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    given = "two frames of 4 by 6 pixels and 3 colors, size = 2"
    result = _tensor(attempt(frames.clone(), 2), "The result", (2, 6, 12), given)
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
    shown = {"expected": _rounded(expected[0, 1]), "got": _rounded(result[0, 1])}
    for message, wrong in known.items():
        if torch.equal(result, wrong):
            raise MistakeError(message, f"{given}; the second patch:", **shown)
    raise MistakeError(
        "Some pixels end up in the wrong patch, or in the wrong order.",
        f"{given}; the second patch:",
        **shown,
    )


def _test_nearest_code(attempt: Attempt) -> None:
    import torch

    vectors = torch.tensor([[0.9, 0.1], [0.0, 2.9], [-2.0, 0.0], [0.2, 0.0]])
    codebook = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
    given = f"vectors = {short(vectors.tolist())}, codebook = {short(codebook.tolist())}"
    result = attempt(vectors.clone(), codebook.clone())
    distance = (vectors[:, None] - codebook[None]).square().sum(dim=-1)
    if isinstance(result, torch.Tensor) and result.shape == (3,):
        raise MistakeError(
            "It gives one answer for each code. The question is asked by the vectors: for each of "
            "them, which code? Take the minimum over the other axis.",
            given,
            "4 numbers",
            "3 numbers",
        )
    result = _tensor(result, "The result", (4,), given)
    shown = {"expected": short(nearest_code(vectors, codebook).tolist()), "got": _rounded(result)}
    if result.dtype.is_floating_point:
        raise MistakeError(
            "These are distances; what is wanted is the number of the code (argmin, not min).",
            given,
            **shown,
        )
    if torch.equal(result, distance.argmax(dim=1)):
        raise MistakeError("That is the farthest code, not the nearest.", given, **shown)
    if not torch.equal(result, nearest_code(vectors, codebook)):
        raise MistakeError("Some vectors get another code than the nearest.", given, **shown)
    _test_nearest_long_codes(attempt)


def _test_nearest_long_codes(attempt: Attempt) -> None:
    """Where other measures than the squared distance choose another code."""
    import torch

    cases = (
        ([[1.0, 0.2]], [[1.0, 0.0], [4.0, 4.0]], 0, "A long code wins because it is long: the "
         "largest product is not the smallest distance."),
        ([[0.0, 0.0]], [[2.0, 2.0], [3.0, 0.0]], 0, "Distance is straight: the root of the sum of "
         "squares. This sums absolute values."),
        ([[3.0, 0.0]], [[1.0, 0.0], [3.0, 0.5]], 1, "Directions alone do not tell: codes also "
         "have a length."),
    )  # fmt: skip
    for vectors, codebook, expected, message in cases:
        result = attempt(torch.tensor(vectors), torch.tensor(codebook))
        if int(result[0]) != expected:
            given = f"vectors = {vectors}, codebook = {codebook}"
            raise MistakeError(message, given, f"[{expected}]", short(result.tolist()))


def _test_straight_through(attempt: Attempt) -> None:
    import torch

    u = torch.tensor([0.3, -1.4, 2.2], requires_grad=True)
    table = torch.tensor([0.0, -1.0, 2.0], requires_grad=True)  # q may have a gradient, too
    result = _tensor(attempt(table * 1.0, u), "The result", (3,), "u = [0.3, -1.4, 2.2]")
    given = "q = [0, -1, 2], u = [0.3, -1.4, 2.2]"
    if not torch.allclose(result, table):
        raise MistakeError(
            "Forward, the values must be those of q.", given, "[0, -1, 2]", _rounded(result)
        )
    weights = torch.tensor([1.0, 10.0, 100.0])
    if result.requires_grad:
        (result * weights).sum().backward()
    to_u = torch.zeros(3) if u.grad is None else u.grad
    to_q = torch.zeros(3) if table.grad is None else table.grad
    if not to_u.any() and not to_q.any():
        raise MistakeError(
            "No gradient gets through at all: too much is detached.",
            given,
            "gradient [1, 10, 100] to u",
            "none",
        )
    if not torch.allclose(to_u, weights):
        raise MistakeError(
            "Backward, u must get exactly the gradient that arrives. Detach what should not be "
            "seen by backward.",
            given,
            "[1, 10, 100]",
            _rounded(to_u),
        )
    if to_q.any():
        raise MistakeError(
            "u gets its gradient, but q gets one as well: detach q, too.",
            given,
            "no gradient to q",
            _rounded(to_q),
        )


def _test_fsq(attempt: Attempt) -> None:
    import torch

    u = torch.tensor([[-9.0, -9.0], [9.0, 9.0], [0.1, -0.2], [0.6, 9.0], [0.6, -9.0]])
    levels = [5, 3]
    given = f"u = {short([[round(v, 1) for v in row] for row in u.tolist()])}, levels = {levels}"
    returned = attempt(u.clone(), levels)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise MistakeError("It must return two things: digits and tokens.", given)
    digits = _tensor(returned[0], "digits", (5, 2), given)
    tokens = _tensor(returned[1], "tokens", (5,), given)
    wanted, numbers = fsq(u, levels)
    shown = {"expected": f"digits {short(wanted.tolist())}", "got": f"{short(digits.tolist())}"}
    top = digits.amax(dim=0).tolist()
    if digits.min() < 0:
        raise MistakeError(
            "Digits begin at 0. tanh runs from -1 to 1: bring it to 0 to 1 first.", given, **shown
        )
    if top == levels:
        raise MistakeError(
            "One level too many: L levels are the digits 0 to L - 1.", given, **shown
        )
    if top[0] > levels[0] or top[1] > levels[1]:
        raise MistakeError(
            "Digits run over the last level: large numbers must be bounded, by tanh.",
            given,
            **shown,
        )
    if torch.equal(digits.long(), ((u.tanh() + 1) / 2 * (u.new_tensor(levels) - 1)).long()):
        raise MistakeError("Round to the nearest level; this always rounds down.", given, **shown)
    if not torch.allclose(digits.float(), wanted.float()):
        raise MistakeError("These are not the nearest levels of tanh(u).", given, **shown)
    shown = {"expected": f"tokens {numbers.tolist()}", "got": f"{tokens.tolist()}"}
    if len(set(tokens.tolist())) < len(set(numbers.tolist())):
        raise MistakeError(
            "Two different codes get the same token. Count as with digits of a number: each step "
            "of the second channel is worth levels[0] steps of the first.",
            given,
            **shown,
        )
    if not torch.equal(tokens.long(), numbers):
        raise MistakeError(
            "Every code has a token of its own, but not the one agreed upon: the first channel "
            "counts 1, the second levels[0], the third levels[0] * levels[1].",
            given,
            **shown,
        )
    if tokens.dtype.is_floating_point:
        raise MistakeError("Tokens are whole numbers: use `.long()`.", given)


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
    result = _tensor(result, "The result", (2,), given).float()
    shown = {"expected": _rounded(expected), "got": _rounded(result)}
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
        nearest_code,
        _test_nearest_code,
        (
            "First make a table of all distances, one row for each vector, one column for each "
            "code; then find the smallest in each row.",
            "`vectors[:, None] - codebook[None]` has the shape (n, K, D): every difference.",
            "Square, sum over the last axis, and take `.argmin(dim=1)`.",
        ),
    ),
    Exercise(
        straight_through,
        _test_straight_through,
        (
            "`x.detach()` has the values of x, but backward sees it as a constant. Which part "
            "should be a constant here?",
            "Start from u, which is to get the gradient, and add something constant that makes the "
            "sum equal to q.",
            "What must be added to u to get q? `q - u`. Detach that.",
        ),
    ),
    Exercise(
        fsq,
        _test_fsq,
        (
            "Three steps: bound u with tanh (-1 to 1), stretch that to 0 to L - 1, round.",
            "`(u.tanh() + 1) / 2` lies between 0 and 1. Times `torch.tensor(levels) - 1`, rounded, "
            "as `.long()`: those are the digits.",
            "The token of digits (a, b, c) is `a + levels[0] * b + levels[0] * levels[1] * c`; "
            "`math.prod(levels[:i])` is what channel i counts.",
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
