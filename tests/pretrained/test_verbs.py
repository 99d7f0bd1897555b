"""Registering, publishing and pulling a model of one's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.pretrained.mirror import Mirror, serving
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.pretrained import adding, cards, load_pretrained, registry
from workshop_lib.pretrained.adding import add
from workshop_lib.pretrained.registry import get_entry, read_entry, write_entry
from workshop_lib.pretrained.verbs import list_models, publish, pull, verify

CONTROL = {
    "starts": 256,
    "look": "easy",
    "prompt": 8,
    "at": [
        {
            "horizon": 8,
            "accuracy": {"left/right": {"mean": 0.98765, "low": 0.97, "high": 0.99}},
            "gain": {"mean": 1.0, "interval": 0.1},
            "psnr": {"mean": 23.4, "interval": 0.5},
            "copy_psnr": {"mean": 11.8, "interval": 0.1},
        }
    ],
}


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with its report; a repository with a README of its own."""
    monkeypatch.setattr(adding, "write_pages", lambda: cards.write_pages(home))
    monkeypatch.setattr(registry, "CHECKOUT", home / "data" / "pretrained")
    (home / "data" / "pretrained").mkdir(parents=True)
    (home / "README.md").write_text(f"# Top\n\n{cards.BEGIN}\nold\n{cards.END}\n\nbottom\n")
    folder = home / "runs" / "version_0"
    folder.mkdir(parents=True)
    record = {"recipe": "/x/configs/next_frame/tiny.yaml", "commit": "abc+"}
    (folder / "versions.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("seed_everything: 5\n")
    torch.manual_seed(0)
    model = NextFrame(NextFrameConfig())
    save_model(model, "next_frame", folder / "mine.safetensors", {"run": str(folder)}, "float16")
    (folder / "control.json").write_text(json.dumps(CONTROL))
    (folder / "commands.txt").write_text(
        "workshop fit -c next_frame/tiny \\\n  --data.path data/easy\n\n"
        "workshop evaluate control mine --look easy\n"
    )
    return folder


def register(folder: Path, **changes: object) -> Path:
    given = {
        "look": "easy",
        "commands": str(folder / "commands.txt"),
        "summary": "a few steps",
        "reports": str(folder),
    }
    return add(str(folder / "mine.safetensors"), **{**given, **changes})


def test_adding_writes_entry_card_and_tables(run, home):
    entry = read_entry(register(run))
    assert entry == get_entry("mine")
    assert (entry.recipe, entry.family, entry.dtype) == ("next_frame/tiny", "next_frame", "float16")
    assert (entry.training.commit, entry.training.seed) == ("abc+", 5)
    assert entry.training.commands == ("workshop fit -c next_frame/tiny    --data.path data/easy",)
    assert entry.metrics["control"]["command"] == "workshop evaluate control mine --look easy"
    readme = (home / "README.md").read_text()
    assert readme.startswith("# Top") and readme.endswith("bottom\n") and "old" not in readme
    row = next(line for line in readme.splitlines() if "`mine`" in line)
    assert "0.6 M" in row and "98.8% (97 to 99)" in row
    card = (home / "data" / "pretrained" / "README.md").read_text()
    assert entry.sha256 in card and "workshop fit -c next_frame/tiny" in card
    assert "23.4 ± 0.5 dB" in card
    load_pretrained("mine")


def test_adding_again_changes_what_is_given(run):
    first = read_entry(register(run))
    again = read_entry(add(str(run / "mine.safetensors"), minutes=7.5))
    assert again == replace(first, training=replace(first.training, minutes=7.5))


def test_of_a_changed_file_nothing_old_is_claimed(run):
    register(run, minutes=9.0)
    save_model(NextFrame(NextFrameConfig()), "next_frame", run / "mine.safetensors", {})
    with pytest.raises(WorkshopError, match="give --summary, too"):
        add(str(run / "mine.safetensors"))
    entry = read_entry(add(str(run / "mine.safetensors"), summary="once more"))
    assert entry.metrics == {} and entry.training.minutes == 0 and entry.training.commit == ""
    assert (entry.look, entry.dtype) == ("easy", "float32")
    load_pretrained("mine")


def test_pages_without_marks_are_refused(run, home):
    (home / "README.md").write_text("no marks")
    with pytest.raises(WorkshopError, match=r"README\.md: has no <!-- results"):
        register(run)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"look": None}, "give --look, too"),
        ({"summary": None}, "give --summary, too"),
        ({"commands": None}, "its command is missing; write the line `workshop evaluate control"),
        ({"commands": "nowhere.txt"}, r"nowhere\.txt: no such file"),
        ({"reports": "nowhere"}, "nowhere: no report.json or control.json"),
        ({"run": "nowhere"}, "nowhere: no run folder"),
        ({"name": "My Model"}, "'My Model' is no name of a model"),
    ],
)
def test_what_is_missing_is_named(run, home, changes, says):
    with pytest.raises(WorkshopError, match=says):
        register(run, **changes)
    assert (
        not (home / "registry").exists() and not (registry.CHECKOUT / "mine.safetensors").exists()
    )


def test_other_files_are_no_reports(run):
    (run / "report.json").write_text('{"psnr": 3}')
    with pytest.raises(WorkshopError, match=r"report\.json: no report of `workshop evaluate"):
        register(run)


