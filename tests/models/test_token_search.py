"""The search for better tokens: it draws frames better, never worse, and says what it cannot do."""

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.clip import frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.tokenizer import evaluate, heldout_clips, measure
from workshop_lib.models.token_search import search_tokens
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.nn.quantizers import VQConfig
from workshop_lib.pretrained import load_pretrained


@pytest.fixture(scope="module")
def frames():
    return heldout_clips(SAMPLE / "easy", "test", clips=6, length=2)


@pytest.fixture(scope="module")
def trained():
    return load_pretrained("tokenizer-tiny")


def errors(tokenizer, frames, tokens):
    """The mean square error of each frame, (B, T), in float."""
    with torch.no_grad():
        drawn = tokenizer.decoder(tokenizer.quantizer.decode(tokens))
    return (drawn.clamp(-1, 1) - frames_to_video(frames)).square().mean(dim=(2, 3, 4))


def test_every_frame_is_drawn_better_and_more_sweeps_help(frames, trained):
    own = errors(trained, frames, trained.encode(frames))
    once = errors(trained, frames, search_tokens(trained, frames, sweeps=1))
    thrice = errors(trained, frames, search_tokens(trained, frames, sweeps=3))
    assert (once < own).all() and (thrice <= once).all()
    assert thrice.mean() < once.mean() < 0.95 * own.mean()


def test_what_the_search_finds_is_a_neighbor_that_no_single_move_nearby_improves(trained, frames):
    """After many sweeps hardly any of a token's eight neighbors would draw the frame better."""
    frame = frames[:1, :1]
    found = search_tokens(trained, frame, sweeps=8)
    best, better, places = errors(trained, frame, found)[0, 0], 0, 0
    for n in range(0, 64, 5):
        for place in trained.quantizer.place.tolist():
            for step in (-1, 1):
                digit = found.flatten()[n] // place % 8 + step
                if 0 <= digit < 8:
                    other = found.clone()
                    other.view(-1)[n] += step * place
                    better += int(errors(trained, frame, other)[0, 0] < 0.999 * best)
                    places += 1
    assert better < 0.1 * places


def test_an_untrained_tokenizer_gets_no_worse(frames):
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(dim=16, depth=1, latent_dim=16)).eval()
    own = errors(tokenizer, frames, tokenizer.encode(frames))
    assert (errors(tokenizer, frames, search_tokens(tokenizer, frames)) <= own).all()


def test_frames_do_not_disturb_each_other(frames, trained):
    together = search_tokens(trained, frames)
    alone = torch.cat([search_tokens(trained, clip[None]) for clip in frames])
    assert (together == alone).float().mean() > 0.99  # sums differ in their last bits


def test_the_report_shows_it_beside_the_encoder(frames, trained, capsys):
    plain = measure(trained, frames)
    report = evaluate("tokenizer-tiny", str(SAMPLE / "easy"), clips=6, length=2, search=1)
    assert report.psnr == plain.psnr and report.perplexity == plain.perplexity
    assert report.searched.mean > report.psnr.mean + 0.2
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert ["PSNR by search, dB", str(report.searched)] in [[row[0], row[-1]] for row in rows]
    assert plain.searched is None


def test_it_says_what_it_cannot_search(frames, trained):
    small = dict(dim=16, depth=1, latent_dim=16)
    for config, named in (
        (TokenizerConfig(**small, quantizer=VQConfig(num_codes=32)), "vq and conv"),
        (TokenizerConfig(**small, architecture="vit", heads=2), "fsq and vit"),
    ):
        with pytest.raises(WorkshopError, match=f"not {named}"):
            search_tokens(Tokenizer(config).eval(), frames)
    with pytest.raises(WorkshopError, match="1 sweep or more, got -1"):
        search_tokens(trained, frames, sweeps=-1)
