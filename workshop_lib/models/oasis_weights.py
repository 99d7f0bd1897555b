"""Weights that others trained: the public CoinRun pixel DiTs and Minecraft Oasis."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.nn.oasis import OasisConfig, OasisDiT

# Constants, the same for all layers: not part of what was learned.
CONSTANT = re.compile(r"(^|.*\.)(spatial_|temporal_)?rotary_emb\.freqs$")
# width: (depth, heads) of the public CoinRun weights
COINRUN = {160: (5, 8), 224: (5, 8), 288: (6, 8), 384: (6, 8), 512: (6, 8)}
MINECRAFT = OasisConfig(size=(18, 32), patch=2, dim=1024, depth=16, heads=16, bare=True)
MINECRAFT_CHANNELS, MINECRAFT_ACTIONS = 16, 25


def oasis_config(net: OasisConfig) -> DiffusionConfig:
    """How the public weights are trained and played: v under the sigmoid schedule, noise of every
    frame its own, ten steps of DDIM, the past said to have noise level 15."""
    return DiffusionConfig(
        net=net,
        prediction="v",
        loss="v",
        most=float("inf"),
        training="independent",
        drop_actions=0.0,
        steps=10,
        sampler="ddim",
        stabilization=15,
    )


def load_coinrun(path: str | Path) -> Diffusion:
    """The model in a public CoinRun checkpoint (.safetensors), in evaluation mode; which of the
    five sizes it is, its weights tell.

    Raises WorkshopError naming the file and the first thing that is wrong with it.
    """
    state = read_weights(path)
    first = state.get("x_embedder.proj.weight")
    if first is None or first.ndim != 4:
        raise WorkshopError(f"{path}: no Oasis weights: there is no x_embedder.proj.weight")
    dim, patch = len(first), first.shape[-1]
    if dim not in COINRUN:
        raise WorkshopError(
            f"{path}: width {dim} is none of the public sizes, {', '.join(map(str, COINRUN))}"
        )
    bare = "external_cond.weight" in state
    depth, heads = COINRUN[dim]
    model = Diffusion(oasis_config(OasisConfig((64, 64), patch, dim, depth, heads, bare=bare)))
    assert isinstance(model.net, OasisDiT)
    fill(model.net, state, path)
    return model.eval()


def import_weights(path: str, out: str) -> None:
    """Makes a model file of this library from public CoinRun weights: to be played, evaluated and
    trained on like our own.

    Args:
        path: the public checkpoint, a safetensors file, of any of the five sizes.
        out: the file to write, NAME.safetensors.
    """
    model = load_coinrun(path)
    save_model(model, "diffusion", Path(out), {"source": Path(path).name})
    net, count = model.config.net, sum(p.numel() for p in model.parameters())
    print(f"{out}: {count:,} parameters, width {net.dim}, {net.depth} blocks")


def load_minecraft(path: str | Path, config: OasisConfig = MINECRAFT) -> OasisDiT:
    """The network of Minecraft Oasis: 16 latent channels of 18x32, 25 actions that may be pressed
    together, float (B, T, 25). Its pictures need its own decoder, which is not here.

    Raises WorkshopError naming the file and the first thing that is wrong with it.
    """
    state = read_weights(path)
    net = OasisDiT(config, MINECRAFT_CHANNELS, MINECRAFT_CHANNELS, MINECRAFT_ACTIONS)
    fill(net, state, path)
    return net.eval()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file in float32, but for constants.

    Raises WorkshopError naming the file if it is missing or torn. Pickled checkpoints (.pt) are
    refused: to open one may run what is in it.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkshopError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            state = {name: file.get_tensor(name) for name in names if not CONSTANT.match(name)}
    except SafetensorError as error:
        raise WorkshopError(
            f"{path}: not a whole safetensors file ({error}); convert pickled weights first"
        ) from error
    return {name: value.float() for name, value in state.items()}


def fill(net: OasisDiT, state: dict[str, Tensor], path: str | Path) -> None:
    """Puts the weights into the network, all of them.

    Raises WorkshopError naming the first that is missing, too many, or of another shape.
    """
    wanted = {k: v for k, v in net.state_dict().items() if not CONSTANT.match(k)}
    missing, more = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or more:
        what = f"no {missing[0]}" if missing else f"{more[0]} is not known"
        raise WorkshopError(f"{path}: does not fit width {net.config.dim}: {what}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            shapes = tuple(value.shape), tuple(wanted[name].shape)
            raise WorkshopError(f"{path}: {name} is {shapes[0]}, and {shapes[1]} is needed")
    net.load_state_dict(state, strict=False)
