"""Fully sharded training, `--trainer.strategy fsdp`: each process keeps a share of everything.

Of n processes each keeps an n-th of the weights, of their gradients, of what the optimizer keeps
and of the averaged weights. Where a layer is computed, its weights are put together, and left
again (ZeRO stage 3, Rajbhandari et al. 2020; torch's fully_shard, "FSDP2"). Transformer blocks are
such layers; what else a model has is one more. Files hold whole weights, as everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.nn.codebook import Codebook
from workshop_lib.nn.space_time import Block


class ShardedStrategy(DDPStrategy):
    """Lightning's DDP but for the model, which is dealt out instead of copied.

    A checkpoint is loaded before the model is dealt out, and put together when one is written: its
    format is that of one process. The model must be small enough for the memory of one CPU process.
    """

    def model_to_device(self) -> None:
        module: Any = self.lightning_module
        self._whole = copy.deepcopy(module.model).cpu()
        module.to(self.root_device)
        for value in module.state_dict().values():  # all begin with what process 0 has
            dist.broadcast(value, src=0)
        self.mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        self._loss = deal_out(module.model, self.mesh)
        # Not the Loss itself, which would become a part of the module.
        module._loss = lambda clip: self._loss(clip)

    def configure_ddp(self) -> None:
        """Nothing: there are no copies whose gradients need to be added up."""

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """For the parts of a batch but the last: gradients stay where they are, whole."""
        self._loss.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._loss.set_requires_gradient_sync(True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return put_together(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return put_together(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """From whole moments, each is given the share that its weights are."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            state = {
                number: {name: _share_like(weight, value) for name, value in kept.items()}
                for number, weight in zip(numbers, weights, strict=True)
                if (kept := saved["state"].get(number))
            }
            optimizer.load_state_dict({**saved, "state": state})

    def whole_model(self) -> nn.Module:
        """A copy in one piece, on this process's device. All processes call it together."""
        model: Any = self.lightning_module.model  # type: ignore[union-attr]
        whole = copy.deepcopy(self._whole)
        whole.load_state_dict(put_together(model.state_dict()))
        return whole.to(self.root_device)

    def teardown(self) -> None:
        """Leaves all shares where they are: the model to export is put together afterwards."""
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def whole_model(trainer: lightning.Trainer) -> Any:
    """The model in training or, where it is dealt out, a copy in one piece.

    All processes call it together.
    """
    strategy: Any = trainer.strategy
    if isinstance(strategy, ShardedStrategy):
        return strategy.whole_model()
    return trainer.lightning_module.model


class Loss(nn.Module):
    """The model's loss as a module, for weights are put together where a module is called.

    Before it, all processes take over process 0's statistics (buffers), as in DDP.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        kept = model.state_dict().keys()
        self._buffers_kept = [b for name, b in model.named_buffers() if name in kept]

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        for buffer in self._buffers_kept:
            dist.broadcast(buffer, src=0)
        return self.model.loss(clip)


def check_sharded(model: nn.Module, two_losses: bool, compiled: bool, precision: Any) -> None:
    """Raises WorkshopError for what does not work with weights that are dealt out.

    two_losses: trained with a discriminator, which is no part of the model.
    """
    # Such a codebook writes new starts into weights that were put together, and left again.
    learned = [m for m in model.modules() if isinstance(m, Codebook) and not m.config.ema]
    for refused, what in (
        (two_losses, "gan"),
        (compiled, "compile"),
        (precision == "16-mixed", "trainer.precision 16-mixed"),
        (learned, "a quantizer with ema false"),
    ):
        if refused:
            raise WorkshopError(f"trainer.strategy fsdp: not with {what}; use ddp")


def deal_out(model: nn.Module, mesh: DeviceMesh) -> Any:
    """Leaves to this process its share of each weight, split along the first axis.

    Returns its loss, which puts them together where they are needed.
    """
    # Also the last one leaves its weights again, so that between steps all are shares.
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    return fully_shard(Loss(model), mesh=mesh, reshard_after_forward=True)


def put_together(tree: Any) -> Any:
    """Each tensor that is dealt out as a whole one on the CPU; all else as it is.

    All processes call it together.
    """
    return tree_map(lambda v: v.full_tensor().cpu() if isinstance(v, DTensor) else v, tree)


def _share_like(weight: Tensor, value: Any) -> Any:
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
