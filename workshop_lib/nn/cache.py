"""The ring: keys and values of the last W frames, so that a new frame costs one frame."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError


def causal_mask(frames: int, past: int, window: int, device: torch.device | None = None) -> Tensor:
    """bool (frames, past + frames): which frames each new frame may look at.

    Row i is the new frame i, column j the frame j counted from the oldest of the past. A frame
    sees itself and the window - 1 frames before it: a band below the diagonal.
    """
    query = torch.arange(past, past + frames, device=device)[:, None]
    key = torch.arange(past + frames, device=device)
    return (key <= query) & (key > query - window)


def draft_mask(frames: int, window: int, device: torch.device | None = None) -> Tensor:
    """bool (2 T, 2 T): which of T settled frames and T drafts each of them may look at.

    Draft t stands for the frame after settled frame t, so it sees up to window - 1 settled
    frames, t the last, and itself; no settled frame sees a draft.
    """
    settled = causal_mask(frames, 0, window, device)
    before_draft = causal_mask(frames, 0, window - 1, device)
    itself = torch.eye(frames, dtype=torch.bool, device=device)
    settled_rows = torch.cat([settled, torch.zeros_like(itself)], dim=1)
    return torch.cat([settled_rows, torch.cat([before_draft, itself], dim=1)])


class TimeCache:
    """Keys and values of the past for every layer of one model and B clips that go in step.

    Frame p lies in slot p % W. Keys are stored already turned to their absolute position
    (nn/rotary.py), so slots need no order: a new frame takes the place of the one that has just
    left its window, and nothing else moves.

    That is also why looking without storing is free: a single frame is laid into its slot either
    way, and it counts as past only once `length` goes up.

    Attributes:
        length: frames stored so far, which is the position of the next one.
        keys, values: (layers, B, heads, W, d); time attention has tokens x heads as its heads.
    """

    def __init__(
        self,
        layers: int,
        batch_size: int,
        heads: int,
        window: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Made as plain tensors even in inference mode, so that any later call may write to them.
        with torch.inference_mode(False):
            shape = (layers, batch_size, heads, window, head_dim)
            self.keys = torch.zeros(shape, device=device, dtype=dtype)
            self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def batch_size(self) -> int:
        return self.keys.shape[1]

    @property
    def window(self) -> int:
        return self.keys.shape[3]

    @property
    def past(self) -> int:
        """How many stored frames the next one can still see: at most W - 1."""
        return min(self.length, self.window - 1)

    def check(self, shape: tuple[int, int, int, int, int]) -> None:
        """Raises WorkshopError unless the cache has this shape (layers, B, heads, W, d) and may
        be used now: it keeps no gradients."""
        if self.keys.shape != shape:
            raise WorkshopError(
                f"cache: its shape (layers, B, tokens x heads, W, d) is {tuple(self.keys.shape)},"
                f" and {shape} is needed; make it with new_cache({shape[1]}) or cache.select(rows)"
            )
        if torch.is_grad_enabled():
            raise WorkshopError(
                "cache: it keeps no gradients; call inside torch.no_grad() or"
                " torch.inference_mode(), or train on whole clips without a cache"
            )

    def extend(
        self, layer: int, keys: Tensor, values: Tensor, write: bool
    ) -> tuple[Tensor, Tensor]:
        """One layer's new keys and values (B, heads, t, d) -> those of the visible past and these.

        For a single frame, every key returned may be looked at. Several come in order of time,
        the last `past` + t frames, and need a `causal_mask`.

        With write, they are kept: call `advance` when every layer has been here.
        """
        frames = keys.shape[2]
        start = self.length % self.window
        if frames == 1 or self.length + frames <= self.window:
            self.keys[layer, :, :, start : start + frames] = keys
            self.values[layer, :, :, start : start + frames] = values
            filled = min(self.length + frames, self.window)
            return self.keys[layer, :, :, :filled], self.values[layer, :, :, :filled]
        # Several frames past the ring's end: the earlier of them still need what the later replace.
        both = (self.keys[layer], keys), (self.values[layer], values)
        seen = self._slots(self.length - self.past, self.length)
        joined = [
            torch.cat([ring.index_select(2, seen), new.to(ring.dtype)], 2) for ring, new in both
        ]
        if write:
            kept = min(frames, self.window)
            slots = self._slots(self.length + frames - kept, self.length + frames)
            for ring, new in both:
                ring.index_copy_(2, slots, new[:, :, -kept:].to(ring.dtype))
        return joined[0], joined[1]

    def _slots(self, start: int, end: int) -> Tensor:
        return torch.arange(start, end, device=self.keys.device) % self.window

    def ahead(self, frames: int) -> TimeCache:
        """The same memory, from that many frames later on: those that are stored here count as
        past there."""
        later = copy.copy(self)
        later.length += frames
        return later

    def advance(self, frames: int) -> None:
        """Counts the frames that every layer has just kept as past."""
        self.length += frames

    def select(self, rows: Tensor | Sequence[int]) -> TimeCache:
        """A new cache whose clip i is this one's clip rows[i]: [0] * 15 branches one past into 15.

        Raises WorkshopError for rows that are not there.
        """
        index = torch.as_tensor(rows, device=self.keys.device)
        if index.ndim != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise WorkshopError("rows: give a list of row numbers, such as [0, 0, 2]")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.batch_size:
            raise WorkshopError(
                f"rows: {index.tolist()} are not all among the cache's {self.batch_size} rows,"
                f" 0 to {self.batch_size - 1}"
            )
        return self._copy(index)

    def clone(self) -> TimeCache:
        """An independent copy."""
        return self._copy(None)

    def _copy(self, rows: Tensor | None) -> TimeCache:
        other = copy.copy(self)
        with torch.inference_mode(False):
            other.keys = self.keys.clone() if rows is None else self.keys[:, rows]
            other.values = self.values.clone() if rows is None else self.values[:, rows]
        return other

    def reset(self) -> None:
        """Forgets the past; the memory is used again."""
        self.length = 0
