"""Any footage becomes episodes: every kind of source is really made, then imported."""

import h5py
import numpy as np
import pytest

from tests.conftest import SAMPLE
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.shards import find_shards, open_shard, read_all
from workshop_lib.data.splits import load_manifest
from workshop_lib.data.splitting import split
from workshop_lib.errors import WorkshopError
from workshop_lib.media.footage import import_footage
from workshop_lib.media.overlay import enlarge
from workshop_lib.media.sheet import write_image
from workshop_lib.media.video import write_video


@pytest.fixture(scope="module")
def episodes():
    """Three real episodes."""
    shard = open_shard(find_shards(SAMPLE / "easy/train")[0])
    return [shard.read(index) for index in range(3)]


def imported(source, out, **options):
    path = import_footage(str(source), str(out), progress=False, **options)
    return list(read_all(open_shard(path)))


def closeness(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def test_a_folder_of_videos(tmp_path, episodes):
    for k, episode in enumerate(episodes):
        write_video(tmp_path / f"in/{k}.mp4", enlarge(episode.frames, 4))
    np.save(tmp_path / "in/1.actions.npy", episodes[1].actions)
    result = imported(tmp_path / "in", tmp_path / "out")
    assert [len(e) for e in result] == [len(e) for e in episodes]
    assert [e.level_seed for e in result] == [0, 1, 2]  # each video is a level of its own
    assert all(closeness(a.frames, b.frames) < 4 for a, b in zip(result, episodes, strict=True))
    assert result[0].actions is None
    np.testing.assert_array_equal(result[1].actions, episodes[1].actions)


def test_long_videos_are_cut_and_thinned(tmp_path, episodes):
    frames = np.concatenate([e.frames for e in episodes])
    actions = np.arange(len(frames)) % 15
    np.savez(tmp_path / "long.npz", frames=frames, actions=actions)
    result = imported(tmp_path / "long.npz", tmp_path / "out", every=3, max_frames=20)
    assert {len(e) for e in result[:-1]} == {20}
    assert [bool(e.first[0]) for e in result] == [True] + [False] * (len(result) - 1)
    assert {e.level_seed for e in result} == {0}  # one video, one level: a split keeps it together
    np.testing.assert_array_equal(np.concatenate([e.frames for e in result]), frames[::3])
    np.testing.assert_array_equal(np.concatenate([e.actions for e in result]), actions[::3])


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_of_many_episodes(tmp_path, episodes, kind, labelled):
    frames = np.stack([e.frames[:30] for e in episodes])
    arrays = {"frames": frames}
    if labelled:
        arrays["actions"] = np.stack([e.actions[:30] for e in episodes])
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez_compressed(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file.create_dataset(key, data=value, compression="gzip")
    result = imported(path, tmp_path / "out")
    np.testing.assert_array_equal(np.stack([e.frames for e in result]), frames)
    assert (result[0].actions is not None) == labelled
    if labelled:
        np.testing.assert_array_equal(np.stack([e.actions for e in result]), arrays["actions"])


def test_folders_of_pictures(tmp_path, episodes):
    for k, episode in enumerate(episodes):
        for t, frame in enumerate(episode.frames[:5]):
            (tmp_path / f"in/{k}").mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / f"in/{k}/{t:03d}.png", frame)
    result = imported(tmp_path / "in", tmp_path / "out")
    for a, b in zip(result, episodes, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames[:5])
    alone = imported(tmp_path / "in/2", tmp_path / "alone")
    np.testing.assert_array_equal(alone[0].frames, episodes[2].frames[:5])


def test_squash_keeps_everything_and_crop_the_middle(tmp_path):
    frames = np.zeros((4, 64, 128, 3), np.uint8)
    frames[:, :, :32] = 255  # a bright left quarter
    np.savez(tmp_path / "wide.npz", frames=frames)
    squashed = imported(tmp_path / "wide.npz", tmp_path / "squash")[0].frames
    cropped = imported(tmp_path / "wide.npz", tmp_path / "crop", fit="crop")[0].frames
    assert squashed.shape == cropped.shape == (4, 64, 64, 3)
    assert squashed[:, :, :16].min() == 255 and squashed[:, :, 16:].max() == 0
    assert cropped.max() == 0


def test_imported_footage_can_be_split_and_trained_on(tmp_path, episodes):
    for k in range(6):
        write_video(tmp_path / f"in/{k}.mp4", enlarge(episodes[k % 3].frames, 2))
    import_footage(str(tmp_path / "in"), str(tmp_path / "out"), progress=False)
    split(str(tmp_path / "out"), out=str(tmp_path / "split"), val=0.2, test=0.2)
    sizes = {k: v["episodes"] for k, v in load_manifest(tmp_path / "split")["splits"].items()}
    assert sum(sizes.values()) >= 6 and min(sizes.values()) >= 1
    clips = ClipBatches(find_shards(tmp_path / "split/train"), ClipConfig(length=8, batch_size=8))
    assert next(iter(clips)).frames.shape == (8, 8, 64, 64, 3)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "nothing to import"),
        (lambda p: p.write_text("x"), "do not know how"),
        (lambda p: (p.mkdir(), (p / "a.mp4").write_text("no video")), "a.mp4"),
        (lambda p: (p.mkdir(), (p / "a.png").write_text("no picture")), "a.png"),
        (lambda p: (p.mkdir(), (p / "a.h5").write_text("no h5")), "a.h5"),
        (lambda p: (p.mkdir(), (p / "a.npz").write_text("no npz")), "a.npz"),
        (
            lambda p: (p.mkdir(), np.savez(p / "a.npz", video=np.zeros(3))),
            "no array named 'frames'",
        ),
        (lambda p: (p.mkdir(), np.savez(p / "a.npz", frames=np.zeros((2, 4, 4, 3)))), "uint8"),
        (
            lambda p: (
                p.mkdir(),
                np.savez(p / "a.npz", frames=np.zeros((2, 4, 4, 3), np.uint8), actions=np.zeros(3)),
            ),
            "actions must have the shape",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path, make, complaint):
    make(tmp_path / "in")
    with pytest.raises(WorkshopError, match=complaint):
        import_footage(str(tmp_path / "in"), str(tmp_path / "out"), progress=False)
    assert not list(tmp_path.glob("out/*"))  # nothing half done is left


def test_too_few_actions_are_named(tmp_path, episodes):
    write_video(tmp_path / "in/a.mp4", episodes[0].frames)
    np.save(tmp_path / "in/a.actions.npy", episodes[0].actions[:-3])
    with pytest.raises(WorkshopError, match="actions for its frames"):
        import_footage(str(tmp_path / "in"), str(tmp_path / "out"), progress=False)
