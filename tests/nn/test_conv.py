"""Video convolutions: nothing looks ahead, shapes come back, shifts are tolerated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.conv import (
    AdaptiveGroupNorm,
    BlurPool,
    CausalConv,
    Downsample,
    FrameNorm,
    Past,
    ResidualBlock,
    Upsample,
    channels_last,
    depth_to_space,
    pad_past,
    space_to_depth,
)

C = 8


def noise(frames: int, size: int = 8, channels: int = C, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, channels, size, size, generator=generator)


class Autoencoder(nn.Module):
    """A small MAGVIT-2: space shrinks by 4 and time by 2, and back."""

    def __init__(self, blur: bool = True, past: Past = "replicate") -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ResidualBlock(C, C, time_kernel=3, past=past),
            Downsample(C, 2 * C, time=2, blur=blur, past=past),
            ResidualBlock(2 * C, 2 * C, time_kernel=3, past=past),
            Downsample(2 * C, C, blur=blur, past=past),
        )
        self.up = nn.ModuleList([Upsample(C, C), Upsample(C, C, time=2, past=past)])
        self.blocks = nn.ModuleList([ResidualBlock(C, C, 3, C, past) for _ in range(2)])
        for norm in self.modules():
            if isinstance(norm, AdaptiveGroupNorm):
                nn.init.normal_(norm.project.weight, std=0.2)  # as after some training

    def forward(self, video: Tensor) -> Tensor:
        latent = self.encoder(video)
        x = latent
        for block, up in zip(self.blocks, self.up, strict=True):
            x = up(block(x, latent))
        return x


def reach(module: Callable[[Tensor], Tensor], video: Tensor) -> list[set[int]]:
    """For each output frame, the input frames that it changes with, found one by one."""
    with torch.no_grad():
        before = module(video)
        found: list[set[int]] = [set() for _ in range(before.shape[1])]
        for frame in range(video.shape[1]):
            touched = video.clone()
            touched[:, frame] += torch.randn_like(touched[:, frame])
            change = (module(touched) - before).abs().amax(dim=(0, 2, 3, 4))
            for output in (change > 1e-6).nonzero().flatten().tolist():
                found[output].add(frame)
    return found


SAME_TIME: dict[str, tuple[nn.Module, int]] = {
    "conv 2-D": (CausalConv(C, C), 1),
    "conv 3-D": (CausalConv(C, C, time_kernel=3), 3),
    "conv 3-D, zeros": (CausalConv(C, C, time_kernel=3, past="zeros"), 3),
    "norm": (FrameNorm(C), 1),
    "residual 2-D": (ResidualBlock(C, 2 * C), 1),
    "residual 3-D": (ResidualBlock(C, 2 * C, time_kernel=3), 5),
    "blur in space": (BlurPool(), 1),
    "downsample space": (Downsample(C, C, blur=False), 1),
    "upsample space": (Upsample(C, C), 1),
}


@pytest.mark.parametrize("name", SAME_TIME)
def test_output_sees_its_own_frame_and_the_past(name: str) -> None:
    module, window = SAME_TIME[name]
    expected = [set(range(max(0, t - window + 1), t + 1)) for t in range(7)]
    assert reach(module, noise(7)) == expected


@pytest.mark.parametrize(
    "module",
    [
        BlurPool(space=2, time=2),
        Downsample(C, C, time=2, blur=True),
        Downsample(C, C, time=2, blur=False),
        CausalConv(C, C, time_kernel=3, time_stride=2),
        BlurPool(space=1, time=2, past="zeros"),
    ],
)
def test_shrunk_time_stands_at_every_other_frame(module: nn.Module) -> None:
    seen = reach(module, noise(9))
    assert [max(frames) for frames in seen] == [0, 2, 4, 6, 8]
    assert set.union(*seen) == set(range(9))  # no frame is skipped


def test_time_shrinks_by_four_without_skipping_a_frame() -> None:
    seen = reach(Downsample(C, C, time=4, blur=False), noise(9))
    assert seen == [{0}, {0, 1, 2, 3, 4}, {4, 5, 6, 7, 8}]


def test_enlarged_time_uses_latents_up_to_the_next() -> None:
    seen = reach(Upsample(C, C, time=2), noise(4))
    assert [max(latents) for latents in seen] == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("blur", [True, False])
@pytest.mark.parametrize("past", ["replicate", "zeros"])
def test_autoencoder_looks_no_further_than_its_latent(blur: bool, past: Past) -> None:
    torch.manual_seed(0)
    seen = reach(Autoencoder(blur, past), noise(9))
    assert [max(frames) for frames in seen] == [0, 2, 2, 4, 4, 6, 6, 8, 8]


@pytest.mark.parametrize("frames", [1, 3, 9])
def test_clip_and_its_beginning_agree(frames: int) -> None:
    torch.manual_seed(0)
    model, video = Autoencoder(), noise(9)
    with torch.no_grad():
        torch.testing.assert_close(
            model(video[:, :frames]), model(video)[:, :frames], atol=1e-5, rtol=0
        )


@settings(deadline=None, max_examples=25)
@given(
    frames=st.integers(0, 3).map(lambda k: 1 + 2 * k),
    size=st.sampled_from([4, 8, 12]),
    batch=st.integers(1, 3),
    blur=st.booleans(),
)
def test_up_undoes_the_shape_of_down(frames: int, size: int, batch: int, blur: bool) -> None:
    video = noise(frames, size, batch=batch)
    small = Downsample(C, 16, time=2, blur=blur)(video)
    assert small.shape == (batch, 1 + (frames - 1) // 2, 16, size // 2, size // 2)
    assert Upsample(16, C, time=2)(small).shape == video.shape


@settings(deadline=None, max_examples=25)
@given(space=st.integers(1, 4), time=st.integers(1, 3), seed=st.integers(0, 9))
def test_depth_to_space_and_back(space: int, time: int, seed: int) -> None:
    torch.manual_seed(seed)
    video = torch.randn(2, 2 * time, 3, 2 * space, 3 * space)
    deep = space_to_depth(video, space, time)
    assert deep.shape == (2, 2, 3 * time * space**2, 2, 3)
    torch.testing.assert_close(depth_to_space(deep, space, time), video, rtol=0, atol=0)
    again = space_to_depth(depth_to_space(deep, space, time), space, time)
    torch.testing.assert_close(again, deep, rtol=0, atol=0)


def test_depth_to_space_keeps_time_in_order() -> None:
    """A latent's depth holds its frames one after another, each pixel in its own cell."""
    deep = torch.arange(2 * 2 * 4).float().reshape(1, 2, 8, 1, 1)  # T = 2, time 2, space 2
    frames = depth_to_space(deep, space=2, time=2)[0, :, 0]
    assert frames.tolist() == [[[4 * t, 4 * t + 1], [4 * t + 2, 4 * t + 3]] for t in range(4)]


