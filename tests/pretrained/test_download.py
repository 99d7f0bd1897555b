"""Downloads from a real web server that misbehaves in every way that servers do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.pretrained.conftest import make_entry
from tests.pretrained.mirror import Mirror, free_address, serving
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.pretrained import download, load_pretrained, registry
from workshop_lib.pretrained.finding import find, pull
from workshop_lib.pretrained.registry import Entry, write_entry

PIECE = 1 << 14  # bytes that are kept together: of one that breaks off, nothing is


@pytest.fixture
def mirror(served: Path):
    with serving(Mirror(served)) as running:
        yield running


def whole(path: Path, served: Path) -> bool:
    return path.read_bytes() == (served / "toy.safetensors").read_bytes()


def pulling(home: Path, mirror: str, **environment: str) -> subprocess.Popen[bytes]:
    """Another process that pulls the model."""
    code = (
        "from pathlib import Path\n"
        "from workshop_lib.pretrained import registry, finding\n"
        f"registry.REGISTRY = Path({str(home / 'registry')!r})\n"
        f"registry.CHECKOUT = Path({str(home / 'checkout')!r})\n"
        f"finding.pull(registry.get_entry('toy'), [{mirror!r}], progress=False)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment)


def left_over(home: Path) -> list[str]:
    """What a failed download leaves beside the place of the file, which is not there."""
    cache = home / "cache"
    assert not (cache / "toy.safetensors").exists()
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_model_is_pulled_once_and_opens(toy, mirror, served, monkeypatch, home):
    monkeypatch.setenv("WORKSHOP_MIRRORS", mirror.address)
    model = load_pretrained("toy")
    assert not model.training
    assert whole(home / "cache" / "toy.safetensors", served)
    load_pretrained("toy")
    assert len(mirror.asked) == 1


def test_a_slow_server_is_waited_for(toy, mirror, served, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1.0, 0.5))
    mirror.pause = 1.0 / (toy.bytes / (1 << 13))  # longer than the timeout, but never silent
    begun = time.perf_counter()
    assert whole(pull(toy, [mirror.address]), served)
    assert time.perf_counter() - begun > 0.9


def test_a_server_that_falls_silent_is_asked_again(toy, mirror, served, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1.0, 0.1))
    mirror.pause = 0.3
    with pytest.raises(WorkshopError, match="cannot be reached or broke off"):
        pull(toy, [mirror.address])
    assert len(mirror.asked) == download.TRIES


@pytest.mark.parametrize("says_length", [True, False])
def test_a_cut_off_download_goes_on_where_it_was(toy, mirror, served, says_length):
    mirror.cut, mirror.length = [20 * PIECE, 30 * PIECE, 0, None], says_length
    assert whole(pull(toy, [mirror.address]), served)
    begun = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in mirror.asked[1:]]
    assert begun == [20 * PIECE, 50 * PIECE, 50 * PIECE]


def test_a_server_without_ranges_begins_anew(toy, mirror, served):
    mirror.cut, mirror.ranges = [20 * PIECE, None], False
    assert whole(pull(toy, [mirror.address]), served)
    assert mirror.asked[1][1] == f"bytes={20 * PIECE}-"


def test_a_server_that_always_cuts_is_given_up_and_resumed_later(toy, mirror, served, home):
    mirror.cut = [10 * PIECE, 0]
    with pytest.raises(WorkshopError, match=r"broke off.*workshop pretrained pull toy"):
        pull(toy, [mirror.address])
    assert len(mirror.asked) == 1 + download.TRIES
    assert left_over(home) == [".toy.safetensors.partial"]
    mirror.cut = [None]
    assert whole(pull(toy, [mirror.address]), served)
    assert mirror.asked[-1][1] == f"bytes={10 * PIECE}-"


def test_a_killed_process_leaves_no_bad_file(toy, mirror, served, home):
    """Killed outright midway: the next one goes on."""
    mirror.pause = 0.01
    process = pulling(home, mirror.address)
    partial = home / "cache" / ".toy.safetensors.partial"
    while not (partial.is_file() and partial.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert left_over(home) == [partial.name]
    have, mirror.pause = partial.stat().st_size, 0.0
    assert 0 < have < toy.bytes
    assert whole(pull(toy, [mirror.address]), served)
    assert mirror.asked[-1][1] == f"bytes={have}-"


def test_wrong_bytes_are_never_used(toy, mirror, served, home):
    path = served / "toy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkshopError, match="its SHA-256 is wrong"):
        pull(toy, [mirror.address])
    assert left_over(home) == []


def test_another_size_is_not_even_downloaded(toy, mirror, served, home):
    (served / "toy.safetensors").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(WorkshopError, match=f"has 26 bytes of that name, not {toy.bytes}"):
        pull(toy, [mirror.address])
    assert left_over(home) == []


def test_an_endless_answer_is_cut_off(toy, mirror, served, home):
    with (served / "toy.safetensors").open("ab") as file:
        file.write(bytes(4 << 20))
    mirror.length = False
    with pytest.raises(WorkshopError, match=f"sends more than the {toy.bytes} bytes"):
        pull(toy, [mirror.address])
    partial = home / "cache" / ".toy.safetensors.partial"
    assert not partial.exists() or partial.stat().st_size <= toy.bytes


def test_a_wrong_beginning_is_thrown_away(toy, mirror, served, home):
    """Left by another mirror, or by an older file of that name."""
    (home / "cache").mkdir()
    partial = home / "cache" / ".toy.safetensors.partial"
    for beginning in (bytes(1000), bytes(toy.bytes), bytes(toy.bytes + 5)):
        partial.write_bytes(beginning)
        path = pull(toy, [mirror.address])
        assert whole(path, served)
        path.unlink()


def test_404_is_said_and_not_repeated(toy, mirror, served):
    (served / "toy.safetensors").unlink()
    with pytest.raises(WorkshopError, match=f"{mirror.address}: does not have it"):
        pull(toy, [mirror.address])
    assert len(mirror.asked) == 1


def test_a_busy_server_is_asked_again_later(toy, mirror, served):
    mirror.states = [503, 429, 500]
    assert whole(pull(toy, [mirror.address]), served)
    assert len(mirror.asked) == 4


def test_redirects_are_followed_and_resumed(toy, mirror, served):
    mirror.cut = [20 * PIECE, None]
    with serving(Mirror(served, redirect=mirror.address)) as front:
        assert whole(pull(toy, [front.address]), served)
    assert [asked for _, asked in mirror.asked] == [None, f"bytes={20 * PIECE}-"]


def test_a_redirect_in_a_circle_ends(toy, mirror, served):
    mirror.redirect = mirror.address
    with pytest.raises(WorkshopError, match="TooManyRedirects"):
        pull(toy, [mirror.address])


def test_without_network_the_error_says_what_to_do(toy, home):
    with pytest.raises(WorkshopError, match=r"cannot be reached.*`workshop pretrained pull toy`"):
        pull(toy, [free_address()])
    assert left_over(home) == []


def test_the_second_mirror_takes_over_where_the_first_broke_off(toy, mirror, served):
    with serving(Mirror(served, cut=[30 * PIECE, 0])) as first:
        assert whole(pull(toy, [free_address(), first.address, mirror.address]), served)
        assert len(first.asked) == 1 + download.TRIES
    assert [asked for _, asked in mirror.asked] == [f"bytes={30 * PIECE}-"]


def test_a_folder_is_a_mirror_too(toy, served, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MIRRORS", f"{served.parent / 'nothing'}, {served}")
    assert whole(find(toy), served)


def test_mirrors_are_named_by_the_environment_or_the_checkout(home, monkeypatch):
    assert download.find_mirrors() == []
    (home / "checkout" / "mirrors.txt").write_text("# ours\nhttps://a/b  # the first\n\nc/d\n")
    assert download.find_mirrors() == ["https://a/b", "c/d"]
    monkeypatch.setenv("WORKSHOP_MIRRORS", "e/f http://g")
    assert download.find_mirrors() == ["e/f", "http://g"]
    monkeypatch.setenv("WORKSHOP_MIRRORS", "")
    assert download.find_mirrors() == []


def test_no_mirror_is_built_in(toy):
    with pytest.raises(WorkshopError, match=r"no mirror is known: set WORKSHOP_MIRRORS.*pull toy"):
        find(toy)


def test_offline_nothing_is_asked(toy, mirror, served, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MIRRORS", mirror.address)
    monkeypatch.setenv("WORKSHOP_OFFLINE", "1")
    with pytest.raises(WorkshopError, match=r"WORKSHOP_OFFLINE is set: unset it.*pull toy"):
        load_pretrained("toy")
    assert mirror.asked == []
    monkeypatch.setenv("WORKSHOP_OFFLINE", "0")
    load_pretrained("toy")
    monkeypatch.setenv("WORKSHOP_OFFLINE", "1")
    load_pretrained("toy")  # from the cache


def test_offline_a_folder_still_serves(toy, mirror, served, monkeypatch):
    """A room without network, and a stick that goes round."""
    monkeypatch.setenv("WORKSHOP_MIRRORS", f"{mirror.address} {served}")
    monkeypatch.setenv("WORKSHOP_OFFLINE", "1")
    assert whole(find(toy), served) and mirror.asked == []


def test_of_several_processes_one_downloads(toy, mirror, served, home):
    mirror.pause = 0.005
    processes = [pulling(home, mirror.address) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert whole(home / "cache" / "toy.safetensors", served)
    assert len(mirror.asked) == 1


def test_a_damaged_file_in_the_cache_is_replaced(toy, mirror, served, home, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MIRRORS", mirror.address)
    path = find(toy)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert whole(find(toy), served)
    assert len(mirror.asked) == 2


def test_the_checkout_comes_first_and_is_never_overwritten(toy, mirror, served, home, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MIRRORS", mirror.address)
    ours = home / "checkout" / "toy.safetensors"
    shutil.copy(served / "toy.safetensors", ours)
    assert find(toy) == ours and mirror.asked == []
    ours.write_bytes(b"damaged")
    with pytest.raises(WorkshopError, match=r"damaged or changed.*git checkout --"):
        find(toy)
    assert ours.read_bytes() == b"damaged"


def test_a_cache_that_is_a_file_is_named(toy, mirror, home):
    (home / "cache").write_text("no folder")
    with pytest.raises(WorkshopError, match=r"cannot be written.*WORKSHOP_CACHE"):
        pull(toy, [mirror.address])


def test_a_repository_of_the_hub_is_a_mirror_too(toy, served, home):
    """OWNER/NAME: the file of the main branch, which the Hub redirects to its storage."""
    main = home / "hub" / "someone" / "models" / "resolve" / "main"
    main.mkdir(parents=True)
    shutil.copy(served / "toy.safetensors", main)
    with (
        serving(Mirror(home / "hub", cut=[20 * PIECE, None])) as storage,
        serving(Mirror(served, redirect=storage.address)) as front,
    ):
        assert pulling(home, "someone/models", HF_ENDPOINT=front.address).wait() == 0
    assert whole(home / "cache" / "toy.safetensors", served)
    path = "/someone/models/resolve/main/toy.safetensors"
    assert storage.asked == [(path, None), (path, f"bytes={20 * PIECE}-")]


@pytest.mark.parametrize("name", ["../toy", "toy.safetensors/../../x", "/etc/passwd", "x.txt"])
def test_an_entry_cannot_point_out_of_its_folder(toy, served, name):
    with pytest.raises(WorkshopError, match="without folders"):
        make_entry(served / "toy.safetensors", "evil", file=name)


def test_an_entry_that_is_none_is_named(home):
    (home / "registry").mkdir()
    for text in ("{", "[]", "{}", '{"name": "bad"}', '{"training": 3}'):
        (home / "registry" / "bad.json").write_text(text)
        with pytest.raises(WorkshopError, match=r"bad\.json: not the entry"):
            registry.get_entry("bad")


def test_an_entry_is_read_as_it_was_written(toy, home):
    metrics = {"world": {"command": "workshop { 1 }", "report": {"at": [{"x": 1, "y": 2.5}]}}}
    entry = Entry(**{**vars(toy), "metrics": metrics, "needs": ("a", "b")})
    path = write_entry(home / "registry", entry)
    assert registry.read_entry(path) == entry
    assert '{"x": 1, "y": 2.5}' in path.read_text()


def test_a_part_in_a_file_of_its_own_comes_along(home, served, mirror, monkeypatch):
    """A diffusion model around a predictor that has its own file: both lie beside each other."""
    small = NextFrameConfig(width=16, depth=1, middle=1, cond_dim=32)
    config = DiffusionUNetConfig(mean=small, width=16, depth=1, middle=1)
    model = DiffusionUNet(config)
    save_model(model.mean, "next_frame", served / "part.safetensors", {})
    beside = served / "part.safetensors"
    save_model(model, "diffusion_unet", served / "around.safetensors", {}, mean=beside)
    for name in ("part", "around"):
        write_entry(home / "registry", make_entry(served / f"{name}.safetensors", name))
    monkeypatch.setenv("WORKSHOP_MIRRORS", mirror.address)
    again = load_pretrained("around").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
    assert (home / "cache" / "part.safetensors").is_file()
    (home / "cache" / "part.safetensors").unlink()
    load_pretrained("around")
    assert (home / "cache" / "part.safetensors").is_file()
