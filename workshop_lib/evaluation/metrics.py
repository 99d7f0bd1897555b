"""What all evaluations measure with: pictures against pictures, means with their intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BEST_PSNR = 60.0  # dB; what rounding to 8 bits costs at most, so beyond it pictures are the same
Z = 1.96  # standard errors on each side hold 95%


@dataclass(frozen=True)
class Score:
    """The mean of a quantity over clips, and half the width of its 95% confidence interval."""

    mean: float
    interval: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.interval:.2f}"


@dataclass(frozen=True)
class Share:
    """A share of clips, 0 to 1, and its 95% confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}% ({100 * self.low:.0f} to {100 * self.high:.0f})"


def score(values: Sequence[float] | Tensor) -> Score:
    """Mean and half a 95% interval, by the normal approximation over independent clips."""
    array = np.array(values, dtype=np.float64)
    spread = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float("nan")
    return Score(float(array.mean()), float(Z * spread))


def share(values: Sequence[float] | Tensor) -> Share:
    """The mean of values in 0..1, one for each independent clip, with Wilson's score interval.

    Wilson (1927): unlike the normal approximation it is honest at 0 and 100%. Values in between
    (two answers averaged) vary less than yes and no, so that for them it is a little too wide.
    """
    array = np.array(values, dtype=np.float64)
    n, p = len(array), float(array.mean()) if len(array) else float("nan")
    if n == 0:
        return Share(p, 0.0, 1.0)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Share(p, max(0.0, middle - half), min(1.0, middle + half))


def ratio(above: Sequence[float] | Tensor, below: Sequence[float] | Tensor) -> Score:
    """The sum of one quantity over the sum of another, with the interval over independent clips.

    The interval is the delta method's: what is left of `above` when `below` times the ratio is
    taken off varies as the ratio does.
    """
    a, b = np.array(above, dtype=np.float64), np.array(below, dtype=np.float64)
    if b.sum() == 0:
        return Score(float("nan"), float("nan"))
    quotient = a.sum() / b.sum()
    return Score(float(quotient), score((a - quotient * b) / b.mean()).interval)


def squared_error(frames: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of each picture, colors from 0 to 1.

    Both uint8 (..., H, W, C); float (...). So for all below.
    """
    return (frames.float() - real.float()).div(255).square().mean(dim=(-3, -2, -1))


def psnr(frames: Tensor, real: Tensor) -> Tensor:
    """dB, at most 60: a copy of a picture that stands still must not outweigh all others."""
    return psnr_of(squared_error(frames, real))


def psnr_of(error: Tensor) -> Tensor:
    """dB of mean squared errors between colors from 0 to 1."""
    return (-10 * torch.log10(error)).clamp(max=BEST_PSNR)


def ssim(frames: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), -1 to 1."""
    leading = frames.shape[:-3]
    a, b = (x.reshape(-1, *x.shape[-3:]).movedim(-1, 1).float() / 255 for x in (frames, real))
    return _similarity(a, b).view(leading)


def sharpness(frames: Tensor) -> Tensor:
    """Mean size of the Laplacian (a pixel against its four neighbors) in levels of gray, 0 to 255.

    It falls as pictures blur and rises as they turn to noise.
    """
    gray = frames.float().mean(dim=-1)
    inner = gray[..., 1:-1, 1:-1]
    across = gray[..., 1:-1, :-2] + gray[..., 1:-1, 2:]
    down = gray[..., :-2, 1:-1] + gray[..., 2:, 1:-1]
    return ((across + down) / 4 - inner).abs().mean(dim=(-2, -1))


def edges(frames: Tensor) -> Tensor:
    """How strong the strongest edges are: the step of color from a pixel to the one on its right
    or below it that one pixel in a hundred exceeds, in levels of 0 to 255.

    Games are drawn with hard edges. A mist may have as much texture as a level, but it has none.
    """
    video = frames.float()
    across = (video[..., :-1, 1:, :] - video[..., :-1, :-1, :]).abs().mean(dim=-1)
    down = (video[..., 1:, :-1, :] - video[..., :-1, :-1, :]).abs().mean(dim=-1)
    return torch.maximum(across, down).flatten(-2).quantile(0.99, dim=-1)


def contrast(frames: Tensor) -> Tensor:
    """Standard deviation of a picture's colors, in levels from 0 to 255; 0 is a flat picture."""
    return frames.float().flatten(-3).std(dim=-1)


def write_json(path: Path, report: Any) -> None:
    """A report, which is a dataclass, as JSON; numbers that could not be had (NaN) as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(asdict(report)), indent=2) + "\n")


def psnr_per_clip(video: Tensor, target: Tensor) -> list[float]:
    """dB, each clip's mean over its frames; both float (B, T, C, H, W) in [-1, 1]."""
    error = (video.clamp(-1, 1) - target).square().mean(dim=(-3, -2, -1))
    return (10 * torch.log10(4 / error.clamp_min(1e-10))).mean(dim=1).tolist()


def ssim_per_clip(video: Tensor, target: Tensor) -> list[float]:
    """Structural similarity, each clip's mean over its frames; videos as in `psnr_per_clip`."""
    a, b = ((x.flatten(0, 1).clamp(-1, 1) + 1) / 2 for x in (video, target))
    return _similarity(a, b).unflatten(0, video.shape[:2]).mean(dim=1).tolist()


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of float pictures (N, C, H, W) in [0, 1]: (N,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values: Any = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    return values
