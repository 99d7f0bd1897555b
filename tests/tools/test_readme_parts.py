"""The GIFs of README.md."""

import numpy as np
import pytest

from tools import readme_parts
from workshop_lib.errors import WorkshopError
from workshop_lib.media.video import read_video


def test_a_gif_shows_the_real_game_above_the_dream(tmp_path, monkeypatch):
    monkeypatch.setattr(readme_parts, "FRAMES", 4)
    path = readme_parts.make_gif("dynamics-tiny", docs=tmp_path)
    assert path == tmp_path / "dynamics-tiny.gif"
    film = read_video(path).astype(int)
    assert len(film) == readme_parts.PROMPT + 4
    real = film[:, :192]

    def apart_at(below: int) -> np.ndarray:
        return np.abs(film[:, below : below + 192] - real).mean(axis=(1, 2, 3))

    apart = min((apart_at(below) for below in range(192, 256)), key=lambda each: each[0])
    assert apart[: readme_parts.PROMPT].max() < 1  # the prompt is shown in both
    assert apart[readme_parts.PROMPT :].min() > 0 and apart.max() < 30

    monkeypatch.setattr(readme_parts, "MOST_BYTES", path.stat().st_size - 1)
    path = readme_parts.make_gif("dynamics-tiny", docs=tmp_path)
    assert read_video(path).shape[2] < 192  # drawn smaller
    monkeypatch.setattr(readme_parts, "MOST_BYTES", 100)
    with pytest.raises(WorkshopError, match="more than 100"):
        readme_parts.make_gif("dynamics-tiny", docs=tmp_path)
