"""`workshop encode`: the tokens are the tokenizer's own, whatever happens on the way."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.cli import main
from workshop_lib.data.clips import ClipConfig, fixed_clips
from workshop_lib.data.encoded import check_tokenizer
from workshop_lib.data.shards import find_shards, open_shard, read_all
from workshop_lib.data.splits import load_manifest, split_shards
from workshop_lib.data.splitting import split
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model, read_metadata, save_model
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.training.encode import encode


def save_tokenizer(path, seed=0, **changes):
    torch.manual_seed(seed)
    config = TokenizerConfig(**{"dim": 16, "depth": 1, "latent_dim": 16, **changes})
    save_model(Tokenizer(config), "tokenizer", path, {})
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "mine.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A split folder of some real episodes, two shards in train."""
    folder = tmp_path_factory.mktemp("plain")
    for name, shards in (("train", 2), ("val", 1), ("test", 1)):
        source = open_shard(find_shards(SAMPLE / "easy" / name)[0])
        for number in range(shards):
            with ShardWriter(folder / name / f"{number}.array_record") as writer:
                for index in range(3):
                    writer.write(source.read(3 * number + index))
    split(str(folder))
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, plain, tokenizer):
    folder = tmp_path_factory.mktemp("encoded") / "new"
    encode(tokenizer, str(plain), str(folder), progress=False)
    return folder


def episodes(folder, name="train"):
    return [e for path in split_shards(folder, name) for e in read_all(open_shard(path))]


