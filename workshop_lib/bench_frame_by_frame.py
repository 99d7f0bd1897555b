"""The plain loop that `workshop bench train` compares with: a clip's frames one after the other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from workshop_lib.models.diffusion import Diffusion
from workshop_lib.nn.cache import TimeCache


class FrameByFrame(nn.Module):
    """A diffusion network whose frames go through it one at a time: same weights, same sums.

    It is the loop that one writes down first. Each frame passes all blocks alone: attention over
    its own tokens, feed-forward layers, conditioning. Time attention is the one place where it
    meets others: the loop keeps every block's keys and values of the frames so far, with their
    gradients, and the new frame looks at these and its own. Nothing is computed twice. What the
    loop lacks is that many frames share one large product, and one attention over all of time.
    """

    def __init__(self, net: nn.Module, window: int) -> None:
        super().__init__()
        self.net, self.window = net, window

    def forward(self, video: Tensor, label: Tensor, led_by: Tensor, drafts: bool = False) -> Tensor:
        """As of the network, on (B, T, ...). With drafts, the second half of them, each draft has
        its turn after the settled frame that it follows, as in play."""
        whole, kept = (video, label, led_by), KeptFrames(self.window)
        count = video.shape[1] // 2 if drafts else video.shape[1]
        maps = []
        for t in range(count):
            shown = self.net(*(part[:, t, None] for part in whole), cache=kept)
            if drafts:
                draft = (part[:, count + t, None] for part in whole)
                shown = self.net(*draft, cache=kept, write=False)
            maps.append(shown)
        return torch.cat(maps, dim=1)


class KeptFrames(TimeCache):
    """The cache's verbs over a growing list of single frames, for training: gradients flow back
    through it."""

    def __init__(self, window: int) -> None:
        self.length, self._window = 0, window
        self._frames: dict[int, list[tuple[Tensor, Tensor]]] = {}  # of each layer, at most W

    @property
    def window(self) -> int:
        return self._window

    def check(self, shape: tuple[int, ...]) -> None:
        """Every shape will do, gradients too."""

    def extend(
        self, layer: int, keys: Tensor, values: Tensor, write: bool
    ) -> tuple[Tensor, Tensor]:
        """As in TimeCache, for one new frame, (B, heads, 1, d)."""
        seen = [*self._frames.get(layer, []), (keys, values)][-self.window :]
        if write:
            self._frames[layer] = seen
        all_keys, all_values = zip(*seen, strict=True)
        return torch.cat(all_keys, dim=2), torch.cat(all_values, dim=2)


def frame_by_frame(model: Diffusion) -> Any:
    """A copy that computes the same loss and gradients, frame by frame."""
    looped: Any = copy.deepcopy(model)
    looped.net = FrameByFrame(looped.net, model.config.net.window)
    return looped
