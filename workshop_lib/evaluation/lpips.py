"""LPIPS: how different two pictures look to a network that learned to see.

Learned Perceptual Image Patch Similarity (Zhang et al. 2018), version 0.1 with AlexNet: pictures
are compared by what AlexNet's five convolutions find in them, each channel weighted as fits best
what people said of pairs of pictures. 0 is the same picture, less is better. Squared error prefers
a blur to a sharp picture that is a pixel off; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

BATCH = 256
# The weights were fitted on patches of 64 x 64, which AlexNet turns into maps of 15 x 15, 7 x 7 and
# three times 3 x 3. Of less than 31 x 31 nothing is left, so that smaller pictures are enlarged.
LEAST = 64
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # colors -1 to 1 as AlexNet's input
WIDTHS = (64, 192, 384, 256, 256)  # channels that are compared, one layer after the other


class Lpips:
    """The distance, with the weights of one safetensors file.

    The file holds AlexNet's convolutions by their names in torchvision (features.0.weight ...) and
    the weights of the channels by theirs in the lpips package (lin0.model.1.weight ...);
    docs/lpips.md says how to make it. What else is in the file is left alone. No pickle is read.

    Raises WorkshopError naming the file if it is no safetensors file, and the tensor that is
    missing in it or has another shape.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        self.features = _alexnet()
        net = nn.ModuleDict({"features": self.features})
        tower = {name: tensor.shape for name, tensor in net.state_dict().items()}
        lines = {f"lin{n}.model.1.weight": (1, width, 1, 1) for n, width in enumerate(WIDTHS)}
        found = _read(Path(path), {**tower, **lines})
        net.load_state_dict({name: found[name] for name in tower})
        self.device = torch.device(device)
        self.features.to(device)
        self.lines = [found[name].to(device) for name in lines]
        self.shift, self.scale = (
            torch.tensor(color, device=device)[:, None, None] for color in (SHIFT, SCALE)
        )

    @torch.inference_mode()
    def __call__(self, frames: Tensor, real: Tensor) -> Tensor:
        """Of each two pictures, both uint8 (..., H, W, C): float (...), on the CPU."""
        a, b = (x.reshape(-1, *x.shape[-3:]).split(BATCH) for x in (frames, real))
        distances = [self._distance(*pair).cpu() for pair in zip(a, b, strict=True)]
        return torch.cat(distances).view(frames.shape[:-3])

    def _distance(self, frames: Tensor, real: Tensor) -> Tensor:
        """Equation 1 of the paper: (N,) for uint8 (N, H, W, C)."""
        total = torch.zeros(len(frames), device=self.device)
        for mine, theirs, line in zip(self._see(frames), self._see(real), self.lines, strict=True):
            apart = (F.normalize(mine, eps=1e-10) - F.normalize(theirs, eps=1e-10)).square()
            total += F.conv2d(apart, line).mean(dim=(1, 2, 3))
        return total

    def _see(self, frames: Tensor) -> list[Tensor]:
        """What AlexNet finds in uint8 (N, H, W, C): five of (N, C, h, w)."""
        x = frames.to(self.device).movedim(-1, 1).float() / 127.5 - 1
        if (side := min(x.shape[-2:])) < LEAST:
            x = F.interpolate(x, scale_factor=LEAST / side, mode="bilinear")
        x, found = (x - self.shift) / self.scale, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


def _alexnet() -> nn.Sequential:
    """AlexNet up to its fifth convolution (Krizhevsky 2014, as in torchvision), of no use until
    weights are loaded."""

    def conv(before: int, after: int, size: int, stride: int = 1) -> nn.Module:
        padding = 2 if size > 3 else 1
        return nn.utils.skip_init(nn.Conv2d, before, after, size, stride, padding)

    a, b, c, d, e = WIDTHS
    pool = nn.MaxPool2d(3, 2)
    first = [conv(3, a, 11, stride=4), nn.ReLU(), pool, conv(a, b, 5), nn.ReLU(), pool]
    last = [conv(b, c, 3), nn.ReLU(), conv(c, d, 3), nn.ReLU(), conv(d, e, 3), nn.ReLU()]
    return nn.Sequential(*first, *last).requires_grad_(False)


def _read(path: Path, needed: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors that are needed, as float32, on the CPU."""
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WorkshopError(
            f"{path}: not a whole safetensors file ({error}); docs/lpips.md says how to make it"
        ) from error
    for name, shape in needed.items():
        if name not in found:
            raise WorkshopError(f"{path}: not the weights of LPIPS with AlexNet (no {name})")
        if found[name].shape != shape:
            raise WorkshopError(
                f"{path}: not the weights of LPIPS with AlexNet ({name} is "
                f"{tuple(found[name].shape)}, not {tuple(shape)})"
            )
    return {name: found[name].float() for name in needed}
