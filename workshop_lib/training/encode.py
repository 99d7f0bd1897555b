"""A dataset's tokens, computed once: `workshop encode`.

What is trained on tokens then never runs the tokenizer's encoder: clips from the new folder have
`clip.tokens` beside their frames.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workshop_lib.data.encoded import ENCODING_FILE, KEY, tokenizer_entry
from workshop_lib.data.episodes import Episode
from workshop_lib.data.sampling import SETTINGS_FILE
from workshop_lib.data.shards import FORMATS, open_shard, read_index
from workshop_lib.data.splits import MANIFEST, file_sha256, load_manifest
from workshop_lib.data.splitting import Format, shard_entry, shard_suffix, write_manifest
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.pretrained import find_file

# Frames that pass through a per-frame encoder at once: more overflow a CPU's cache.
BATCH = {"cpu": 32, "cuda": 1024}


def encode(
    tokenizer: str,
    data: str,
    out: str,
    format: Format = "same",
    skip_bad: bool = False,
    redraw: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes a dataset again with its tokens, so that training on tokens needs no encoder.

    May be interrupted at any time: finished shards stay, the same command goes on from there.

    Args:
        tokenizer: the safetensors file of a tokenizer, or the name of a pretrained one.
        data: a split folder.
        out: folder for the same three sets with tokens.
        format: of the new shards: same as data's, array_record, npz or npy.
        skip_bad: go on past records that cannot be read, and count them.
        redraw: write frames as the tokenizer draws them again, in place of the real ones: what a
            world of pixels sees whose dreams pass through it (worlds/repeater.py).
        progress: show a progress bar with frames per second and time left.
    """
    from tqdm.auto import tqdm

    tokenizer = str(find_file(tokenizer))
    model = load_tokenizer(tokenizer)
    source, target = Path(data), Path(out)
    manifest = load_manifest(source)
    entry = tokenizer_entry(tokenizer, model.num_codes, model.config.grid)
    settings = {KEY: entry, "data": file_sha256(source / MANIFEST), "format": format}
    _remember(target, {**settings, "redraw": True} if redraw else settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    frames, begun = 0, time.perf_counter()
    with tqdm(total=_frames(manifest), unit="frame", disable=not progress) as bar:
        for name, part in manifest["splits"].items():
            (target / name).mkdir(parents=True, exist_ok=True)
            if (source / name / SETTINGS_FILE).is_file():
                shutil.copy(source / name / SETTINGS_FILE, target / name)
            for number, shard in enumerate(part["shards"]):
                path, new = source / shard["file"], _new_path(target, shard["file"], format)
                if new.exists():  # from before an interruption
                    bar.update(shard["frames"])
                else:
                    _encode_shard(model, path, new, skip_bad, redraw, bar.update)
                    frames += shard["frames"]
                part["shards"][number] = shard_entry(target, new, read_index(new))
            part["bad_records"] = 0
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    manifest = {**manifest, KEY: entry, "encode_command": command}
    write_manifest(target, manifest)
    seconds = time.perf_counter() - begun
    print(f"{target}: {_frames(manifest)} frames with tokens", end="")
    print(f"; {frames / seconds:.0f} frames/s on {device}" if frames else "; nothing left to do")
    return manifest


def load_tokenizer(file: str | Path) -> Tokenizer:
    """A tokenizer that gives each frame its own tokens.

    Raises WorkshopError naming the file if it holds anything else.
    """
    model = load_model(file)
    if not isinstance(model, Tokenizer):
        raise WorkshopError(f"{file}: holds a {type(model).__name__}, not a tokenizer")
    if model.config.time_patch > 1:
        raise WorkshopError(
            f"{file}: its tokens stand for {model.config.time_patch} frames each; only a tokenizer "
            f"with model.time_patch 1 gives every frame its own tokens, which dynamics need"
        )
    return model


def _remember(target: Path, settings: dict[str, Any]) -> None:
    """Keeps the settings in the folder, so that only the same command goes on there."""
    path = target / ENCODING_FILE
    if path.is_file():
        known = json.loads(path.read_text())
        if known != settings:
            raise WorkshopError(
                f"{target}: holds tokens of {known[KEY]['file']} (SHA-256 "
                f"{known[KEY]['sha256'][:12]}...), or of other data, or in another format; delete "
                f"it or use another folder"
            )
        return
    if target.exists() and any(target.iterdir()):
        raise WorkshopError(f"{target}: not empty; give --out a new folder")
    target.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def _frames(manifest: dict[str, Any]) -> int:
    return sum(part["frames"] for part in manifest["splits"].values())


def _new_path(target: Path, file: str, format: Format) -> Path:
    suffix = shard_suffix(Path(file))
    return target / (file.removesuffix(suffix) + (suffix if format == "same" else FORMATS[format]))


def _encode_shard(
    tokenizer: Tokenizer,
    path: Path,
    new: Path,
    skip_bad: bool,
    redraw: bool,
    on_frames: Callable[[int], Any],
) -> None:
    records, shard = read_index(path, skip_bad=skip_bad).records, open_shard(path)
    with ShardWriter(new) as writer:
        for episode in encode_episodes(tokenizer, map(shard.read, records), redraw):
            writer.write(episode)
            on_frames(len(episode))
    shard.close()


@torch.inference_mode()
def encode_episodes(
    tokenizer: Tokenizer, episodes: Iterable[Episode], redraw: bool = False
) -> Iterator[Episode]:
    """The episodes with their tokens, and, to redraw them, with the frames that these make.

    A tokenizer that looks back in time sees each episode from its first frame on. One that takes
    frames by themselves gets those of several short episodes at once.
    """
    per_frame = tokenizer.config.architecture == "conv"
    batch = BATCH[next(tokenizer.parameters()).device.type]
    waiting: list[Episode] = []
    for episode in episodes:
        waiting.append(episode)
        if not per_frame or sum(map(len, waiting)) >= batch:
            yield from _with_tokens(
                tokenizer, waiting, batch if per_frame else len(episode), redraw
            )
            waiting = []
    if waiting:
        yield from _with_tokens(tokenizer, waiting, batch, redraw)


def _with_tokens(
    tokenizer: Tokenizer, episodes: list[Episode], batch: int, redraw: bool
) -> list[Episode]:
    """Encodes the episodes' frames laid end to end, `batch` of them at once."""
    device = next(tokenizer.parameters()).device
    frames = torch.from_numpy(np.concatenate([episode.frames for episode in episodes]))
    dtype = np.uint16 if tokenizer.num_codes <= 1 << 16 else np.uint32
    parts = [tokenizer.encode(part[None].to(device))[0] for part in frames.split(batch)]
    if redraw:
        frames = torch.cat([tokenizer.decode(part[None])[0].cpu() for part in parts])
    tokens = torch.cat(parts).cpu().numpy().astype(dtype)  # F h w
    ends = np.cumsum([len(episode) for episode in episodes])[:-1]
    return [
        replace(episode, frames=own, tokens=made)
        for episode, own, made in zip(
            episodes, np.split(frames.numpy(), ends), np.split(tokens, ends), strict=True
        )
    ]
