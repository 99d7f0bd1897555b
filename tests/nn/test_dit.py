"""The two diffusion transformers: no look into the future, and a cache that changes nothing."""

import pytest
import torch

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.dit import DiT, DiTConfig
from workshop_lib.nn.oasis import OasisConfig, OasisDiT


def stirred(net):
    """Every weight does something, those that start at 0 too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return net.eval()


NETS = {
    "dit": lambda: DiT(DiTConfig(size=32, dim=32, depth=2, heads=2, window=4), 3, 3, 15),
    "oasis": lambda: OasisDiT(OasisConfig((32, 32), 8, 32, 2, 2, window=4), 3, 3, 15),
}


@pytest.fixture(params=list(NETS))
def net(request):
    torch.manual_seed(0)
    return stirred(NETS[request.param]())


def inputs(net, frames=7):
    generator = torch.Generator().manual_seed(2)
    video = torch.randn(2, frames, 3, 32, 32, generator=generator)
    label = 1000 * torch.rand(2, frames, generator=generator)
    return video, label, torch.randint(-1, 15, (2, frames), generator=generator)


def test_later_frames_change_nothing(net):
    video, label, led_by = inputs(net)
    with torch.no_grad():
        before = net(video, label, led_by)
        video[:, 4:] += 1
        label[:, 4:] = 3
        led_by[:, 4:] = 0
        after = net(video, label, led_by)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-5)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-2)


@pytest.mark.parametrize("what", ["label", "action"])
def test_noise_level_and_action_matter(net, what):
    video, label, led_by = inputs(net)
    with torch.no_grad():
        before = net(video, label, led_by)
        if what == "label":
            label[:, 3] = (label[:, 3] + 500) % 1000
        else:
            led_by[:, 3] = (led_by[:, 3] + 1) % 15
        after = net(video, label, led_by)
    change = (after - before).abs().amax(dim=(0, 2, 3, 4))
    assert change[:3].max() < 1e-5 and change[3] > 1e-3 and change[4] > 1e-5


def test_cached_equals_uncached(net):
    """Past the window, too, and with looks in between that leave nothing behind."""
    video, label, led_by = inputs(net)
    with torch.no_grad():
        whole = net(video, label, led_by)
        cache = net.new_cache(2)
        parts = [net(video[:, :3], label[:, :3], led_by[:, :3], cache)]
        for t in range(3, 7):
            frame = slice(t, t + 1)
            noise = torch.randn_like(video[:, frame])
            net(noise, label[:, frame], led_by[:, frame], cache, write=False)
            parts.append(net(video[:, frame], label[:, frame], led_by[:, frame], cache))
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_untrained_it_says_nothing():
    for make in NETS.values():
        net = make()
        assert torch.equal(net(*inputs(net)), torch.zeros_like(net(*inputs(net))))


def test_drafts_are_what_play_asks():
    net = stirred(NETS["dit"]())
    video, label, led_by = inputs(net, 6)
    settled, drafts = slice(0, 5), slice(1, 6)
    noise = torch.randn(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        both = torch.cat([video[:, settled], noise], dim=1)
        labels = torch.cat([torch.zeros(2, 5), label[:, drafts]], dim=1)
        actions = torch.cat([led_by[:, settled], led_by[:, drafts]], dim=1)
        at_once = net(both, labels, actions, drafts=True)
        cache = net.new_cache(2)
        for t in range(5):
            net(video[:, t : t + 1], torch.zeros(2, 1), led_by[:, t : t + 1], cache)
            following = slice(t + 1, t + 2)
            look = (noise[:, t : t + 1], label[:, following], led_by[:, following])
            played = net(*look, cache, write=False)
            assert torch.allclose(played[:, 0], at_once[:, t], atol=1e-5)


@pytest.mark.parametrize(
    ("config", "values", "complaint"),
    [
        (DiTConfig, {"patch": 7}, "net.size 64 must be a multiple of patch 7"),
        (DiTConfig, {"dim": 100}, "dim: 100 is no multiple"),
        (OasisConfig, {"dim": 100}, "net.dim 100 must be a multiple"),
        (OasisConfig, {"size": (60, 64)}, "must be a multiple of patch 8"),
        (OasisConfig, {"depth": 0}, "net.depth must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(config, values, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        config(**values)


def test_frames_of_another_size_are_refused():
    for make in NETS.values():
        net = make()
        video, label, led_by = inputs(net)
        with pytest.raises(WorkshopError, match="this model has net"):
            net(video[..., :16, :16], label, led_by)


def test_one_attention_is_the_published_one():
    """Rows of to_qkv by (query | key | value, head), pairs of channels side by side turned by
    pi * linspace(1, 128) times the place from -1 to 1: written down here once more, in complex
    numbers."""
    net = stirred(NETS["oasis"]())
    attention, heads = net.blocks[0].s_attn, 2
    x = torch.randn(1, 1, 16, 32, generator=torch.Generator().manual_seed(4))
    q, k, v = attention.to_qkv(x[0, 0]).view(16, 3, heads, 16).unbind(1)
    place = torch.linspace(-1, 1, 4)
    speed = torch.pi * torch.linspace(1, 128, 4)
    row = place.repeat_interleave(4)[:, None] * speed
    column = place.repeat(4)[:, None] * speed
    turn = torch.polar(torch.ones(16, 8), torch.cat([row, column], dim=1))[:, None]

    def turned(t):
        pairs = torch.view_as_complex(t.reshape(16, heads, 8, 2).contiguous())
        return torch.view_as_real(pairs * turn).reshape(16, heads, 16)

    logits = torch.einsum("nhd,mhd->hnm", turned(q), turned(k)) / 4
    out = torch.einsum("hnm,mhd->nhd", logits.softmax(-1), v).reshape(16, 32)
    ours = attention(x, net._rotary(0, 1)[0])
    assert torch.allclose(ours[0, 0], attention.to_out(out), atol=1e-5)
