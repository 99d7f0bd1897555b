"""The command line as people type it, in real processes."""

import re
import subprocess
import sys
from inspect import signature

import numpy as np
import pytest

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.cli import RAW_VERBS, VERBS, _load
from workshop_lib.media.video import read_video


def workshop(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "workshop_lib.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_the_overview_lists_every_verb_and_each_exists():
    run = workshop("--help")
    assert run.returncode == 0
    for verb, (target, what) in VERBS.items():
        assert verb in run.stdout and what in run.stdout
        assert _load(target).__doc__


@pytest.mark.parametrize("verb", sorted(set(VERBS) - set(RAW_VERBS)))
def test_help_explains_every_option(verb):
    run = workshop(*verb.split(), "--help")
    assert run.returncode == 0, run.stderr
    function = _load(VERBS[verb][0])
    printed = " ".join(run.stdout.split())
    documented = dict(re.findall(r"^ {8}(\w+): (\S+ \S+)", function.__doc__, flags=re.MULTILINE))
    assert set(documented) == set(signature(function).parameters)
    assert all(words in printed for words in documented.values())


def test_every_verb_with_a_world_takes_the_same_options_for_its_dreams():
    verbs = ("evaluate world", "evaluate worlds", "evaluate control", "generate", "play")
    for verb in (*verbs, "bench play"):
        parameters = signature(_load(VERBS[verb][0])).parameters
        types = {name: parameters[name].annotation for name in ("temperature", "guidance")}
        assert types == {"temperature": "float | None", "guidance": "float | None"}, verb
        assert parameters["sampler"].annotation == "SamplerName | None", verb
        assert parameters["steps"].annotation in ("int | None", "int"), verb


def test_help_of_training_lists_the_recipes_keys():
    run = workshop("fit", "--help")
    assert run.returncode == 0
    for key in ("--model.dim", "--optim.lr", "--data.path", "--trainer.max_steps", "--ckpt_path"):
        assert key in run.stdout


@pytest.mark.usefixtures("procgen")
def test_sample_split_inspect_as_the_readme_says(tmp_path):
    assert (
        workshop("sample", "raw", "--frames", 6000, "--no-progress", cwd=tmp_path).returncode == 0
    )
    assert workshop("split", "raw", "--out", "easy", cwd=tmp_path).returncode == 0
    run = workshop("inspect", "easy", "--verify", "--out", "episode.mp4", cwd=tmp_path)
    assert run.returncode == 0 and "every SHA-256 is right" in run.stdout
    video = read_video(tmp_path / "episode.mp4")
    assert len(video) > 1 and video.shape[2] == 256
    assert workshop("import", "episode.mp4", "mine", cwd=tmp_path).returncode == 0
    run = workshop("inspect", "mine", cwd=tmp_path)
    assert f"frames     {len(video)} of 64x64" in run.stdout


def test_inspect_draws_what_is_recorded(tmp_path):
    run = workshop("inspect", SAMPLE / "hard/val", "--out", tmp_path / "a.png")
    assert run.returncode == 0 and "1600 of 64x64" in run.stdout
    run = workshop("inspect", SAMPLE / "hard", "--episode", 3, "--out", tmp_path / "a.gif")
    assert run.returncode == 0
    from workshop_lib.data.shards import find_shards, open_shard

    episode = open_shard(find_shards(SAMPLE / "hard/train")[0]).read(3)
    first = read_video(tmp_path / "a.gif")[0]
    small = first[:256].reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - episode.frames[0]).mean() < 3


@pytest.mark.parametrize(
    ("arguments", "complaint", "status"),
    [
        (["dance"], "no verb 'dance'", 2),
        (["evaluate"], "say evaluate tokenizer", 2),
        (["sample"], "out", 2),
        (["sample", "x", "--look", "ugly"], "look", 2),
        (["sample", "x", "--colour", "red"], "colour", 2),
        (["sample", "x", "--levels", "9"], "bad level range '9'", 1),
        (["inspect", "missing"], "missing: no such file or folder", 1),
        (["split", "missing", "--out", "x"], "missing: no such file or folder", 1),
        (["inspect", str(SAMPLE / "easy/val"), "--verify"], "--verify needs", 1),
        (["inspect", str(SAMPLE / "easy"), "--out", "a.txt"], "must end in", 1),
        (["inspect", str(SAMPLE / "easy"), "--episode", "999", "--out", "a.mp4"], "no episode", 1),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path, arguments, complaint, status):
    run = workshop(*arguments, cwd=tmp_path)
    assert run.returncode == status
    assert complaint in run.stderr
    assert "Traceback" not in run.stderr


def test_skip_bad_counts_and_goes_on(tmp_path):
    from tests.data.test_shards import records_with_bad_ones

    records_with_bad_ones(tmp_path / "bad.array_record")
    run = workshop("inspect", tmp_path / "bad.array_record")
    assert run.returncode == 1 and "bad.array_record, record 1" in run.stderr
    run = workshop("inspect", tmp_path / "bad.array_record", "--skip-bad")
    assert run.returncode == 0 and "2 records skipped" in run.stdout
    run = workshop("convert", tmp_path, tmp_path / "out", "--skip-bad", "--to", "npz")
    assert run.returncode == 0 and "2 bad records left out" in run.stdout


def test_every_verb_that_the_texts_name_exists() -> None:
    """In backquotes, `workshop VERB ...`: README, docs, notebooks, recipes and our own code."""
    kinds = ("README.md", "docs/*.md", "notebooks/*.ipynb", "workshop_lib/**/*.py")
    first = {verb.split()[0] for verb in VERBS if " " in verb}
    named = 0
    for path in (path for kind in kinds for path in REPOSITORY.glob(kind)):
        for verb, more in re.findall(r"`workshop ([a-z]+)(?: ([a-z]+))?", path.read_text()):
            named += 1
            alone = verb in first and not more  # `workshop evaluate`, all of them
            assert alone or verb in VERBS or f"{verb} {more}" in VERBS, f"{path}: {verb} {more}"
    assert named > 50
