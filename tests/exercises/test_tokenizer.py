"""Notebook 02's exercises: each planted mistake is recognized for what it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from einops import rearrange

from tests.exercises.planting import (
    Mistake,
    assert_recognized,
    assert_solution_is_right,
    planter,
)
from workshop_lib import exercises as ex
from workshop_lib.data.clip import frames_to_video
from workshop_lib.models import tokenizer
from workshop_lib.nn import quantizers

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("patchify", "cuts every frame into strips")
def strips(frames, size):
    return frames.reshape(len(frames), -1, size * size * frames.shape[-1])


@mistake("patchify", "go down the columns first")
def columns_first(frames, size):
    return rearrange(frames, "b (h p) (w q) c -> b (w h) (p q c)", p=size, q=size)


@mistake("patchify", "Each patch is transposed")
def transposed(frames, size):
    return rearrange(frames, "b (h p) (w q) c -> b (h w) (q p c)", p=size, q=size)


@mistake("patchify", "colors come first")
def colors_first(frames, size):
    return rearrange(frames, "b (h p) (w q) c -> b (h w) (c p q)", p=size, q=size)


@mistake("patchify", "has the wrong shape")
def not_flat(frames, size):
    return rearrange(frames, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


@mistake("patchify", "must be a torch tensor")
def as_array(frames, size):
    return ex.patchify.reference(frames, size).numpy()


@mistake("nearest_code", "distances; what is wanted is the number")
def distances(vectors, codebook):
    return torch.cdist(vectors, codebook).min(dim=1).values


@mistake("nearest_code", "The question is asked by the vectors")
def wrong_axis(vectors, codebook):
    return torch.cdist(vectors, codebook).argmin(dim=0)


@mistake("nearest_code", "the farthest code")
def farthest(vectors, codebook):
    return torch.cdist(vectors, codebook).argmax(dim=1)


@mistake("nearest_code", "wins because it is long")
def largest_product(vectors, codebook):
    return (vectors @ codebook.T - (codebook @ codebook.T).diag() / 20).argmax(dim=1)


@mistake("nearest_code", "Directions alone do not tell")
def smallest_angle(vectors, codebook):
    products = vectors @ codebook.T / (codebook.norm(dim=1) + 1e-6)
    return torch.where(vectors.norm(dim=1) > 0, products.argmax(dim=1), 0)


@mistake("nearest_code", "This sums absolute values")
def absolute(vectors, codebook):
    return torch.cdist(vectors, codebook, p=1).argmin(dim=1)


@mistake("straight_through", "the values must be those of q")
def only_u(q, u):
    return u * 1


@mistake("straight_through", "u must get exactly the gradient")
def only_q(q, u):
    return q


@mistake("straight_through", "No gradient gets through at all")
def all_detached(q, u):
    return u.detach() + (q - u).detach()


@mistake("straight_through", "u must get exactly the gradient")
def nothing_detached(q, u):
    return u + (q - u)


@mistake("straight_through", "q gets one as well")
def q_too(q, u):
    return q + (u - u.detach())


@mistake("straight_through", "u must get exactly the gradient")
def wrong_one_detached(q, u):
    return u.detach() + (q - u.detach())


def digits_of(share, levels):
    digits = share.round().long()
    places = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
    return digits, (digits * places).sum(dim=-1)


@mistake("fsq", "One level too many")
def times_levels(u, levels):
    return digits_of((u.tanh() + 1) / 2 * torch.tensor(levels), levels)


@mistake("fsq", "Digits begin at 0")
def not_shifted(u, levels):
    return digits_of(u.tanh() * (torch.tensor(levels) - 1) / 2, levels)


@mistake("fsq", "must be bounded, by tanh")
def unbounded(u, levels):
    return digits_of(((u + 1) / 2 * (torch.tensor(levels) - 1)).clamp_min(0), levels)


@mistake("fsq", "this always rounds down")
def rounds_down(u, levels):
    return digits_of(((u.tanh() + 1) / 2 * (torch.tensor(levels) - 1)).floor(), levels)


@mistake("fsq", "Two different codes get the same token")
def sum_of_digits(u, levels):
    digits, _ = ex.fsq.reference(u, levels)
    return digits, digits.sum(dim=-1)


@mistake("fsq", "not the one agreed upon")
def last_channel_first(u, levels):
    digits, _ = ex.fsq.reference(u, levels)
    return digits, digits[:, 0] * levels[1] + digits[:, 1]


@mistake("fsq", "two things: digits and tokens")
def digits_only(u, levels):
    return ex.fsq.reference(u, levels)[0]


@mistake("psnr", "uint8 cannot go below 0")
def in_bytes(frames, target):
    error = (frames - target).float().square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error)


@mistake("psnr", "natural logarithm")
def natural(frames, target):
    error = (frames.float() - target.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log(255**2 / error)


@mistake("psnr", "One number for all")
def one_number(frames, target):
    return 10 * torch.log10(255**2 / (frames.float() - target.float()).square().mean())


@mistake("psnr", "The wrong way round")
def upside_down(frames, target):
    return -ex.psnr.reference(frames, target)


@mistake("psnr", "10 times the logarithm of a ratio of squares")
def twenty(frames, target):
    return 2 * ex.psnr.reference(frames, target)


@mistake("psnr", "The highest value of a pixel is 255")
def peak_of_one(frames, target):
    error = (frames.float() - target.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(1 / error)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda planted: planted[2].__name__)
def test_planted_mistake(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["patchify", "nearest_code", "straight_through", "fsq", "psnr"])
def test_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


def patchify_by_einops(frames, size):
    return rearrange(frames, "b (h p) (w q) c -> b (h w) (p q c)", p=size, q=size)


def patchify_by_loops(frames, size):
    _, H, W, _ = frames.shape
    corners = [(y, x) for y in range(0, H, size) for x in range(0, W, size)]
    return torch.stack([frames[:, y : y + size, x : x + size].flatten(1) for y, x in corners], 1)


def nearest_by_cdist(vectors, codebook):
    return torch.cdist(vectors, codebook).argmin(1)


def straight_through_the_other_way(q, u):
    return q.detach() + u - u.detach()


def fsq_by_the_library(u, levels):
    config = quantizers.FSQConfig(tuple(levels))
    quantizer = quantizers.FSQ(config, len(levels))
    tokens = quantizer(u).tokens
    return tokens[:, None] // quantizer.place % quantizer.levels, tokens


def psnr_in_parts(frames, target):
    difference = (frames.double() - target.double()).flatten(1)
    return 20 * torch.log10(255 / difference.square().mean(1).sqrt())


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("patchify", patchify_by_einops),
        ("patchify", patchify_by_loops),
        ("nearest_code", nearest_by_cdist),
        ("straight_through", straight_through_the_other_way),
        ("straight_through", quantizers.straight_through),
        ("fsq", fsq_by_the_library),
        ("psnr", psnr_in_parts),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_psnr_is_the_librarys() -> None:
    torch.manual_seed(0)
    one, other = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    mine = ex.psnr.reference(one, other).mean()
    assert torch.allclose(mine, tokenizer.psnr(frames_to_video(one), frames_to_video(other)))
