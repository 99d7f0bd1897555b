"""The perceptual loss: two frames are alike where a trained classifier sees the same in them.

Squared error between pixels is least for the mean of all sharp frames that might be right, which
is a blur. Distances between the features of a network that was trained to recognize photographs
(VGG-16, Simonyan and Zisserman 2014) punish the blur (Johnson et al. 2016).
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

VARIABLE = "WORKSHOP_VGG16"
IN_CHECKOUT = Path(__file__).parents[2] / "data" / "pretrained" / "vgg16.safetensors"
REPOSITORY, FILE = "timm/vgg16.tv_in1k", "model.safetensors"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # widths, up to relu4_3


class PerceptualLoss(nn.Module):
    """Distance between the VGG-16 features of two videos, 0 (the same) to 2.

    After relu1_2, relu2_2, relu3_3 and relu4_3 every place's feature vector is scaled to length 1;
    their squared distances are averaged over places, frames and the four layers. That is LPIPS
    (Zhang et al. 2018, equation 1) with all its weights w equal.

    The network is no submodule: it belongs to no state_dict, optimizer or running average, and is
    read when first needed, so a trained tokenizer loads without it. On two CPU cores it costs more
    than a small tokenizer itself; it is meant for GPUs.

    weights: a safetensors file; None looks for one with `find_vgg16`.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.weights = Path(weights) if weights else None

    def load(self, device: torch.device | str = "cpu") -> VGG16Features:
        """The network on a device; calls after the first cost nothing.

        Raises WorkshopError if its weights are not to be had, or are not those of VGG-16.
        """
        self.weights = self.weights or find_vgg16()
        return _network(self.weights, str(device))

    def forward(self, video: Tensor, target: Tensor) -> Tensor:
        """float (B, T, C, H, W) in [-1, 1], H and W 8 or more; gradients reach `video` only."""
        network = _load_uncompiled(self, video.device)
        with torch.no_grad():
            wanted = network(target.flatten(0, 1))
        distances = [
            (_unit(mine) - _unit(theirs)).square().sum(dim=1).mean()
            for mine, theirs in zip(network(video.flatten(0, 1)), wanted, strict=True)
        ]
        return torch.stack(distances).mean()


class VGG16Features(nn.Module):
    """VGG-16's convolutions up to relu4_3, with the usual names `features.N.weight`.

    Frozen, and undefined until weights are loaded: drawing 7.6M random numbers only to throw them
    away would also shift every other random number of the run.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps = []
        channels = 3
        for widths in STAGES:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                conv = nn.utils.skip_init(nn.Conv2d, channels, width, kernel_size=3, padding=1)
                layers += [conv, nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] to four features, (N, 64, H, W) to (N, 512, H / 8, W / 8)."""
        x = ((frames + 1) / 2 - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


def find_vgg16() -> Path:
    """The file with VGG-16's ImageNet weights: the one that WORKSHOP_VGG16 names, else
    data/pretrained/vgg16.safetensors, else one downloaded earlier, else downloaded now (553 MB).

    Raises WorkshopError if there is none and it cannot be had.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise WorkshopError(f"{named}: no such file, but {VARIABLE} names it; unset or mend it")
        return Path(named)
    return IN_CHECKOUT if IN_CHECKOUT.is_file() else _from_hub()


def _from_hub() -> Path:
    """From huggingface_hub's cache, or downloaded into it and checked against the hub's record."""
    import huggingface_hub as hub

    cached = hub.try_to_load_from_cache(REPOSITORY, FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        record = hub.get_hf_file_metadata(hub.hf_hub_url(REPOSITORY, FILE))
        path = Path(hub.hf_hub_download(REPOSITORY, FILE))  # goes on where an earlier one broke off
    # Which exceptions mean "no network" differs between releases of the hub's client.
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise WorkshopError(
            f"no VGG-16 weights, which model.perceptual needs: save {FILE} of {REPOSITORY} as "
            f"{IN_CHECKOUT} (or name it in {VARIABLE}), or be online to have it downloaded; "
            f"model.perceptual 0 goes without ({type(error).__name__}: {reason})"
        ) from error
    try:
        _check_download(path, record.size, record.etag)
    except WorkshopError:
        path.resolve().unlink()  # or the next run would take it from the cache
        path.unlink(missing_ok=True)
        raise
    return path


def _check_download(path: Path, size: int | None, sha256: str | None) -> None:
    """Raises WorkshopError unless the file has the size and the SHA-256 that the hub states."""
    if size is not None and path.stat().st_size != size:
        raise WorkshopError(f"{path}: {path.stat().st_size} bytes instead of {size}; try again")
    if sha256 is None or len(sha256) != 64:
        raise WorkshopError(
            f"{REPOSITORY}: the hub states no SHA-256 of {FILE}; save it as {IN_CHECKOUT} by hand"
        )
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != sha256:
        raise WorkshopError(f"{path}: SHA-256 {found.hexdigest()} instead of {sha256}; try again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The float32 tensors that VGG16Features needs; what else the file holds is left in it.

    Raises WorkshopError naming the file if it is torn, or not VGG-16.
    """
    needed = {name: value.shape for name, value in VGG16Features().state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(needed) - set(file.keys()))
            if missing:
                raise WorkshopError(f"{path}: not the weights of VGG-16 (no tensor {missing[0]!r})")
            weights = {name: file.get_tensor(name).float() for name in needed}
    except (SafetensorError, OSError) as error:
        raise WorkshopError(f"{path}: not a whole safetensors file ({error})") from error
    for name, shape in needed.items():
        if weights[name].shape != shape:
            found = tuple(weights[name].shape)
            raise WorkshopError(
                f"{path}: not the weights of VGG-16 ({name} is {found}, not {tuple(shape)})"
            )
    return weights


@lru_cache(maxsize=2)
def _network(weights: Path, device: str) -> VGG16Features:
    network = VGG16Features()
    network.load_state_dict(read_weights(weights))
    return network.to(device).eval()


# torch.compile would look past the cache and read the file in every step.
_load_uncompiled = torch.compiler.disable(PerceptualLoss.load)


def _unit(features: Tensor) -> Tensor:
    """(N, C, H, W) with every place's vector at length 1, in float32.

    The floor of 1e-3 on the length, in units of features of 1 to 100, bounds the gradient where
    a place has no features at all.
    """
    return F.normalize(features.float(), dim=1, eps=1e-3)
