"""The middle of a frame, where the player stands, drawn from everything but where he looks.

In CoinRun most of what a key does to the next frame is not motion. A key changes the speed by less
than half a pixel a frame, frames are drawn at whole pixels, and in the air the keys hardly steer at
all: from the motion alone, a network that is told the actions learns to name few of them. But the
player turns around at once, and the camera holds him in the middle. It is a matter of a few pixels
out of 4,096, too few to count in the error of a whole frame, and the frames before tell which way
he looked: so a decoder needs no code for it, and no code would ever speak of it.

Hence the portrait. It sees what is around the player and, of himself, the mean of the picture and
its mirror image: whether he walks or jumps, but not which way he faces. That must come through the
code. And code t must draw the player not of frame t + 1 alone but of any of the next few (up to
t + `reach`). One picture would not do: "left" could then mean facing left where he walks and facing
right where he jumps. But who jumps now walked a moment ago, and mostly the same way.
"""

from __future__ import annotations

from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

AROUND = 16  # pixels across the square that is seen
CHANNELS = 3
WIDTH = 128


class Portrait(nn.Module):
    """portrait(frames (N, C, H, W), vectors (N, d)) to the middle `side` x `side` pixels of the
    frames themselves, as the codes' vectors say.

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
        self.side, self.maps = side, (1 + dim, CHANNELS, side, side)
        self.around, self.middle = _middle(size, AROUND), _middle(size, side)
        self.hole = _middle(AROUND, side)
        numbers = (1 + dim) * CHANNELS * side**2
        self.surroundings = nn.Sequential(
            nn.Linear(CHANNELS * AROUND**2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, numbers)
        )
        # At first, what a code adds does not depend on the picture.
        nn.init.zeros_(self.surroundings[2].weight)  # type: ignore[arg-type]
        nn.init.normal_(self.surroundings[2].bias, std=0.1)  # type: ignore[arg-type]

    def forward(self, video: Tensor, vectors: Tensor) -> Tensor:
        """float (N, C, side, side). Of the middle, only its mean with its mirror image is used."""
        seen = video[..., self.around, self.around].clone()
        player = video[..., self.middle, self.middle]
        even = (player + player.flip(-1)) / 2
        seen[..., self.hole, self.hole] = even
        maps = self.surroundings(seen.flatten(1)).unflatten(1, self.maps)
        odd = maps[:, 0] + (vectors[:, :, None, None, None] * maps[:, 1:]).sum(dim=1)
        drawn: Tensor = even + (odd - odd.flip(-1)) / 2
        return drawn

    def error(self, video: Tensor, vectors: Tensor) -> Tensor:
        """Mean squared error against the middle of the frames themselves, float ()."""
        drawn = self(video, vectors).float()
        return (drawn - video[..., self.middle, self.middle]).square().mean()

    def paint(self, video: Tensor, vectors: Tensor) -> Tensor:
        """The frames (N, C, H, W) with the player in the middle, turned as the code says."""
        painted = video.clone()
        painted[..., self.middle, self.middle] = self(video, vectors).to(video.dtype)
        return painted


def _middle(size: int, side: int) -> slice:
    start = (size - side) // 2
    return slice(start, start + side)
