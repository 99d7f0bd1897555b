"""Exercises of notebook 05: noise on a video, the best guess of what lies under it, and the step to
less noise. Its others are in diffusion_predicting.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def add_noise(
    video: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Video and noise eps (B, T, C, H, W), mixed by alpha and sigma (B, T) of each frame."""
    alpha, sigma = alpha[..., None, None, None], sigma[..., None, None, None]
    return alpha * video + sigma * eps


def best_guess(
    x: torch.Tensor, known: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The mean of the known pictures (n, C, H, W), each counted by how likely x (C, H, W) is, were
    it this picture under noise."""
    distance = (x - alpha * known).square().flatten(1).sum(dim=1)
    weight = (-distance / (2 * sigma**2)).softmax(dim=0)
    return (weight[:, None, None, None] * known).sum(dim=0)


def ddim_step(
    x: torch.Tensor,
    x0: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    next_alpha: torch.Tensor,
    next_sigma: torch.Tensor,
) -> torch.Tensor:
    """From x at one noise level to the next one, if x0 is the clean picture in it."""
    eps = (x - alpha * x0) / sigma
    return next_alpha * x0 + next_sigma * eps


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return torch.allclose(a, b, atol=1e-4)


def _test_add_noise(attempt: Attempt) -> None:
    import torch

    shape = (2, 3, 3, 2, 2)
    generator = torch.Generator().manual_seed(0)
    video, eps = torch.randn(2, *shape, generator=generator)
    alpha = torch.tensor([[1.0, 0.8, 0.6], [0.28, 0.0, 0.96]])
    sigma = torch.tensor([[0.0, 0.6, 0.8], [0.96, 1.0, 0.28]])
    given = f"two videos of three frames, alpha = {rounded(alpha)}, sigma = {rounded(sigma)}"
    mine, noise = video.clone(), eps.clone()
    result = tensor_of(attempt(mine, alpha.clone(), sigma.clone(), noise), "It", shape, given)
    if not torch.equal(mine, video) or not torch.equal(noise, eps):
        raise MistakeError("It changes what it was given: return a new tensor.", given)
    a, s = alpha[..., None, None, None], sigma[..., None, None, None]
    shown = {"expected": rounded((a * video + s * eps)[0, 1]), "got": rounded(result[0, 1])}
    known = {
        "alpha belongs to the picture, sigma to the noise; here they are exchanged.": (
            s * video + a * eps
        ),
        "The noise comes on top of a picture as bright as before; alpha is missing.": (
            video + s * eps
        ),
        "alpha and sigma themselves, not their squares: these add up to 1, and the spread of the "
        "sum stays what it was.": a**2 * video + s**2 * eps,
        "Here the picture gets 1 - sigma. Two independent spreads do not add up, their squares "
        "do; that is why alpha is given.": (1 - s) * video + s * eps,
        "Every frame has its own level: all got that of their video's first frame.": (
            a[:, :1] * video + s[:, :1] * eps
        ),
    }
    for message, wrong in known.items():
        if _same(result, wrong):
            raise MistakeError(message, given, **shown)
    expected = a * video + s * eps
    if _same(result[0, 0], expected[0, 0]) and not _same(result, expected):
        again = attempt(video.clone(), alpha.clone(), sigma.clone(), eps.clone())
        if not _same(again, result):
            raise MistakeError(
                "It draws noise of its own. Use eps, the noise that is given: who is asked for "
                "it later must know what it was.",
                given,
            )
    if not _same(result, expected):
        raise MistakeError("The mix is off.", given, **shown)


def _test_best_guess(attempt: Attempt) -> None:
    import torch

    known = torch.tensor([0.0, 1.0, -1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
    x = torch.full((1, 2, 2), 0.45)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    given = "three flat pictures of 0, 1 and -1 (2 by 2 pixels), x flat 0.45, alpha 0.6, sigma 0.8"
    result = tensor_of(attempt(x.clone(), known.clone(), alpha, sigma), "It", x.shape, given)
    expected = best_guess(x, known, alpha, sigma)
    shown = {"expected": f"flat {expected[0, 0, 0]:.3f}", "got": f"flat {result[0, 0, 0]:.3f}"}
    squares = (x - alpha * known).square().flatten(1)

    def mean(score: torch.Tensor) -> torch.Tensor:
        return (score.softmax(dim=0)[:, None, None, None] * known).sum(dim=0)

    unscaled = (x - known).square().flatten(1).sum(dim=1)
    wrong = {
        "That is the nearest picture. But others could be under this noise, too: take the mean "
        "of all, the likelier the more.": known[squares.sum(dim=1).argmin()],
        "All pictures count alike here, whatever x is.": known.mean(dim=0),
        "The wrong way round: the farther a picture, the more it counts.": mean(
            squares.sum(dim=1) / (2 * sigma**2)
        ),
        "x is alpha times the picture plus noise: compare it with alpha * known.": mean(
            -unscaled / (2 * sigma**2)
        ),
        "The mean of the squared differences is much too mild: the likelihoods of the pixels "
        "multiply, so their squares add up. Sum them.": mean(-squares.mean(dim=1) / (2 * sigma**2)),
        "How far is far depends on the noise: divide by 2 sigma^2.": mean(-squares.sum(dim=1)),
        "Divide by 2 sigma^2; the 2 is missing.": mean(-squares.sum(dim=1) / sigma**2),
        "Divide by 2 sigma^2; it is sigma here, without the square.": mean(
            -squares.sum(dim=1) / (2 * sigma)
        ),
    }
    for message, candidate in wrong.items():
        if _same(result, candidate):
            raise MistakeError(message, given, **shown)
    if not _same(result, expected):
        raise MistakeError("The mean is off.", given, **shown)
    # Where the noise is small, exp(-distance / ...) is 0 for every picture.
    small = torch.tensor(0.01)
    far = attempt(x.clone(), known.clone(), torch.tensor(1.0), small)
    if not torch.isfinite(far).all():
        raise MistakeError(
            "With little noise it gives nan: exp of a very negative number is 0, for every "
            "picture, and 0 / 0 is nothing. `softmax` takes care of that.",
            "the same with alpha 1 and sigma 0.01",
        )


def _test_ddim_step(attempt: Attempt) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 1, 3, 2, 2, generator=generator)
    alpha, sigma, after, less = (torch.tensor(v) for v in (0.6, 0.8, 0.96, 0.28))
    given = "alpha 0.6, sigma 0.8, next_alpha 0.96, next_sigma 0.28"
    arguments = x.clone(), x0.clone(), alpha, sigma, after, less
    result = tensor_of(attempt(*arguments), "It", x.shape, given)
    eps = (x - alpha * x0) / sigma
    shown = {"expected": rounded(after * x0 + less * eps), "got": rounded(result)}
    known = {
        "All the noise is gone at once. x0 is only a guess as yet: put the noise that you found "
        "back, but less of it.": after * x0,
        "That is the guess itself. Go to the next level, which still has noise.": x0,
        "It ends where it began: put picture and noise together by next_alpha and next_sigma.": x,
        "The noise is what is left of x without alpha * x0, not without x0; and then over "
        "sigma.": after * x0 + less * (x - x0) / sigma,
        "What is left without the picture is sigma * eps: divide by sigma.": (
            after * x0 + less * (x - alpha * x0)
        ),
        "That gives the noise the share of the old level.": after * x0 + sigma * eps,
        "next_alpha belongs to the picture, next_sigma to the noise.": less * x0 + after * eps,
    }
    for message, wrong in known.items():
        if _same(result, wrong):
            raise MistakeError(message, given, **shown)
    if not _same(result, attempt(*arguments)):
        raise MistakeError(
            "It draws fresh noise. (There are samplers that do.) This one keeps the noise that it "
            "found in x.",
            given,
        )
    if not _same(result, after * x0 + less * eps):
        raise MistakeError("The step is off.", given, **shown)


EXERCISES = (
    Exercise(
        add_noise,
        _test_add_noise,
        (
            "x = alpha * video + sigma * eps. But alpha is (B, T) and the video (B, T, C, H, W).",
            "`alpha[..., None, None, None]` is (B, T, 1, 1, 1): it goes with every pixel of its "
            "frame.",
        ),
    ),
    Exercise(
        best_guess,
        _test_best_guess,
        (
            "First how far x is from each picture as it would be at this level, alpha * known: "
            "the squared difference, summed over all pixels, (n,).",
            "The likelihood of a distance d under Gaussian noise is exp(-d / (2 sigma^2)), up to "
            "a factor. Make the n likelihoods add up to 1.",
            "`weight = (-distance / (2 * sigma**2)).softmax(dim=0)` does both; then the weighted "
            "sum of the pictures.",
        ),
    ),
    Exercise(
        ddim_step,
        _test_ddim_step,
        (
            "x = alpha * x0 + sigma * eps. You know all but eps.",
            "eps = (x - alpha * x0) / sigma. Then mix x0 and eps anew, by the next alpha and "
            "sigma.",
        ),
    ),
)
