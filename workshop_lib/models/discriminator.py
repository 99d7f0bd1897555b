"""The judge of a GAN: is this patch of video real or a reconstruction?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.conv import BlurPool, CausalConv, channels_last, check_size

WIDEST = 8  # times dim


@dataclass(frozen=True)
class DiscriminatorConfig:
    """kind: "frames" sees each frame by itself; "clips" sees motion, too, by convolutions over
        three frames at a time.
    dim: width at full size, doubled at each halving up to 8 times dim.
    depth: halvings of height and width, each with a residual block of two convolutions. A
        judgment stands for a patch: with 3 it sees 59x59 pixels, one judgment every 8.
    """

    kind: Literal["frames", "clips"] = "frames"
    dim: int = 32
    depth: int = 3

    def __post_init__(self) -> None:
        for name in ("dim", "depth"):
            if getattr(self, name) < 1:
                raise WorkshopError(
                    f"gan.discriminator.{name} must be 1 or more, got {getattr(self, name)}"
                )


class Discriminator(nn.Module):
    """Video to one number per patch: high where it looks real.

    Patches, because what a reconstruction lacks is local detail (PatchGAN, Isola et al. 2017).
    Spectral norm (Miyato et al. 2018) on every convolution bounds how fast the judgment can change
    with the pixels, which keeps training steady without gradient penalties; no norm of activations,
    which would mix the frames of a batch or hide how bright they are.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        time_kernel = 3 if config.kind == "clips" else 1
        widths = [config.dim * min(2**k, WIDEST) for k in range(config.depth + 1)]
        self.first = CausalConv(3, config.dim, time_kernel=time_kernel)
        self.blocks = nn.Sequential(
            *(DownBlock(widths[k], widths[k + 1], time_kernel) for k in range(config.depth))
        )
        self.last = CausalConv(widths[-1], 1, kernel=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                spectral_norm(module)

    def forward(self, video: Tensor) -> Tensor:
        """float (B, T, C, H, W) in [-1, 1] to (B, T, H / 2^depth, W / 2^depth).

        Raises WorkshopError if H or W is no multiple of 2^depth.
        """
        check_size(video, 2**self.config.depth)
        x = self.blocks(self.first(channels_last(video)))
        return self.last(_activate(x)).squeeze(2)


class DownBlock(nn.Module):
    """Half the height and width: a residual block whose two ways are blurred before every second
    pixel is dropped (Zhang 2019), so that no detail escapes the judge or fools it by aliasing."""

    def __init__(self, channels_in: int, channels_out: int, time_kernel: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(channels_in, channels_in, time_kernel=time_kernel)
        self.conv2 = CausalConv(channels_in, channels_out, time_kernel=time_kernel)
        self.skip = CausalConv(channels_in, channels_out, kernel=1)
        self.pool = BlurPool()

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) to (B, T, C', H / 2, W / 2)."""
        x = self.conv1(_activate(video))
        x = self.conv2(self.pool(_activate(x)))
        return x + self.skip(self.pool(video))


def _activate(video: Tensor) -> Tensor:
    """Leaky ReLU; the factor makes up for the half that it takes, which spectral norm forbids the
    convolutions to do: without it a judge's first judgments are all but 0, and it learns late."""
    return 2**0.5 * F.leaky_relu(video, 0.2)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's: mean max(0, 1 - real) + mean max(0, 1 + fake), over 2 (Lim and Ye 2017).

    1 for a judge that knows nothing (all 0); 0 once real is above 1 and fake below -1 everywhere.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