def test_a_model_is_not_registered_before_what_it_needs(run):
    note = {"tokenizer": json.dumps({"file": "tokens.safetensors", "sha256": "0" * 64})}
    save_model(NextFrame(NextFrameConfig()), "next_frame", run / "mine.safetensors", note)
    with pytest.raises(WorkshopError, match=r"needs tokens\.safetensors, which is not reg"):
        register(run, recipe="next_frame/tiny")


def test_what_is_needed_for_two_reasons_is_named_once(run):
    """Trained on frames that a tokenizer drew again, and dreaming through it."""
    save_model(NextFrame(NextFrameConfig()), "next_frame", run / "part.safetensors", {})
    add(str(run / "part.safetensors"), look="easy", recipe="next_frame/tiny", summary="a part")
    part = json.dumps({"file": "part.safetensors", "sha256": get_entry("part").sha256})
    notes = {"tokenizer": part, "repeater": part}
    save_model(NextFrame(NextFrameConfig()), "next_frame", run / "mine.safetensors", notes)
    assert read_entry(register(run, recipe="next_frame/tiny")).needs == ("part",)


def test_published_to_a_folder_others_pull_it_from_the_web(run, home, monkeypatch, capsys):
    """On another machine, whose registry does not know it; with what it needs."""
    torch.manual_seed(1)
    save_model(NextFrame(NextFrameConfig()), "next_frame", run / "part.safetensors", {})
    add(str(run / "part.safetensors"), look="easy", recipe="next_frame/tiny", summary="a part")
    entry = read_entry(register(run))
    write_entry(registry.REGISTRY, replace(entry, needs=("part",)))
    publish("mine", folder=str(home / "mirror"))
    names = sorted(path.name for path in (home / "mirror").iterdir())
    files = ["mine.json", "mine.safetensors", "part.json", "part.safetensors"]
    assert names == ["README.md", *files]
    page = (home / "mirror" / "README.md").read_text()
    assert "## mine" in page and "## part" in page
    mine = load_pretrained("mine").state_dict()

    monkeypatch.setattr(registry, "REGISTRY", home / "other-registry")
    monkeypatch.setattr(registry, "CHECKOUT", home / "other-checkout")
    (home / "other-registry").mkdir()
    with pytest.raises(WorkshopError, match=r"no pretrained model is named 'mine'.*no mirror is"):
        pull("mine")
    with serving(Mirror(home / "mirror")) as mirror:
        pull("mine", mirror=mirror.address)
    assert (home / "cache" / "part.safetensors").is_file()
    monkeypatch.setenv("WORKSHOP_OFFLINE", "1")
    pulled = load_pretrained("mine").state_dict()
    assert all(torch.equal(mine[name], value) for name, value in pulled.items())
    assert verify("mine") == 0
    capsys.readouterr()
    list_models()
    assert str(home / "cache" / "mine.safetensors") in capsys.readouterr().out


def test_publishing_keeps_what_is_there(run, home):
    register(run)
    publish("mine", folder=str(home / "mirror"))
    shutil.copy(run / "mine.safetensors", run / "second.safetensors")
    register(run, name="second")
    publish("second", folder=str(home / "mirror"))
    page = (home / "mirror" / "README.md").read_text()
    assert "## mine" in page and "## second" in page


def test_needs_are_taken_once_and_first_even_in_a_circle(toy):
    write_entry(registry.REGISTRY, replace(toy, needs=("other", "toy")))
    write_entry(registry.REGISTRY, replace(toy, name="other", needs=("toy",)))
    assert [entry.name for entry in registry.with_needs(["toy", "other"])] == ["other", "toy"]


def test_what_a_model_was_trained_with_is_found(toy):
    """Tokenizers by the hash of their file, latent action models by its name."""
    for part, key in (("tokenizer", "sha256"), ("lam", "file")):
        made_with = {"file": "x", "sha256": "y", key: getattr(toy, key)}
        assert registry.entry_needed({part: json.dumps(made_with)}, part) == toy
        assert registry.entry_needed({part: json.dumps({"file": "x", "sha256": "y"})}, part) is None
    assert registry.entry_needed({}, "tokenizer") is None


def test_publish_wants_one_place(run):
    register(run)
    for places in ({}, {"folder": "a", "hub": "b/c"}):
        with pytest.raises(WorkshopError, match="give --folder FOLDER or --hub OWNER/NAME"):
            publish("mine", **places)


def test_a_mirror_that_lies_about_a_name_is_refused(run, home, toy):
    (home / "served" / "wanted.json").write_text((home / "registry" / "toy.json").read_text())
    with pytest.raises(WorkshopError, match="is of a model named 'toy'"):
        pull("wanted", mirror=str(home / "served"))


def test_verify_tells_missing_from_damaged(toy, served, home, capsys):
    assert verify() == 0  # nothing is here, so nothing is wrong
    assert verify("toy") == 1
    assert "not on this machine; `workshop pretrained pull toy`" in capsys.readouterr().out
    ours = shutil.copy(served / "toy.safetensors", home / "checkout")
    assert verify() == 0 and "right" in capsys.readouterr().out
    Path(ours).write_bytes(b"x" * toy.bytes)
    assert verify() == 1 and "WRONG" in capsys.readouterr().out
