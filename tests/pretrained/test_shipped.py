"""The models that come with the workshop: what the registry says of them is so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.tokenizer import evaluate
from workshop_lib.models.files import read_metadata
from workshop_lib.pretrained import find_file, load_pretrained
from workshop_lib.pretrained.cards import pages
from workshop_lib.pretrained.registry import CHECKOUT, REGISTRY, get_entry, read_entries
from workshop_lib.pretrained.verbs import verify
from workshop_lib.worlds.opening import WORLDS, open_world

ENTRIES = read_entries(REGISTRY)
MOST_BYTES = 60_000_000  # in the repository, so that a clone stays quick
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fresh clone without network."""
    monkeypatch.setenv("WORKSHOP_OFFLINE", "1")
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "cache"))


@each_entry
def test_files_are_as_registered_and_open(entry, capsys):
    assert (REGISTRY / f"{entry.name}.json").is_file()
    if not (CHECKOUT / entry.file).is_file():
        pytest.fail(f"{entry.file} is registered, but not in data/pretrained")
    assert verify(entry.name) == 0, capsys.readouterr().out
    model = load_pretrained(entry.name)
    assert sum(p.numel() for p in model.parameters()) == entry.parameters
    assert all(torch.isfinite(p).all() for p in model.parameters())
    metadata = read_metadata(find_file(entry.name))
    assert metadata["family"] == entry.family
    assert not Path(metadata["run"]).is_absolute(), "the way to a run on somebody's machine"


@each_entry
def test_entries_are_complete(entry):
    assert entry.look in ("mono", "easy", "hard")
    family, size = entry.recipe.split("/")
    assert (REPOSITORY / "workshop_lib" / "configs" / family / f"{size}.yaml").is_file()
    made = entry.training
    assert made.commands and made.summary and made.commit and made.hardware and made.minutes > 0
    assert any(line.startswith("workshop fit") for line in made.commands)
    assert entry.metrics, "measure it: workshop evaluate"
    for kind, metric in entry.metrics.items():
        assert metric["command"].startswith(f"workshop evaluate {kind} ")
    if entry.family in WORLDS:
        assert {"world", "control"} <= set(entry.metrics)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.family in WORLDS], ids=lambda e: e.name)
def test_worlds_open_by_name_and_dream(entry):
    world = open_world(entry.name)
    frames = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
    state = world.begin(frames, torch.tensor([[7]]))
    frame, _ = world.step(state, torch.tensor([7]))
    assert frame.shape == (1, 64, 64, 3) and frame.dtype == torch.uint8


def test_nothing_unregistered_is_shipped_and_all_is_small():
    registered = {entry.file for entry in ENTRIES}
    size = 0
    for path in CHECKOUT.glob("*.safetensors"):
        try:
            read_metadata(path)
        except WorkshopError:
            continue  # no model of ours: vgg16.safetensors, put there by hand
        assert path.name in registered, f"`workshop pretrained add {path}`"
        size += path.stat().st_size
    assert 0 < size <= MOST_BYTES


def test_generated_pages_are_up_to_date():
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(REPOSITORY)} differs: python tools/readme_parts.py writes it"
        )


def test_gifs_are_small():
    for path in (REPOSITORY / "docs").glob("*.gif"):
        assert path.stat().st_size <= 1_000_000, path.name


def test_verbs_take_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate("tokenizer-tiny", str(SAMPLE / "easy"), clips=8)
    said = capsys.readouterr().out
    measured = float(said.split("PSNR, dB")[1].split()[0])
    claimed = get_entry("tokenizer-tiny").metrics["tokenizer"]["report"]["psnr"]["mean"]
    assert abs(measured - claimed) < 2  # few clips, of the sample's own test levels


def test_what_is_in_the_folder_goes_before_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer-tiny").mkdir()  # the folder of a report, say
    assert find_file("tokenizer-tiny") == CHECKOUT / "tokenizer-tiny.safetensors"
    (tmp_path / "dynamics-tiny").write_text("a file of one's own")
    assert find_file("dynamics-tiny") == Path("dynamics-tiny")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("dynamics-tinny", "no pretrained model is named 'dynamics-tinny': there are .*dynamics-"),
        ("dynamics-tinny.safetensors", "no such file"),
        ("runs/dynamics-tiny", "no such file"),
    ],
)
def test_a_misspelt_name_is_told_from_a_missing_file(model, says):
    with pytest.raises(WorkshopError, match=says):
        open_world(model)


def test_loading_imports_no_pickle_and_listing_no_torch():
    """safetensors only; and `workshop pretrained list` answers at once."""
    code = (
        "import sys\nfrom workshop_lib.cli import main\n"
        "assert main(['pretrained', 'list']) == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(entry.name in done.stdout for entry in ENTRIES)
    for path in (REPOSITORY / "workshop_lib" / "pretrained").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pickle" not in text and "torch.load" not in text, path.name


WORLD_ENTRIES = [entry for entry in ENTRIES if entry.family in WORLDS]


@pytest.mark.parametrize("entry", WORLD_ENTRIES, ids=lambda entry: entry.name)
def test_keys_that_no_recording_has_do_what_is_next_to_them(entry):
    """DOWN, and letters: they were never trained, and a player may press them."""
    world = open_world(entry.name, device="cpu")
    clip = heldout_episodes(SAMPLE / entry.look, "test", 2, 8)

    def pressed(key):
        state = world.begin(clip.frames, clip.actions[:, :7])
        return world.step(state, torch.full((2,), key))[0]

    for unseen, same in ((0, 1), (3, 4), (6, 7), (9, 4), (14, 4)):
        assert torch.equal(pressed(unseen), pressed(same)), (unseen, same)
