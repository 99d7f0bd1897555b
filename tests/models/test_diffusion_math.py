"""Samplers against a distribution that is known exactly; conversions against their definitions."""

import math

import pytest
import torch

from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_math import (
    SAMPLERS,
    check_sampler,
    from_x0,
    guide,
    loss_weight,
    precondition,
    to_x0,
)
from workshop_lib.models.noise_schedules import FlowSchedule, TableSchedule, make_schedule

SCHEDULES = ("sigmoid", "cosine", "flow", "edm")
KINDS = ("x", "v", "flow", "noise")
WAYS = [(s, n) for n in SCHEDULES for s in SAMPLERS if n in ("flow", "edm") or s in ("ddim", "dpm")]
# Two blobs: 30% at -0.8 and 70% at 0.7
WEIGHTS, MEANS, STD = torch.tensor([0.3, 0.7]), torch.tensor([-0.8, 0.7]), 0.2


def exact_denoiser(schedule):
    """E[x0 | x] where x0 is of the two blobs: Bayes' rule for each blob, then its Gaussian mean."""

    def denoise(x, level):
        alpha, sigma = schedule.alpha_sigma(level)
        variance = alpha**2 * STD**2 + sigma**2
        off = x[:, None] - alpha * MEANS
        blame = torch.softmax(WEIGHTS.log() - off**2 / (2 * variance), dim=1)
        return (blame * (MEANS + alpha * STD**2 / variance * off)).sum(dim=1)

    return denoise


def sample(sampler, schedule, count, size=20_000):
    levels = schedule.steps(count)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    x = schedule.alpha_sigma(levels[:1])[1] * noise
    return SAMPLERS[sampler](exact_denoiser(schedule), x, schedule, levels)


@pytest.mark.parametrize(("sampler", "name"), WAYS)
def test_samplers_find_the_distribution(sampler, name):
    schedule = make_schedule(name)
    if name == "edm":
        schedule.top = 20.0  # 5 times the noise still shows where x came from
    x = sample(sampler, schedule, 100)
    right = x > 0
    assert right.float().mean() == pytest.approx(0.7, abs=0.015)
    for blob, mean in ((x[right], 0.7), (x[~right], -0.8)):
        assert blob.mean() == pytest.approx(mean, abs=0.01)
        assert blob.std() == pytest.approx(STD, abs=0.012)


@pytest.mark.parametrize(
    ("name", "first", "second", "passes"), [("edm", "ddim", "dpm", 1), ("edm", "euler", "heun", 2)]
)
def test_second_order_is_nearer_for_as_many_passes(name, first, second, passes):
    schedule = make_schedule(name)
    truth = sample(second, schedule, 400, 2000)
    errors = [
        (sample(way, schedule, steps, 2000) - truth).abs().mean()
        for way, steps in ((first, 24), (second, 24 // passes))
    ]
    assert errors[1] < 0.65 * errors[0]


@pytest.mark.parametrize("name", ["flow", "edm"])
def test_euler_is_ddim(name):
    schedule = make_schedule(name)
    assert torch.allclose(sample("euler", schedule, 7), sample("ddim", schedule, 7), atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_gives_back_the_picture(name, kind):
    schedule = make_schedule(name)
    level = schedule.draw((1000,), torch.Generator().manual_seed(0))
    level = level[level < 0.95 * schedule.top]  # "noise" divides by alpha
    alpha, sigma = schedule.alpha_sigma(level)
    x0, eps = torch.randn(2, len(level)).double()
    x = alpha * x0 + sigma * eps
    definition = {"x": x0, "noise": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind]
    assert torch.allclose(from_x0(kind, x0, x, alpha, sigma), definition)
    assert torch.allclose(to_x0(kind, definition, x, alpha, sigma), x0)
    # the weight: an error in x0 becomes the same share of error in the prediction
    wrong = x0 + 0.1
    change = from_x0(kind, wrong, x, alpha, sigma) - definition
    assert torch.allclose(change**2, 0.01 * loss_weight(kind, alpha, sigma).double(), rtol=1e-4)
    assert loss_weight("v", alpha, sigma, most=5.0).max() <= 5


def test_preconditioned_input_and_target_have_unit_variance():
    x0, eps = torch.randn(2, 100_000)
    x0 = 0.5 * x0
    for level in (0.01, 0.5, 4.0):
        alpha, sigma = make_schedule("edm").alpha_sigma(torch.tensor(level))
        skip, out, in_, weight = precondition(alpha, sigma, data_std=0.5)
        x = x0 + sigma * eps
        assert (in_ * x).std() == pytest.approx(1, abs=0.02)
        assert ((x0 - skip * x) / out).std() == pytest.approx(1, abs=0.02)
        assert weight == pytest.approx((level**2 + 0.25) / (level * 0.5) ** 2, rel=1e-4)


def test_the_public_schedule():
    """Sigmoid from -3 to 3: half the variance at half the way, and little of the picture left at
    the end; clean at 0."""
    schedule = TableSchedule("sigmoid")
    alpha, sigma = schedule.alpha_sigma(torch.tensor([0.0, 1, 500, 999, 1000]))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(5))
    start, end = (1 / (1 + math.exp(3 * sign)) for sign in (1, -1))
    first = (end - 1 / (1 + math.exp(3 - 0.006))) / (end - start)
    assert alpha[0] == 1 and alpha[2] ** 2 == pytest.approx(0.5, abs=1e-6)
    assert alpha[1] ** 2 == pytest.approx(first, abs=1e-6)
    assert float(alpha[4] ** 2) == pytest.approx(0.001 * float(alpha[3] ** 2), rel=1e-3)
    assert schedule.steps(10).tolist() == list(range(1000, -1, -100))
    assert schedule.label(torch.tensor(15.0)) == 14  # the stabilization level of public weights


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_of_equal_noise_are_found(name):
    schedule = make_schedule(name)
    level = schedule.steps(20)[1:-1]
    alpha, sigma = schedule.alpha_sigma(level)
    assert torch.allclose(schedule.level_of(sigma / alpha), level, rtol=1e-4)
    labels = schedule.label(schedule.steps(50)[:-1])
    assert (labels.diff() < 0).all() and labels.min() > -300 and labels.max() <= 1000


def test_training_levels_follow_their_distribution():
    draws = FlowSchedule(mean=-0.5, std=1.0).draw((20_000,), torch.Generator().manual_seed(0))
    assert torch.logit(draws).mean() == pytest.approx(-0.5, abs=0.03)
    draws = make_schedule("edm").draw((20_000,), torch.Generator().manual_seed(0)).log()
    assert (draws.mean(), draws.std()) == (
        pytest.approx(-0.4, abs=0.03),
        pytest.approx(1.2, abs=0.03),
    )


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_sampler_that_does_not_fit_is_refused(sampler):
    with pytest.raises(WorkshopError, match="use 'ddim'"):
        check_sampler(sampler, make_schedule("cosine"))
    with pytest.raises(WorkshopError, match="choose one of sigmoid"):
        make_schedule("linear")


def test_guidance_goes_beyond_the_condition():
    given, without = torch.tensor([2.0]), torch.tensor([1.0])
    assert [guide(given, without, scale).item() for scale in (0, 1, 3)] == [1, 2, 4]
