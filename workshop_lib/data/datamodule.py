"""Train, validation and test clips for the trainer, from a folder that `workshop split` made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import ClipBatches, ClipConfig, fixed_clips
from workshop_lib.data.splits import load_manifest, split_shards
from workshop_lib.errors import WorkshopError


def clip_loader(clips: ClipBatches, workers: int = 0, pin_memory: bool = False) -> DataLoader[Clip]:
    """A DataLoader over ready batches.

    workers: processes that read; 0 reads in this one with a thread, which is enough for most
        models. They are started by spawn: array_record crashes in forked processes.
    """
    return DataLoader(
        clips,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=False,
        pin_memory=pin_memory,
    )


class InParts:
    """The clips of a loader, each cut into so many equal parts, one after the other."""

    def __init__(self, loader: DataLoader[Clip], parts: int) -> None:
        self.loader, self.parts = loader, parts

    def __iter__(self) -> Iterator[Clip]:
        for clip in self.loader:
            size = -(-len(clip) // self.parts)
            for start in range(0, len(clip), size):
                yield clip[start : start + size]


def parts_of_batch(batch_size: int, processes: int, micro_batch: int | None) -> int:
    """In how many parts a process trains on its share of a global batch.

    batch_size: clips in a global batch. micro_batch: clips that a process takes at once; None for
    its whole share.

    Raises WorkshopError where they do not divide each other.
    """
    share, left = divmod(batch_size, processes)
    if left:
        raise WorkshopError(
            f"data.batch_size {batch_size} must be a multiple of the {processes} processes"
        )
    if micro_batch is None or micro_batch >= share:
        return 1
    if micro_batch < 1 or share % micro_batch:
        raise WorkshopError(
            f"data.micro_batch {micro_batch} must divide a process's share of a batch: {share} "
            f"clips (data.batch_size {batch_size} over {processes} processes)"
        )
    return share // micro_batch


class ClipDataModule(lightning.LightningDataModule):
    """Batches of clips from the three sets of a split folder.

    Args:
        path: folder with manifest.json; refused if its sets share levels.
        length: T, frames in a clip.
        batch_size: clips in a global training batch, all ranks together.
        val_batches: how many batches validation and testing see, the same ones every time.
        clips_per_read: clips drawn from an episode each time it is read.
        lanes: parts into which the data is dealt out; a multiple of the number of ranks.
        workers: processes that read.
        in_memory: keep all decoded episodes in memory.
        seed: of the order of the clips.
        micro_batch: clips that a process trains on at once, where its share of a batch does not
            fit into memory; gradients of the parts are added up. None for the whole share.
    """

    def __init__(
        self,
        path: str,
        length: int = 16,
        batch_size: int = 32,
        val_batches: int = 8,
        clips_per_read: float = 8.0,
        lanes: int = 8,
        workers: int = 0,
        in_memory: bool = False,
        seed: int = 0,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        load_manifest(path)  # a wrong folder is said before anything starts
        self.path, self.val_batches, self.workers = path, val_batches, workers
        self.micro_batch = micro_batch
        self.config = ClipConfig(
            length=length,
            batch_size=batch_size,
            clips_per_read=clips_per_read,
            lanes=lanes,
            in_memory=in_memory,
            seed=seed,
        )

    @property
    def parts(self) -> int:
        """In how many parts each process takes its share of a batch."""
        world_size = 1 if self.trainer is None else self.trainer.world_size
        return parts_of_batch(self.config.batch_size, world_size, self.micro_batch)

    def clips(self, split: str, start_batch: int = 0) -> ClipBatches:
        """The clips of "train", "val" or "test" for this rank."""
        trainer = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        shards = split_shards(self.path, split)
        if split == "train":
            return ClipBatches(shards, self.config, rank, world_size, start_batch)
        fixed = replace(self.config, in_memory=True)
        return fixed_clips(shards, fixed, self.val_batches, rank, world_size)

    def train_dataloader(self) -> Any:
        """Endless; resumed training goes on with the batch after the last one trained on."""
        trainer = self.trainer
        done = 0
        if trainer is not None:  # in global batches, whatever parts they are taken in
            done = trainer.global_step * max(1, trainer.accumulate_grad_batches) // self.parts
        return self._loader(self.clips("train", start_batch=done))

    def val_dataloader(self) -> Any:
        return self._loader(self.clips("val"))

    def test_dataloader(self) -> Any:
        return self._loader(self.clips("test"))

    def _loader(self, clips: ClipBatches) -> DataLoader[Clip] | InParts:
        loader = clip_loader(clips, self.workers, pin_memory=torch.cuda.is_available())
        return loader if self.parts == 1 else InParts(loader, self.parts)
