"""What a world dreams, as a video: `workshop generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import NOTHING, parse_actions
from workshop_lib.data.game import GameConfig, Look
from workshop_lib.data.shards import read_episode
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.media.keys import PROCGEN_KEYS, Keys
from workshop_lib.media.overlay import draw_keys, side_by_side, stack
from workshop_lib.media.video import write_video
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.worlds.game_world import GameState, GameWorld
from workshop_lib.worlds.opening import open_world
from workshop_lib.worlds.world import World

LEVEL = "level:"  # a prompt from the live game


def generate(
    model: str,
    out: str = "dream.mp4",
    prompt: str = "data/easy",
    actions: str = "dataset",
    frames: int = 64,
    size: int = 64,
    split: Literal["train", "val", "test"] = "test",
    episode: int = 0,
    start: int = 0,
    length: int = 16,
    look: Look = "easy",
    tokenizer: str | None = None,
    lam: str | None = None,
    device: str = "auto",
    steps: int | None = None,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    dream_seed: int | None = None,
    seed: int = 0,
    scale: int = 4,
    fps: float = 15,
    beside: bool = False,
) -> Path:
    """Lets a world dream on from a prompt and writes it as a video with the pressed keys lit.

    Where it is known how things really went on, that is shown above the dream.

    Args:
        model: the safetensors file of a world's model, or the name of a pretrained one.
        out: NAME.mp4 or NAME.gif.
        prompt: a split folder, a picture (PNG, JPEG), or level:NUMBER for that level of the real
            game.
        actions: dataset (those recorded after the prompt), random, or a pattern such as 7,7,8x5
            or "right x10,jump", begun again when it is over; latent codes are given by number,
            too.
        frames: how many frames are dreamed.
        size: height and width that a picture is brought to, in pixels.
        split: which set of a split folder.
        episode: which episode of that set.
        start: frame of the episode at which the prompt begins.
        length: frames in the prompt; a picture is a prompt of one.
        look: of the real game: mono, easy or hard.
        tokenizer: the safetensors file of the tokenizer, for worlds of tokens; in a world of pixels
            dreamed frames pass through it. "none": not even through the model's own.
        lam: the safetensors file of the latent action model, for worlds driven by its codes.
        device: where it dreams: cpu, cuda, or auto for the GPU if there is one.
        steps: of making a frame, in worlds that take several; by default the world's own.
        temperature: of the world's draws, in worlds of tokens; by default the world's own.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        dream_seed: of the world's draws, in worlds that draw; by default the world's own.
        seed: of random actions.
        scale: how much to enlarge the frames.
        fps: frames per second of the video.
        beside: show what really came to the left of the dream, not above it.
    """
    if Path(out).suffix.lower() not in (".mp4", ".gif"):
        raise WorkshopError(f"{out}: --out must end in .mp4 or .gif")
    if frames < 1:
        raise WorkshopError(f"--frames must be 1 or more, got {frames}")
    options: dict[str, Any] = {"steps": steps, "temperature": temperature, "seed": dream_seed}
    options |= {"sampler": sampler, "guidance": guidance}
    world: Any = open_world(model, tokenizer, lam, device, **options)
    if prompt.startswith(LEVEL):
        begun = live_prompt(prompt, look, length)
    elif Path(prompt).is_file():
        begun = picture_prompt(Path(prompt), size)
    else:
        begun = recorded_prompt(prompt, split, episode, start, length)
    keys: Sequence[Keys] = PROCGEN_KEYS
    if getattr(world, "lam", None) is not None and world.key_codes is None:
        begun = in_codes(begun, world.lam.infer, world.device)
        keys = [(f"code {code}",) for code in range(world.num_actions)]
    pressed = choose_actions(actions, begun, world.num_actions, frames, seed)
    dreamed, real = dream(world, begun, pressed), really(begun, pressed)
    write_video(out, film(begun, dreamed, real, pressed, scale, keys, beside), fps)
    print(f"{out}: {len(begun.frames)} frames of prompt and {len(dreamed)} dreamed")
    return Path(out)


@dataclass(frozen=True)
class Prompt:
    """What a dream begins with, and what is known of how it really went on.

    frames: uint8 (T, H, W, C). actions: int64 (T - 1,).
    later_frames: uint8 (R, H, W, C); later_actions: int64 (R,): as recorded, `later_actions[0]`
        led from the last frame of the prompt to the first of these. R is 0 where nothing is.
    game: the real game, standing at the last frame; None but for a live prompt.
    """

    frames: Tensor
    actions: Tensor
    later_frames: Tensor
    later_actions: Tensor
    game: tuple[GameWorld, GameState] | None = None


def recorded_prompt(
    folder: str | Path, split: str, episode: int, start: int, length: int
) -> Prompt:
    """Frames `start` to `start + length` of an episode of a split folder.

    Raises WorkshopError if the episode is too short for that, or has no actions.
    """
    found = read_episode(split_shards(folder, split), episode)
    end = start + length
    if start < 0 or length < 1 or len(found) <= end:
        raise WorkshopError(
            f"{folder}: {split} episode {episode} has {len(found)} frames: a prompt of {length} "
            f"frames from {start} on leaves none to dream; change --episode, --start or --length"
        )
    if found.actions is None:
        raise WorkshopError(f"{folder}: nobody recorded the actions of {split} episode {episode}")
    frames, actions = torch.tensor(found.frames), torch.tensor(found.actions, dtype=torch.int64)
    return Prompt(frames[start:end], actions[start : end - 1], frames[end:], actions[end - 1 : -1])


def picture_prompt(path: Path, size: int) -> Prompt:
    """One frame, made `size` x `size` pixels if it is not."""
    from PIL import Image

    try:
        picture = Image.open(path).convert("RGB")
    except OSError as error:
        raise WorkshopError(f"{path}: cannot be read as a picture ({error})") from error
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    frames = torch.tensor(np.asarray(picture))[None]
    nothing = torch.zeros(0, dtype=torch.int64)
    return Prompt(frames, nothing, frames[:0], nothing)


def live_prompt(name: str, look: Look, length: int) -> Prompt:
    """The first `length` frames of a level of the real game, "level:NUMBER", nothing pressed.

    Raises WorkshopError where there is no simulator.
    """
    if not name.removeprefix(LEVEL).isdigit():
        raise WorkshopError(f"--prompt {name}: give the level's number, such as level:110003")
    level = int(name.removeprefix(LEVEL))
    game = GameWorld(GameConfig(look=look, levels=(level, level + 1)))
    state = game.begin()
    for _ in range(length - 1):
        _, state = game.step(state, torch.tensor([NOTHING]))
    frames, actions = game.prompt(state)
    none = torch.zeros(0, dtype=torch.int64)
    return Prompt(frames[0], actions[0], frames[0, :0], none, (game, state))


def in_codes(
    prompt: Prompt, infer: Callable[[Tensor], Tensor], device: torch.device | str = "cpu"
) -> Prompt:
    """The prompt for a world that takes latent actions: what was pressed becomes codes.

    infer: uint8 (B, T, H, W, C) to what led from each frame to the next, int64 (B, T - 1).

    The live game goes, as it takes keys.
    """
    frames = torch.cat([prompt.frames, prompt.later_frames])
    last = len(prompt.frames) - 1  # the last frame of the prompt
    if len(frames) == 1:
        return replace(prompt, game=None)
    codes = infer(frames[None].to(device))[0].cpu()
    return replace(prompt, actions=codes[:last], later_actions=codes[last:], game=None)


def choose_actions(
    text: str, prompt: Prompt, num_actions: int, frames: int, seed: int = 0
) -> Tensor:
    """What is pressed after the prompt, int64 (n,), n <= frames.

    text: "dataset" (as recorded, as far as it goes), "random", or a pattern such as "7,7,8x5" or
        "right x10,jump", which begins again when it is over.

    Raises WorkshopError for a pattern with actions that the world does not have, and where nothing
    is recorded.
    """
    if text == "dataset":
        if len(prompt.later_actions) == 0:
            raise WorkshopError(
                "--actions dataset: nothing is recorded after this prompt; give random or a "
                "pattern such as 7,7,8x5"
            )
        pressed = prompt.later_actions[:frames]
    elif text == "random":
        rng = np.random.default_rng(seed)
        pressed = torch.from_numpy(rng.integers(num_actions, size=frames))
    else:
        pattern = parse_actions(text)
        if len(pattern) == 0:
            raise WorkshopError(f"--actions {text!r} is a pattern of no actions")
        pressed = torch.from_numpy(np.resize(pattern, frames))
    if int(pressed.max()) >= num_actions:
        raise WorkshopError(
            f"--actions {text}: this world has the actions 0 to {num_actions - 1}, not "
            f"{int(pressed.max())}"
        )
    return pressed


def dream(world: World, prompt: Prompt, actions: Tensor) -> Tensor:
    """What the world shows after the prompt: uint8 (n, H, W, C) for int64 (n,) actions."""
    state = world.begin(prompt.frames[None], prompt.actions[None])
    frames = []
    for action in actions:
        frame, state = world.step(state, action[None])
        frames.append(frame[0].cpu())
    return torch.stack(frames)


def really(prompt: Prompt, actions: Tensor) -> Tensor:
    """What really comes of these actions, as far as it is known: uint8 (m, H, W, C), m <= n.

    The live game is played on until its level ends. A recording counts if it has these actions.
    """
    if prompt.game is None:
        known = torch.equal(actions, prompt.later_actions[: len(actions)])
        return prompt.later_frames[: len(actions) if known else 0]
    game, state = prompt.game
    frames = []
    for action in actions:
        frame, state = game.step(state, action[None])
        if int(state.age) == 1:  # another level has begun
            break
        frames.append(frame[0])
    return torch.stack(frames) if frames else prompt.later_frames


def film(
    prompt: Prompt,
    dreamed: Tensor,
    real: Tensor,
    actions: Tensor,
    scale: int = 4,
    keys: Sequence[Keys] = PROCGEN_KEYS,
    beside: bool = False,
) -> np.ndarray:
    """Prompt and dream with the keys that were pressed: uint8 (T + n, H', W', 3).

    real: uint8 (m, H, W, C), m <= n: shown above the dream, or to the left of it, its last frame
        darkened where it is over; nothing is shown there if there is none.
    """
    T, n, m = len(prompt.frames), len(dreamed), len(real)
    pressed = torch.cat([prompt.actions, actions]).numpy()
    captions = ["prompt"] * T + [f"dreamed {k + 1}" for k in range(n)]
    below = draw_keys(torch.cat([prompt.frames, dreamed]), pressed, scale, captions, keys)
    if m == 0:
        return below
    over = (real[-1:] // 3).expand(n - m, *real.shape[1:])
    captions = ["real"] * (T + m) + ["over"] * (n - m)
    above = draw_keys(torch.cat([prompt.frames, real, over]), pressed, scale, captions, keys)
    return side_by_side([above, below]) if beside else stack([above, below])