def test_gradients_reach_every_parameter_and_every_frame() -> None:
    torch.manual_seed(0)
    model, video = Autoencoder(), noise(5).requires_grad_()
    model(video).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert video.grad is not None and (video.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_causal_conv_equals_a_hand_computed_sum() -> None:
    conv = CausalConv(1, 1, kernel=1, time_kernel=3)
    with torch.no_grad():
        conv.conv.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1, 1))
        nn.init.zeros_(conv.conv.bias)  # type: ignore[arg-type]
    video = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1)
    assert conv(video).flatten().tolist() == [111.0, 211.0, 321.0]
    conv.past = "zeros"
    assert conv(video).flatten().tolist() == [100.0, 210.0, 321.0]


def test_past_is_padded_as_asked() -> None:
    video = torch.tensor([5.0, 6.0]).view(1, 2, 1, 1, 1)
    assert pad_past(video, 2).flatten().tolist() == [5, 5, 5, 6]
    assert pad_past(video, 2, "zeros").flatten().tolist() == [0, 0, 5, 6]


def test_frame_norm_is_group_norm_of_each_frame() -> None:
    video = noise(3) * torch.tensor([1.0, 10.0, 0.1]).view(1, 3, 1, 1, 1)
    expected = torch.stack([F.group_norm(video[:, t], 2) for t in range(3)], dim=1)
    torch.testing.assert_close(FrameNorm(C)(video), expected)


@pytest.mark.parametrize("channels", [1, 3, 10, 18, 32, 48, 512])
def test_frame_norm_finds_groups_for_any_width(channels: int) -> None:
    norm = FrameNorm(channels)
    assert norm(noise(1, channels=channels)).isfinite().all()
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4


