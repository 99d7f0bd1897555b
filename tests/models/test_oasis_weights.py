"""Public checkpoints: exact sizes, exact names, and what is said of files that are none."""

import pytest
import torch
from safetensors.torch import save_file

from workshop_lib.cli import main
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model
from workshop_lib.models.oasis_weights import load_coinrun, load_minecraft
from workshop_lib.nn.oasis import OasisConfig, OasisDiT
from workshop_lib.training.live import from_recipe

COUNTS = {
    "5m": 4_809_967,
    "9m": 9_357_365,
    "17m": 18_396_795,
    "31m": 32_602_212,
    "58m": 57_821_936,
}


@pytest.mark.parametrize("size", COUNTS)
def test_sizes_are_the_public_ones(size):
    model, _ = from_recipe(f"diffusion/oasis-{size}")
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size]


def checkpoint(net):
    """The names that a public file has, constants repeated in every block and all."""
    torch.manual_seed(0)
    state = {name: torch.randn_like(value) * 0.1 for name, value in net.state_dict().items()}
    places, moments = net.spatial_rotary_emb.freqs, net.temporal_rotary_emb.freqs
    for i in range(net.config.depth):
        state[f"blocks.{i}.s_attn.rotary_emb.freqs"] = places.detach().clone()
        state[f"blocks.{i}.t_attn.rotary_emb.freqs"] = moments.detach().clone()
    state["spatial_rotary_emb.freqs"] = places.detach().clone()
    state["temporal_rotary_emb.freqs"] = moments.detach().clone()
    return state


@pytest.fixture(scope="module")
def coinrun(tmp_path_factory):
    net = OasisDiT(OasisConfig(dim=160, depth=5), 3, 3, 15)
    state = checkpoint(net)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(state, path)
    net.load_state_dict(state, strict=False)
    return path, net.eval(), state


def test_the_names_are_the_public_ones(coinrun):
    names = set(coinrun[2])
    block = ["s_attn.to_qkv.weight", "t_attn.to_out.bias", "s_mlp.fc1.weight", "t_mlp.fc2.bias"]
    block += ["s_adaLN_modulation.1.weight", "t_adaLN_modulation.1.bias"]
    outside = ["x_embedder.proj.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.bias"]
    outside += ["external_cond.conditioner.0.weight", "final_layer.linear.weight"]
    outside += ["final_layer.adaLN_modulation.1.bias"]
    assert names.issuperset([*outside, *(f"blocks.4.{name}" for name in block)])


def test_a_checkpoint_computes_the_same_here_and_in_our_file(coinrun, tmp_path):
    path, net, _ = coinrun
    out = tmp_path / "ours.safetensors"
    assert main(["import", "weights", str(path), str(out)]) == 0
    video, label = torch.randn(1, 3, 3, 64, 64), torch.tensor([[14.0, 14, 600]])
    led_by = torch.tensor([[-1, 7, 4]])
    with torch.no_grad():
        expected = net(video, label, led_by)
        for model in (load_coinrun(path), load_model(out)):
            assert torch.equal(model.net(video, label, led_by), expected)
    config = load_coinrun(path).config
    assert (config.prediction, config.sampler, config.steps) == ("v", "ddim", 10)


def test_minecraft_weights_are_accepted(tmp_path):
    small = OasisConfig((18, 32), 2, 64, 2, 4, bare=True)
    net = OasisDiT(small, 16, 16, 25)
    state = checkpoint(net)
    assert state["external_cond.weight"].shape == (64, 25)
    save_file(state, tmp_path / "oasis.safetensors")
    net.load_state_dict(state, strict=False)
    loaded = load_minecraft(tmp_path / "oasis.safetensors", small)
    latents, label = torch.randn(1, 2, 16, 18, 32), torch.tensor([[14.0, 900]])
    keys = torch.zeros(1, 2, 25)
    keys[0, 1, [3, 11]] = 1  # two at once
    with torch.no_grad():
        assert torch.equal(loaded(latents, label, keys), net.eval()(latents, label, keys))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda s: s.pop("blocks.3.t_mlp.fc1.bias"), "no blocks.3.t_mlp.fc1.bias"),
        (lambda s: s.update(lam=torch.zeros(1)), "lam is not known"),
        (lambda s: s.pop("x_embedder.proj.weight"), "no Oasis weights"),
        (
            lambda s: s.update({"x_embedder.proj.weight": torch.zeros(100, 3, 8, 8)}),
            "width 100 is none of the public sizes, 160",
        ),
        (
            lambda s: s.update({"external_cond.conditioner.0.weight": torch.zeros(160, 9)}),
            r"conditioner.0.weight is \(160, 9\), and \(160, 15\) is needed",
        ),
    ],
)
def test_a_wrong_file_is_refused(coinrun, tmp_path, spoil, complaint):
    state = dict(coinrun[2])
    spoil(state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(WorkshopError, match=rf"wrong.safetensors: .*{complaint}"):
        load_coinrun(tmp_path / "wrong.safetensors")


def test_no_file_and_a_torn_one(tmp_path):
    with pytest.raises(WorkshopError, match="no such file"):
        load_coinrun(tmp_path / "nothing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x80\x02pickled")
    with pytest.raises(WorkshopError, match="not a whole safetensors file"):
        load_coinrun(tmp_path / "torn.safetensors")