def same_episodes(a, b):
    for one, other in zip(a, b, strict=True):
        for key in ("frames", "actions", "first", "reward", "tokens"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


@pytest.mark.parametrize("format", ["same", "npz", "npy"])
def test_a_clips_tokens_are_its_frames_encoded(tmp_path, plain, tokenizer, format):
    encode(tokenizer, str(plain), str(tmp_path / "new"), format=format, progress=False)
    model = load_model(tokenizer)
    config = ClipConfig(length=8, batch_size=8)
    for name in ("train", "val", "test"):
        for clip in fixed_clips(split_shards(tmp_path / "new", name), config, batches=2):
            assert torch.equal(clip.tokens, model.encode(clip.frames))
            assert len(clip.tokens.unique()) > 10


def test_all_else_is_as_it_was(plain, encoded, tokenizer):
    before, after = load_manifest(plain), load_manifest(encoded, verify=True)
    for name, part in before["splits"].items():
        assert {**after["splits"][name], "shards": 0} == {**part, "shards": 0}
        for old, new in zip(episodes(plain, name), episodes(encoded, name), strict=True):
            np.testing.assert_array_equal(old.frames, new.frames)
            np.testing.assert_array_equal(old.actions, new.actions)
            assert old.level_seed == new.level_seed
    noted = after["tokenizer"]
    assert (noted["file"], noted["num_codes"], noted["grid"]) == ("mine.safetensors", 512, [8, 8])


def test_redrawn_frames_are_what_the_tokenizer_makes_of_them(tmp_path, plain, encoded, tokenizer):
    encode(tokenizer, str(plain), str(tmp_path / "new"), redraw=True, progress=False)
    model = load_model(tokenizer)
    for old, new in zip(episodes(encoded), episodes(tmp_path / "new"), strict=True):
        for key in ("tokens", "actions", "first", "reward"):
            np.testing.assert_array_equal(getattr(old, key), getattr(new, key))
        tokens = torch.from_numpy(new.tokens.astype(np.int64))
        again = model.decode(tokens[None])[0].float().numpy()
        assert np.abs(new.frames - again).max() <= 1  # in batches it rounds otherwise
        assert np.abs(new.frames - old.frames.astype(np.float32)).mean() > 5
    with pytest.raises(WorkshopError, match="holds tokens of"):
        encode(tokenizer, str(plain), str(tmp_path / "new"), progress=False)


def test_the_tokenizer_stays_noted_when_the_folder_is_described_again(encoded):
    before = load_manifest(encoded)
    assert split(str(encoded))["tokenizer"] == before["tokenizer"]
    assert load_manifest(encoded)["splits"] == before["splits"]


def test_cut_off_it_goes_on_where_it_was(tmp_path, plain, encoded, tokenizer, monkeypatch):
    from workshop_lib.training import encode as module

    whole, done = module.encode_episodes, []

    def cut_off(model, source, redraw):
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return whole(model, source, redraw)

    out = tmp_path / "new"
    monkeypatch.setattr(module, "encode_episodes", cut_off)
    with pytest.raises(KeyboardInterrupt):
        encode(tokenizer, str(plain), str(out), progress=False)
    with pytest.raises(WorkshopError, match=r"manifest\.json"):  # not to be taken for a whole one
        load_manifest(out)
    (finished,) = find_shards(out / "train")
    written = finished.stat().st_mtime_ns
    encode(tokenizer, str(plain), str(out), progress=False)
    assert finished.stat().st_mtime_ns == written and len(done) == 5
    for name in ("train", "val", "test"):
        same_episodes(episodes(out, name), episodes(encoded, name))


def test_tokens_of_two_tokenizers_do_not_mix(tmp_path, plain, encoded):
    other = save_tokenizer(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(WorkshopError, match=r"holds tokens of mine\.safetensors"):
        encode(other, str(plain), str(encoded), progress=False)
    with pytest.raises(WorkshopError, match="not empty"):
        encode(other, str(plain), str(plain), progress=False)


def test_a_tokenizer_that_looks_back_sees_whole_episodes(tmp_path, plain):
    vit = save_tokenizer(tmp_path / "vit.safetensors", architecture="vit", dim=32, window=4)
    encode(vit, str(plain), str(tmp_path / "new"), progress=False)
    model, differing = load_model(vit), 0
    for episode in episodes(tmp_path / "new", "val"):
        frames = torch.from_numpy(episode.frames.copy())
        tokens = torch.from_numpy(episode.tokens.astype(np.int64))
        assert torch.equal(model.encode(frames[None])[0], tokens)
        # no token depends on a later frame, but some on earlier ones
        assert torch.equal(model.encode(frames[None, :20])[0], tokens[:20])
        differing += int((model.encode(frames[None, 20:])[0] != tokens[20:]).sum())
    assert differing > 0


def test_tokens_for_several_frames_are_refused(tmp_path, plain):
    path = save_tokenizer(
        tmp_path / "slow.safetensors", architecture="magvit2", time_patch=2, dim=8
    )
    with pytest.raises(WorkshopError, match=r"slow\.safetensors.* 2 frames each"):
        encode(path, str(plain), str(tmp_path / "new"), progress=False)
    assert not (tmp_path / "new").exists()


def test_a_trained_model_remembers_the_tokenizer(tmp_path, encoded, tokenizer):
    quick = [
        "--model.dim=16", "--model.depth=1", "--model.latent_dim=16", "--data.batch_size=8",
        "--data.val_batches=1", "--data.length=4", "--trainer.max_steps=1",
    ]  # fmt: skip
    run = subprocess.run(
        [
            *(sys.executable, "-m", "workshop_lib.cli", "fit", "-c", "tokenizer/tiny"),
            *(f"--data.path={encoded}", *quick),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "runs/tokenizer-tiny/version_0"
    other = save_tokenizer(tmp_path / "other.safetensors", seed=1)
    assert main(["export", str(folder), "--out", str(tmp_path / "half"), "--dtype=float16"]) == 0
    (folder / "model.safetensors").rename(tmp_path / "whole")
    assert main(["export", str(folder), "--out", str(tmp_path / "unfinished")]) == 0
    for name in ("whole", "half", "unfinished"):
        metadata = read_metadata(tmp_path / name)
        check_tokenizer(metadata, tokenizer)
        with pytest.raises(WorkshopError, match=r"other\.safetensors .* mine\.safetensors"):
            check_tokenizer(metadata, other)