def test_adaptive_norm_starts_plain_then_follows_the_latent_place_by_place() -> None:
    norm = AdaptiveGroupNorm(C, latent_dim=4)
    video, latent = noise(5, size=8), noise(3, size=2, channels=4)
    torch.testing.assert_close(norm(video, latent), FrameNorm(C)(video))
    nn.init.normal_(norm.project.weight)
    before = norm(video, latent)
    latent[:, 1, :, 0, 1] += 1  # upper right quarter; latent 1 serves frames 1 and 2
    changed = (norm(video, latent) - before).abs().amax(dim=(0, 2)) > 1e-6
    expected = torch.zeros(5, 8, 8, dtype=torch.bool)
    expected[1:3, :4, 4:] = True
    assert torch.equal(changed, expected)


def test_blur_keeps_constants_also_at_the_border() -> None:
    video = torch.full((1, 5, 3, 8, 8), 0.7)
    torch.testing.assert_close(BlurPool(2, 2)(video), torch.full((1, 3, 3, 4, 4), 0.7))


def shift_error(module: nn.Module, video: Tensor) -> float:
    """How far one pixel of shift is from half a step of the shrunk picture (0 is perfect).

    A shift by two pixels moves the output by one whole step, a shift by one should give what
    lies between: the relative error of that.
    """
    with torch.no_grad():
        still, one, two = (module(video[..., i : i + 32]) for i in range(3))
    inside = (..., slice(2, -2), slice(2, -2))
    between = (still + two)[inside] / 2
    return ((one[inside] - between).norm() / between.norm()).item()


def test_blur_tolerates_shifts_better_than_a_plain_stride() -> None:
    torch.manual_seed(0)
    blocks = torch.randn(1, 4, C, 10, 10).repeat_interleave(4, -1).repeat_interleave(4, -2)
    video = blocks[..., :32, :36]  # hard edges, as sprites have
    blurred, strided = Downsample(C, 32, blur=True), Downsample(C, 32, blur=False)
    strided.conv.load_state_dict(blurred.conv.state_dict())
    errors = shift_error(blurred, video), shift_error(strided, video)
    print(f"shift error: blur {errors[0]:.3f}, stride {errors[1]:.3f}")
    assert errors[0] < errors[1] / 2


def test_blocks_keep_channels_last() -> None:
    """Or every block would pay for a copy there and back."""
    video, latent = channels_last(noise(5)), channels_last(noise(3, size=4))
    adaptive = ResidualBlock(C, C, 3, C)
    outputs = {
        "down": Downsample(C, C, time=2)(video),
        "strided": Downsample(C, C, time=2, blur=False)(video),
        "space": Upsample(C, C)(video),
        "time": CausalConv(C, C)(Upsample(C, C, time=2)(video)),
        "adaptive": adaptive(video, latent),
        "3-D": CausalConv(C, C, time_kernel=3)(video),
    }
    wrong = [name for name, y in outputs.items() if not y.movedim(2, -1).is_contiguous()]
    assert wrong == []
    torch.testing.assert_close(outputs["adaptive"], adaptive(noise(5), noise(3, size=4)))


def test_runs_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    model, video = Autoencoder(), noise(5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = model(video)
    exact = model(video)
    assert (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("call", "fix"),
    [
        (lambda: Downsample(C, C, time=2)(noise(16)), "use 15 or 17"),
        (lambda: Downsample(C, C, time=4, blur=False)(noise(2)), "use 1 or 5"),
        (lambda: BlurPool(time=2)(noise(4)), "use 3 or 5"),
        (lambda: Downsample(C, C)(noise(1, size=9)), "9x9 frames"),
        (lambda: BlurPool(4)(noise(1, size=6)), "divide by 4"),
        (lambda: CausalConv(C, C, kernel=4), "must be odd"),
        (lambda: CausalConv(C, C, time_kernel=1, time_stride=2), "at least time_stride 2"),
        (lambda: AdaptiveGroupNorm(C, C)(noise(4), noise(3)), "3 latents do not fit 4 frames"),
        (lambda: AdaptiveGroupNorm(C, C)(noise(4), noise(1)), "1 latents do not fit"),
    ],
)
def test_bad_sizes_are_named(call: Callable[[], object], fix: str) -> None:
    with pytest.raises(WorkshopError, match=fix):
        call()
