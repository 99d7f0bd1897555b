"""The middle of a frame, where the player stands, drawn from what is around it and from the code.

In CoinRun most of what a key does to the next frame is not motion. A key changes the speed by less
than half a pixel a frame, frames are drawn at whole pixels, and in the air the keys hardly steer at
all: from the motion alone, a network that is told the actions learns to name few of them. But the
player turns around at once, and the camera holds him in the middle. It is a matter of five pixels
out of 4,096, too few to count in the error of a whole frame, and the frames before tell which way
he looked: so a decoder needs no code for it, and no code would ever speak of it.

Hence the portrait. It sees the next frame around the player, and of the player himself no more than
the mean of how he looked last and of the mirror image of that: whether his legs are together, but
not which way he faced. That must come through the code. Code and surroundings are added up, so that
a code adds the same picture wherever it is used, and cannot mean one thing here and another there.
"""

from __future__ import annotations

from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

AROUND = 16  # pixels across the square that is seen
CHANNELS = 3
WIDTH = 128


class Portrait(nn.Module):
    """portrait(next frames, last frames (N, C, H, W), vectors (N, d)) to the next frames' middle
    `side` x `side` pixels.

    side: an even number of pixels less than 16. size: H and W, 16 or more. dim: d, channels of a
    code's vector.
    """

    def __init__(self, side: int, size: int, dim: int) -> None:
        super().__init__()
        if side % 2 or not 0 < side < AROUND <= size:
            raise WorkshopError(
                f"model.portrait: {side} must be an even number of pixels less than {AROUND}, of "
                f"frames of {AROUND} pixels or more (model.size: {size})"
            )
        self.side = side
        self.around, self.middle = _middle(size, AROUND), _middle(size, side)
        self.hole = _middle(AROUND, side)
        out = CHANNELS * side**2
        self.surroundings = nn.Sequential(
            nn.Linear(CHANNELS * AROUND**2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, out)
        )
        self.code = nn.Linear(dim, out)
        nn.init.normal_(self.code.weight, std=0.1)

    def forward(self, video: Tensor, last: Tensor, vectors: Tensor) -> Tensor:
        """float (N, C, side, side). What `video` shows in the middle has no influence."""
        seen = video[..., self.around, self.around].clone()
        player = last[..., self.middle, self.middle]
        seen[..., self.hole, self.hole] = (player + player.flip(-1)) / 2
        drawn: Tensor = self.surroundings(seen.flatten(1)) + self.code(vectors)
        return drawn.view(-1, CHANNELS, self.side, self.side)

    def error(self, video: Tensor, last: Tensor, vectors: Tensor) -> Tensor:
        """Mean squared error against the middle of the frames themselves, float ()."""
        drawn = self(video, last, vectors).float()
        return (drawn - video[..., self.middle, self.middle]).square().mean()

    def paint(self, video: Tensor, last: Tensor, vectors: Tensor) -> Tensor:
        """The frames (N, C, H, W) with the player in the middle, drawn by the code."""
        painted = video.clone()
        painted[..., self.middle, self.middle] = self(video, last, vectors).to(video.dtype)
        return painted


def _middle(size: int, side: int) -> slice:
    start = (size - side) // 2
    return slice(start, start + side)
