"""The tokenizers' table: made once, taken up again, and never of two budgets."""

import json

import pytest
from PIL import Image

from tests.conftest import SAMPLE
from tools.tokenizer_table import grid, main
from workshop_lib.errors import WorkshopError


def test_the_grid_has_every_cell_once():
    names = [run.name for run in grid()]
    assert len(names) == len(set(names)) == 20
    assert all("-64-" in name for name in names[:8])


def test_runs_are_measured_once_and_written_down(tmp_path, capsys):
    docs = tmp_path / "docs"
    docs.mkdir()
    page = docs / "tokenizers.md"
    page.write_text("# Before\n<!-- tables: tools/tokenizer_table.py -->old<!-- end of tables -->!")
    budget = ["--data", str(SAMPLE), "--work", str(tmp_path / "work"), "--docs", str(docs)]
    budget += ["--only", "easy-256-vq", "--clips", "2"]
    assert main([*budget, "--steps", "2"]) == 0
    row = json.loads((tmp_path / "work/easy-256-vq.json").read_text())
    assert row["bits_per_frame"] == 256 * 9 and row["num_codes"] == 512
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("!") and "old" not in text
    assert f"| {row['psnr']['mean']:.2f} ± " in text and "control: mean frame" in text
    for name in ("tokenizers.png", "tokenizers-frames.png"):
        assert len(Image.open(docs / name).convert("RGB").getcolors(1 << 24)) > 20

    capsys.readouterr()
    main([*budget, "--steps", "2"])
    assert "trained" not in capsys.readouterr().out  # from its file
    assert page.read_text() == text
    with pytest.raises(WorkshopError, match="of 2 steps"):
        main([*budget, "--steps", "3"])
