"""Worlds whose figures are known: the real game itself, and ways of being wrong."""

import torch

from workshop_lib.data.actions import NUM_ACTIONS, RIGHT
from workshop_lib.data.game import GameConfig
from workshop_lib.worlds.game_world import GameWorld


class Oracle:
    """The real game behind a prompt: it knows which saved moment each prompt ends at.

    keys: what it makes of the 15 keys, int64 (15,); by default itself.
    """

    num_actions, context = NUM_ACTIONS, 1

    def __init__(self, starts, keys=None):
        self.config = GameConfig(look=starts.look)
        self.keys = torch.arange(NUM_ACTIONS) if keys is None else keys
        self.games = {}  # by how many are played at once
        self.known = {}
        for past, moment in zip(starts.frames, starts.moments, strict=True):
            self.known[past[-1].numpy().tobytes()] = moment

    def begin(self, frames, actions):
        moments = [self.known[frame.numpy().tobytes()] for frame in frames[:, -1]]
        game = self.games.setdefault(len(moments), None) or GameWorld(self.config, len(moments))
        self.games[len(moments)] = game
        return game, game.begin(moments=moments)

    def step(self, state, action):
        game, moment = state
        frame, following = game.step(moment, self.keys[action])
        return frame, (game, following)


ALWAYS_RIGHT = torch.full((NUM_ACTIONS,), RIGHT)


class ScrollWorld:
    """The picture goes round and round by `speed` pixels: LEFT (0 to 2) moves it right, RIGHT
    (6 to 8) left, whatever else nothing."""

    num_actions, context = NUM_ACTIONS, 1

    def __init__(self, speed=1):
        self.speed = speed

    def begin(self, frames, actions):
        return frames[:, -1]

    def step(self, state, action):
        sides = (action < 3).long() - ((action > 5) & (action < 9)).long()
        rolled = [
            frame.roll(self.speed * int(side), dims=1)
            for frame, side in zip(state, sides, strict=True)
        ]
        frame = torch.stack(rolled)
        return frame, frame
