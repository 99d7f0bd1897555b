"""The real game under the keys of long dreams: how much of a level holding RIGHT shows."""

import json

import pytest

from workshop_lib.cli import main


@pytest.mark.parametrize("look", ["easy", "hard"])
def test_the_real_player_runs_into_a_wall_and_one_who_jumps_goes_on(
    look, tmp_path, procgen
) -> None:
    options = [f"--look={look}", "--games=8", "--long=96", f"--out={tmp_path}"]
    assert main(["evaluate", "game", *options]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    held, jumps = (report["drift"][name] for name in ("right held", "run and jump"))
    assert held["alive"] > 0.8 and jumps["alive"] > 0.8  # the real game is a level with a player
    assert held["still"][0] < 0.5 < held["still"][-1]  # he runs, and then stands before a wall
    assert held["fresh"] < jumps["fresh"]
    assert report["restarts"]["right held"] < report["restarts"]["run and jump"]


def test_more_games_than_levels_are_refused(capsys) -> None:
    assert main(["evaluate", "game", "--levels=110000:110004", "--games=5"]) == 1
    assert "--games 5: must be 1 to 4" in capsys.readouterr().err
