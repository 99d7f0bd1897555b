"""What a shard or a split folder holds, in numbers and pictures: `workshop inspect`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workshop_lib.data.actions import ACTIONS, NUM_ACTIONS
from workshop_lib.data.episodes import Episode
from workshop_lib.data.index import ShardIndex
from workshop_lib.data.shards import find_shards, open_shard, read_episode, read_index
from workshop_lib.data.splits import MANIFEST, load_manifest
from workshop_lib.errors import WorkshopError


def inspect(
    path: str,
    out: str | None = None,
    episode: int | None = None,
    scale: int = 4,
    fps: float = 15,
    skip_bad: bool = False,
    verify: bool = False,
) -> None:
    """Prints what a shard, a folder of shards or a split folder holds; --out draws it too.

    Args:
        path: a shard, a folder of shards, or a folder with manifest.json.
        out: NAME.mp4 or NAME.gif for a video with the pressed keys lit, NAME.png for a sheet.
        episode: the one to draw; without it, a video shows the first and a sheet many.
        scale: how much to enlarge the frames.
        fps: frames per second of the video.
        skip_bad: go on past records that cannot be read, and count them.
        verify: compare each file of a split folder with the SHA-256 in its manifest.
    """
    place = Path(path)
    if (place / MANIFEST).exists():
        _print_manifest(place, verify)
        shards = find_shards(place / "train")
    else:
        if verify:
            raise WorkshopError(f"{place}: --verify needs a folder with {MANIFEST}")
        shards = find_shards(place)
        for shard in shards:
            _print_shard(shard, read_index(shard, skip_bad=skip_bad))
    if out is not None:
        _draw(shards, Path(out), episode, scale, fps, skip_bad)
        print(f"wrote {out}")


def _print_shard(path: Path, index: ShardIndex) -> None:
    lengths = np.array(index.lengths)
    seeds = {seed for seed in index.level_seeds if seed is not None}
    raw = index.frames * index.height * index.width * 3
    print(f"{path}")
    print(f"  episodes   {len(lengths)}, of {lengths.min()} to {lengths.max()} frames, ", end="")
    print(f"median {np.median(lengths):.0f}; {index.episode_starts} begin at a level's start")
    print(f"  frames     {index.frames} of {index.height}x{index.width}")
    print(f"  levels     {f'{len(seeds)}, {min(seeds)} to {max(seeds)}' if seeds else 'unknown'}")
    print(f"  reward     {index.reward_sum:g} in all")
    print(f"  file       {index.bytes} bytes, {raw / index.bytes:.1f} times smaller than raw")
    print(f"  actions    {_shares(index.action_counts)}")
    if index.bad:
        print(f"  bad        {len(index.bad)} records skipped: {index.bad[:10]}")


def _print_manifest(folder: Path, verify: bool) -> None:
    manifest = load_manifest(folder, verify=verify)
    print(f"{folder}, split by {manifest['split_by']}; made by: {manifest['command']}")
    for name, part in manifest["splits"].items():
        start, stop = part["levels"]
        print(f"  {name:<6} {part['episodes']} episodes, {part['frames']} frames, ", end="")
        print(f"{part['level_count']} levels of {start}:{stop}, {len(part['shards'])} shards")
        print(f"         actions {_shares(part['action_histogram'])}")
    print(f"  levels are disjoint{'; every SHA-256 is right' if verify else ''}")


def _shares(counts: list[int]) -> str:
    if not counts:
        return "unknown"
    names = [a.name for a in ACTIONS] if len(counts) <= NUM_ACTIONS else [str(a) for a in range(99)]
    total = sum(counts)
    return ", ".join(
        f"{name} {100 * count / total:.0f}%"
        for name, count in zip(names, counts, strict=False)
        if count
    )


def _draw(
    shards: list[Path], out: Path, episode: int | None, scale: int, fps: float, skip_bad: bool
) -> None:
    from workshop_lib.media.overlay import draw_keys
    from workshop_lib.media.sheet import contact_sheet, write_image
    from workshop_lib.media.video import write_video

    if out.suffix.lower() not in (".png", ".mp4", ".gif"):
        raise WorkshopError(f"{out}: --out must end in .png, .mp4 or .gif")
    if out.suffix.lower() == ".png" and episode is None:
        frames, labels = _one_frame_each(shards, skip_bad, limit=48)
        write_image(out, contact_sheet(frames, columns=8, labels=labels, scale=min(scale, 3)))
        return
    chosen = read_episode(shards, episode or 0, skip_bad)
    if out.suffix.lower() == ".png":
        labels = [f"{t} {_name(chosen, t)}" for t in range(len(chosen))]
        write_image(out, contact_sheet(chosen.frames, 10, labels, scale=min(scale, 3)))
        return
    actions = chosen.actions
    if actions is None or actions.max() >= NUM_ACTIONS:  # no keys are known for these
        write_video(out, chosen.frames.repeat(scale, 1).repeat(scale, 2), fps)
    else:
        write_video(out, draw_keys(chosen.frames, actions, scale), fps)


def _name(episode: Episode, t: int) -> str:
    if episode.actions is None:
        return ""
    action = int(episode.actions[t])
    return ACTIONS[action].name if action < NUM_ACTIONS else str(action)


def _one_frame_each(shards: list[Path], skip_bad: bool, limit: int) -> tuple[np.ndarray, list[str]]:
    """The middle frame of episodes spread evenly over the shards."""
    places = [(p, n) for p in shards for n in read_index(p, skip_bad=skip_bad).records]
    step = max(1, len(places) // limit)
    opened = {path: open_shard(path) for path in shards}
    frames, labels = [], []
    for path, record in places[::step][:limit]:
        episode = opened[path].read(record)
        frames.append(episode.frames[len(episode) // 2])
        seed = episode.level_seed
        labels.append(f"record {record}" if seed is None else f"level {seed}")
    return np.stack(frames), labels
