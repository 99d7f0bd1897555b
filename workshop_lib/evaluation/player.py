"""Whether the player is still there: CoinRun's camera keeps it in the middle of every picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 12  # pixels of a window; the player is some 6 wide and 8 high
AWAY = 9  # pixels from the middle, beyond which a window holds no player
BATCH = 128
STEPS = 400
FOUND = 0.9  # share of real pictures in which a finder worth its name sees the player


class PlayerFinder(nn.Module):
    """Tells a window with the player from any other, after learning on real pictures.

    What is in the middle of real pictures is the player, and what is elsewhere is not: labels for
    nothing. 400 steps of 256 windows take some seconds of one CPU core.
    """

    def __init__(self) -> None:
        super().__init__()
        side = (SIDE - 2 - 3) // 2 + 1
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * side**2, 64),
            nn.SiLU(),
            nn.Linear(64, 1),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """uint8 (N, 12, 12, C) to logits (N,); above 0 is a player."""
        logits: Tensor = self.layers(windows.movedim(-1, 1).float() / 127.5 - 1)
        return logits[:, 0]

    @torch.inference_mode()
    def sees(self, frames: Tensor) -> Tensor:
        """Whether the player is in the middle: uint8 (..., H, W, C) to bool (...)."""
        flat = frames.reshape(-1, *frames.shape[-3:]).cpu()
        return (self(middle(flat)) > 0).view(frames.shape[:-3])


def middle(frames: Tensor) -> Tensor:
    """The window in the middle of each picture: (N, H, W, C) to (N, 12, 12, C)."""
    top, left = ((size - SIDE) // 2 for size in frames.shape[1:3])
    return frames[:, top : top + SIDE, left : left + SIDE]


def elsewhere(frames: Tensor, generator: torch.Generator) -> Tensor:
    """A window of each picture that is not the middle: (N, H, W, C) to (N, 12, 12, C)."""
    count, height, width = frames.shape[:3]
    top = torch.randint(height - SIDE + 1, (count,), generator=generator)
    left = torch.randint(width - SIDE + 1, (count,), generator=generator)
    center = (height - SIDE) // 2, (width - SIDE) // 2
    near = ((top - center[0]).abs() < AWAY) & ((left - center[1]).abs() < AWAY)
    left = torch.where(near, (left + width // 2 - AWAY) % (width - SIDE + 1), left)
    rows = top[:, None, None] + torch.arange(SIDE)[:, None]
    columns = left[:, None, None] + torch.arange(SIDE)
    return frames[torch.arange(count)[:, None, None], rows, columns]


def learn_to_find(real: Tensor, seed: int = 0) -> PlayerFinder:
    """A finder that learned from real pictures, uint8 (N, H, W, C); equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        finder = PlayerFinder()
    optimizer = torch.optim.AdamW(finder.parameters(), lr=3e-3, weight_decay=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    answers = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])
    for _ in range(STEPS):
        batch = real[torch.randint(len(real), (BATCH,), generator=generator)]
        windows = torch.cat([middle(batch), elsewhere(batch, generator)])
        loss = F.binary_cross_entropy_with_logits(finder(windows), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return finder.eval()


def player_of(real: Tensor, seed: int = 0) -> PlayerFinder | None:
    """A finder that learns from half of the clips given, and is tried on the others.

    real: uint8 (B, T, H, W, C), clips of real play. None if it does not see the player in nine of
    ten of the others' pictures, or sees one where none is in one of ten: pictures of something
    else, too few of them, or smaller than 48 pixels.
    """
    shown, others = (half.flatten(0, 1).cpu() for half in real.tensor_split(2))
    if not len(shown) or min(real.shape[2:4]) < 4 * SIDE:
        return None
    finder = learn_to_find(shown, seed)
    with torch.inference_mode():
        wrong = finder(elsewhere(others, torch.Generator().manual_seed(seed))) > 0
    right = finder.sees(others)
    good = right.float().mean() >= FOUND and wrong.float().mean() <= 1 - FOUND
    return finder if good else None
