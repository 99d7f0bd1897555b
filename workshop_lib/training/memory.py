"""Large models in little memory: activations computed again, and batches in parts that fit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.nn.space_time import Block


def checkpoint_activations(model: nn.Module) -> int:
    """Has each transformer block keep its input only, and compute the rest again in the backward
    pass (Chen et al. 2016): a third more arithmetic for a fraction of the memory.

    Returns how many blocks do so now. Raises WorkshopError if the model has none.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise WorkshopError(
            f"activation_checkpointing: {type(model).__name__} has no transformer blocks here"
        )
    for block in blocks:
        block.forward = functools.partial(_again_in_backward, block)  # type: ignore[method-assign]
    return len(blocks)


def _again_in_backward(block: Block, *arguments: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return Block.forward(block, *arguments, **named)
    return checkpoint(Block.forward, block, *arguments, use_reentrant=False, **named)


def largest_micro_batch(share: int, fits: Callable[[int], bool]) -> int:
    """The largest part of a share of clips that fits, doubling from 1; all processes together.

    fits: tries to train on so many clips.

    Raises WorkshopError if not even one clip fits.
    """
    sizes = [n for n in range(1, share + 1) if share % n == 0]
    best, tried = 0, 0
    for size in sizes:
        if size < 2 * tried and size != share:
            continue
        tried = size
        if not _everywhere(fits(size)):
            break
        best = size
    if best == 0:
        raise WorkshopError("data.micro_batch: not even one clip fits into this GPU's memory")
    return best


def trial(module: Any, clip: Clip) -> Callable[[int], bool]:
    """Whether a step on so many copies of a clip fits into this GPU, with AdamW's two moments.

    It is tried on a copy of the model, whose codebooks and counters may change.
    """

    def fits(size: int) -> bool:
        twin = moments = loss = None
        try:
            twin = copy.deepcopy(module.model).train()
            moments = [torch.zeros_like(p) for p in twin.parameters() for _ in range(2)]
            clips = clip[torch.zeros(size, dtype=torch.int64)]  # type: ignore[index]
            with torch.autocast("cuda", torch.bfloat16):
                loss = twin.loss(clips)[0]
            loss.backward()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            del twin, moments, loss
            torch.cuda.empty_cache()

    return fits


def _everywhere(good: bool) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return good
    answer = torch.tensor([float(good)])
    dist.all_reduce(answer, dist.ReduceOp.MIN)
    return bool(answer.item())
