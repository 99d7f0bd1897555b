"""The perceptual loss on random weights in a real file, and what happens without the right file."""

from __future__ import annotations

import copy
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.perceptual import PerceptualLoss, find_vgg16, read_weights
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig

# Number of the layer in `features`, channels in and out: VGG-16's first ten convolutions.
CONVS = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256),
         (14, 256, 256), (17, 256, 512), (19, 512, 512), (21, 512, 512)]  # fmt: skip


def random_weights() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    weights = {"head.fc.bias": torch.zeros(1000)}  # the published file holds its classifier, too
    for number, before, after in CONVS:
        scale = (2 / (9 * before)) ** 0.5
        weights[f"features.{number}.weight"] = scale * torch.randn(
            after, before, 3, 3, generator=random
        )
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(after, generator=random)
    return weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(random_weights(), path)
    return path


@pytest.fixture
def video() -> Tensor:
    return torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference(file: Path, video: Tensor, target: Tensor) -> float:
    """The distance written out once more, from the papers."""
    weights = load_file(file)

    def features(frames: Tensor) -> list[Tensor]:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        x, found = (frames * 0.5 + 0.5 - mean) / std, []
        for number, _, _ in CONVS:
            if number in (5, 10, 17):
                x = F.max_pool2d(x, 2)
            x = F.conv2d(
                x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], 1, 1
            ).relu()
            if number in (2, 7, 14, 21):
                found.append(x / x.norm(dim=1, keepdim=True))
        return found

    pairs = zip(features(video.flatten(0, 1)), features(target.flatten(0, 1)), strict=True)
    return sum((a - b).square().sum(1).mean().item() for a, b in pairs) / 4


def test_it_is_the_distance_of_the_papers(file: Path, video: Tensor) -> None:
    target = video.roll(3, dims=-1)
    distance = PerceptualLoss(file)(video, target)
    assert distance.item() == pytest.approx(reference(file, video, target), rel=1e-4)
    assert 0 < distance.item() <= 2
    assert PerceptualLoss(file)(video, video).item() == 0


def test_gradient_reaches_every_frame_of_the_reconstruction_and_nothing_else(
    file: Path, video: Tensor
) -> None:
    target = video.flip(-1).clone().requires_grad_()
    video.requires_grad_()
    loss = PerceptualLoss(file)
    loss(video, target).backward()
    assert video.grad is not None
    assert video.grad.isfinite().all()
    assert (video.grad.abs().sum(dim=(2, 3, 4)) > 0).all()
    assert target.grad is None
    assert all(not p.requires_grad and p.grad is None for p in loss.load().parameters())


def test_flat_frames_have_finite_gradients(file: Path) -> None:
    video = torch.zeros(1, 1, 3, 32, 32, requires_grad=True)
    PerceptualLoss(file)(video, torch.ones(1, 1, 3, 32, 32)).backward()
    assert video.grad is not None
    assert video.grad.isfinite().all()


def test_descending_it_brings_a_frame_to_its_target(file: Path, video: Tensor) -> None:
    loss, target = PerceptualLoss(file), video[:1, :1]
    guess = (target + 0.5 * video[1:, :1]).requires_grad_()
    start, error = loss(guess, target).item(), (guess - target).square().mean().item()
    optimizer = torch.optim.Adam([guess], lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        loss(guess, target).backward()
        optimizer.step()
    assert loss(guess, target).item() < start / 2
    assert (guess - target).square().mean().item() < error


def test_a_tokenizer_trains_with_it_and_does_not_carry_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSHOP_VGG16", str(file))
    small = dict(size=32, dim=8, depth=1, latent_dim=8)
    plain = Tokenizer(TokenizerConfig(**small))
    tokenizer = Tokenizer(TokenizerConfig(**small, perceptual=0.5))
    tokenizer.load_state_dict(plain.state_dict())  # the same names, nothing more
    frames = torch.randint(0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8)
    clip = Clip(frames, torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool))
    loss, logs = tokenizer.loss(clip)
    assert loss.item() == pytest.approx(
        plain.loss(clip)[0].item() + 0.5 * logs["perceptual"].item(), rel=1e-5
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert tokenizer.state_dict().keys() == plain.state_dict().keys()
    # the running average copies the whole model: the network is shared, not copied
    copied = copy.deepcopy(tokenizer)
    assert tokenizer.perceptual is not None and copied.perceptual is not None
    assert copied.perceptual.load() is tokenizer.perceptual.load()


def test_a_trained_tokenizer_works_where_the_weights_are_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKSHOP_VGG16", "/no/such/file")
    tokenizer = Tokenizer(TokenizerConfig(size=32, dim=8, depth=1, latent_dim=8, perceptual=1.0))
    frames = torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8)
    assert tokenizer.reconstruct(frames).shape == frames.shape
    with pytest.raises(WorkshopError, match="/no/such/file: no such file, but WORKSHOP_VGG16"):
        tokenizer.prepare()


