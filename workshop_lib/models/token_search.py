"""Better tokens than the encoder's: a search among their neighbors, with the decoder as the judge.

An encoder rounds every token by itself, but the decoder draws a patch from several: what one token
rounds away a neighbor could make up for. So we ask, token by token, whether one digit more or less
would draw the frame better. Codecs of video choose their coefficients so, too (rate-distortion
optimized quantization), and what an encoder leaves on the table is known as the amortization gap
(Cremer, Li and Duvenaud 2018, "Inference Suboptimality in Variational Autoencoders").

It costs some 45 decodings a frame and sweep, too many for play or for a dataset on a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.clip import frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.nn.quantizers import FSQ

APART = 3  # tokens that are changed at once are so far from each other, down and across
MOVES = 2  # of the most promising moves of a token, so many are drawn and looked at
BATCH = 32  # frames at once


def search_tokens(tokenizer: Tokenizer, frames: Tensor, sweeps: int = 1) -> Tensor:
    """uint8 (B, T, H, W, C) to tokens int64 (B, T, h, w) whose pictures are nearer to the frames.

    sweeps: how often every token is looked at, 1 or more. A frame's mean square error never rises.

    Raises WorkshopError for a tokenizer whose codes have no ordered digits (all but FSQ), and for
    one that looks at several frames at once: a token's own frame must tell whether it is good.
    """
    if not isinstance(tokenizer.quantizer, FSQ) or tokenizer.config.architecture != "conv":
        raise WorkshopError(
            "a search for tokens wants a tokenizer of quantizer fsq and architecture conv, not"
            f" {tokenizer.config.quantizer.kind} and {tokenizer.config.architecture}"
        )
    if sweeps < 1:
        raise WorkshopError(f"a search for tokens takes 1 sweep or more, got {sweeps}")
    tokens = tokenizer.encode(frames)
    parts = zip(tokens.flatten(0, 1).split(BATCH), frames.flatten(0, 1).split(BATCH), strict=True)
    found = [_search(tokenizer, part[:, None], own[:, None], sweeps) for part, own in parts]
    return torch.cat(found).view_as(tokens)


def _search(tokenizer: Tokenizer, tokens: Tensor, frames: Tensor, sweeps: int) -> Tensor:
    """Tokens (B, 1, h, w) for frames (B, 1, H, W, C)."""
    video, best = frames_to_video(frames), tokens
    h, w = tokens.shape[-2:]
    least = torch.full((len(tokens),), torch.inf, device=tokens.device)
    for turn in range(sweeps * APART**2 + 1):
        drawn = _draw(tokenizer, video, tokens)
        better = drawn.error < least
        best = torch.where(better[:, None, None, None], tokens, best)
        least = drawn.error.minimum(least)
        place = turn % APART**2
        asked = torch.zeros(h, w, dtype=torch.bool, device=tokens.device)
        asked[place // APART :: APART, place % APART :: APART] = True
        if turn < sweeps * APART**2:
            tokens = _move(tokenizer, video, tokens, drawn, asked)
    return best


class _Drawn(NamedTuple):
    """near: what each token's surroundings have of the error, (B, 1, h, w). error: all of it, (B,).
    slope: how it changes with each number of each code, (B, 1, h, w, digits)."""

    near: Tensor
    error: Tensor
    slope: Tensor


def _draw(tokenizer: Tokenizer, video: Tensor, tokens: Tensor) -> _Drawn:
    with torch.enable_grad():
        codes = tokenizer.quantizer.codes(tokens).requires_grad_()
        drawn = tokenizer.decoder(tokenizer.quantizer.project_out(codes))
        (slope,) = torch.autograd.grad((drawn - video).square().sum(), codes)
    near = _near(drawn.detach(), video, tokens)
    error = (drawn.detach().clamp(-1, 1) - video).square().flatten(1).mean(dim=1)
    return _Drawn(near, error, slope)


def _near(drawn: Tensor, video: Tensor, tokens: Tensor) -> Tensor:
    """The square error of each token's patch and the eight around it, (B, 1, h, w)."""
    error = (drawn.clamp(-1, 1) - video).square().mean(dim=2)  # B 1 H W
    h, w = tokens.shape[-2:]
    per_token = F.adaptive_avg_pool2d(error, (h, w))
    return 9 * F.avg_pool2d(per_token, 3, stride=1, padding=1)


def _move(
    tokenizer: Tokenizer, video: Tensor, tokens: Tensor, drawn: _Drawn, asked: Tensor
) -> Tensor:
    """The tokens with one digit up or down by one where `asked`, if that draws their surroundings
    better. The slope says which moves promise most."""
    fsq = tokenizer.quantizer
    assert isinstance(fsq, FSQ)
    digits, step = tokens[..., None] // fsq.place % fsq.levels, -drawn.slope.sign().long()
    inside = (digits + step >= 0) & (digits + step < fsq.levels)
    promise = (drawn.slope.abs() / fsq.levels).masked_fill(~inside, -1)
    near, moved = drawn.near, tokens
    for digit in promise.topk(min(MOVES, len(fsq.levels)), dim=-1).indices.unbind(dim=-1):
        one = digit[..., None]
        can = inside.gather(-1, one)[..., 0] & asked
        other = tokens + torch.where(can, step.gather(-1, one)[..., 0] * fsq.place[digit], 0)
        with torch.no_grad():
            there = _near(tokenizer.decoder(fsq.decode(other)), video, tokens)
        better = can & (there < near)
        near, moved = torch.where(better, there, near), torch.where(better, other, moved)
    return moved