def test_files_that_are_not_vgg16_are_named(file: Path, tmp_path: Path) -> None:
    def fails(path: Path, says: str) -> None:
        with pytest.raises(WorkshopError, match=re.escape(f"{path}: {says}")) as caught:
            PerceptualLoss(path)(torch.zeros(1, 1, 3, 16, 16), torch.zeros(1, 1, 3, 16, 16))
        assert "\n" not in str(caught.value)

    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:-1000])
    fails(torn, "not a whole safetensors file")

    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, other)
    fails(other, "not the weights of VGG-16 (no tensor 'features.0.bias')")

    weights = random_weights()
    weights["features.5.weight"] = torch.zeros(128, 64, 5, 5)
    reshaped = tmp_path / "reshaped.safetensors"
    save_file(weights, reshaped)
    fails(reshaped, "not the weights of VGG-16 (features.5.weight is (128, 64, 5, 5), not")

    pickled = tmp_path / "vgg16.pth"
    torch.save(random_weights(), pickled)
    fails(pickled, "not a whole safetensors file")
    fails(tmp_path / "absent.safetensors", "not a whole safetensors file")


def test_half_precision_files_serve(file: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, half)
    weights = read_weights(half)
    assert len(weights) == 20 and all(value.dtype == torch.float32 for value in weights.values())


def test_the_named_file_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSHOP_VGG16", str(file))
    assert find_vgg16() == file


def test_fit_says_at_once_what_is_missing(tmp_path: Path) -> None:
    arguments = ["fit", "-c", "tokenizer/tiny", "--model.perceptual=1", "--runs", tmp_path / "runs"]
    arguments += [f"--data.path={SAMPLE / 'easy'}"]
    run = subprocess.run(
        [sys.executable, "-m", "workshop_lib.cli", *map(str, arguments)],
        env={**os.environ, "WORKSHOP_VGG16": str(tmp_path / "absent.safetensors")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"workshop fit: {tmp_path}/absent.safetensors: ")
    assert "Traceback" not in run.stderr and not (tmp_path / "runs").exists()


# The hub, played by a server on this machine and asked by the hub's own client.


class Hub(http.server.ThreadingHTTPServer):
    """Serves one file like the hub does; `breaks` answers stop half way, `lie` alters a byte."""

    def __init__(self, content: bytes, breaks: int = 0, lie: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.sha256, self.breaks = hashlib.sha256(content).hexdigest(), breaks
        self.content = content[:-1] + bytes([content[-1] ^ 1]) if lie else content
        self.ranges: list[str | None] = []


class HubAnswers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _begin(self) -> bytes:
        content = self.server.content
        if self.path != "/timm/vgg16.tv_in1k/resolve/main/model.safetensors":
            self.send_error(404)
            return b""
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-Etag", f'"{self.server.sha256}"')
        self.end_headers()
        return content[start:]

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        body = self._begin()
        if body:  # the client asks for other things, too
            self.server.ranges.append(self.headers.get("Range"))
        if body and self.server.breaks:
            self.server.breaks -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


FIND = """
import sys
from pathlib import Path
from workshop_lib.models import perceptual
perceptual.IN_CHECKOUT = Path(sys.argv[1])  # a checkout may have the real file
try:
    print("found", perceptual.find_vgg16())
except perceptual.WorkshopError as error:
    print("error", error)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "hub"


def find(cache: Path, checkout: Path | None = None, **variables: str) -> str:
    """What find_vgg16 finds or says in a new process whose hub cache is `cache`."""
    hidden = ("WORKSHOP_VGG16", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE")
    env = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}
    run = subprocess.run(
        [sys.executable, "-c", FIND, str(checkout or cache / "absent.safetensors")],
        env={**env, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def serve(hub: Hub) -> str:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{hub.server_port}"


def test_offline_it_says_what_is_missing_and_how_to_go_without(cache: Path) -> None:
    says = find(cache, HF_HUB_OFFLINE="1")
    assert says.startswith("error no VGG-16 weights") and "\n" not in says
    for hint in ("WORKSHOP_VGG16", "timm/vgg16.tv_in1k", "model.perceptual 0 goes without"):
        assert hint in says


def test_the_file_in_the_checkout_comes_first(file: Path, cache: Path) -> None:
    assert find(cache, file, HF_HUB_OFFLINE="1") == f"found {file}"


def test_a_broken_download_goes_on_and_is_kept(file: Path, cache: Path) -> None:
    hub = Hub(file.read_bytes(), breaks=1)
    found = Path(find(cache, HF_ENDPOINT=serve(hub)).removeprefix("found "))
    assert found.read_bytes() == file.read_bytes()
    assert len(read_weights(found)) == 20
    assert len(hub.ranges) == 2 and hub.ranges[0] is None
    assert hub.ranges[1] not in (None, "bytes=0-")  # the second request took up from the break
    hub.shutdown()
    assert find(cache, HF_HUB_OFFLINE="1") == f"found {found}"


def test_a_download_other_than_the_hub_states_is_refused_and_not_kept(
    file: Path, cache: Path
) -> None:
    hub = Hub(file.read_bytes(), lie=True)
    says = find(cache, HF_ENDPOINT=serve(hub))
    assert says.startswith("error ") and f"instead of {hub.sha256}" in says
    assert find(cache, HF_HUB_OFFLINE="1").startswith("error no VGG-16 weights")
    hub.shutdown()
