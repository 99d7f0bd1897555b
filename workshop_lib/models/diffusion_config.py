"""What a diffusion model of frames is made of, and how it is trained and played."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import check_play
from workshop_lib.models.diffusion_math import Prediction, SamplerName
from workshop_lib.models.expected import check_mean
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.models.noise_schedules import ScheduleName, make_schedule
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.nn.oasis import OasisConfig


@dataclass(frozen=True)
class DiffusionConfig:
    """net: the denoiser; its kind is "dit", ours, or "oasis", that of the public weights.
    num_actions: A.
    schedule: of the noise: "sigmoid" (the public weights'), "cosine", "flow" or "edm".
    prediction: what the network is read as: "x", the clean frame, "v", "flow" or "noise".
    loss: the squared error of which of these is trained on, up to `most` times that of "x".
    most: see loss.
    training: "drafts" or "independent" (models/diffusion.py).
    see: so many frames before each are given to the network beside it, as channels.
    displacement: the network may move the frame before instead of painting all of it anew; only
        with prediction "x".
    mean: a next-frame predictor inside, which says the mean of the next frame; the network is told
        it, and adds to it. Only with prediction "x" and training "drafts".
    train_mean: False leaves the predictor as it began (`--start_from` a trained one).
    data_std: spread of what is predicted, for Karras et al.'s preconditioning; 0 for none.
    whole: share of drafts that are nothing but noise, where sampling begins.
    context: the past's noise levels in training with drafts go from 0 to this.
    spoiled: share of the clips whose past is spoiled in training with drafts (models/spoiling.py).
    stabilization: noise level that the past is said to have in play.
    drop_actions: share of actions left out in training, so that guidance can compare.
    steps, sampler, guidance: of play.
    """

    net: DiTConfig | OasisConfig = field(default_factory=DiTConfig)
    num_actions: int = 15
    schedule: ScheduleName = "sigmoid"
    prediction: Prediction = "x"
    loss: Prediction = "v"
    most: float = 10.0
    training: Literal["drafts", "independent"] = "drafts"
    see: int = 0
    displacement: bool = False
    mean: NextFrameConfig | None = None
    train_mean: bool = True
    data_std: float = 0.0
    whole: float = 0.0
    context: float = 100.0
    spoiled: float = 0.0
    stabilization: float = 15.0
    drop_actions: float = 0.1
    steps: int = 4
    sampler: SamplerName = "ddim"
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.num_actions < 1 or self.see < 0 or self.most <= 0 or self.data_std < 0:
            raise WorkshopError(
                "model.num_actions must be 1 or more, model.most above 0, model.see and"
                " model.data_std 0 or more"
            )
        for key in ("whole", "spoiled", "drop_actions"):
            if not 0 <= getattr(self, key) <= 1:
                raise WorkshopError(f"model.{key} must be 0 to 1, got {getattr(self, key)}")
        if (self.displacement or self.mean or self.data_std) and self.prediction != "x":
            raise WorkshopError(
                "model.displacement, model.mean and model.data_std go with model.prediction x, not"
                f" {self.prediction}"
            )
        if self.mean is not None:
            self._check_mean(self.mean)
        if self.displacement and not self.see:
            raise WorkshopError("model.displacement moves the frame before: needs model.see >= 1")
        if self.training == "drafts" and self.net.kind != "dit":
            raise WorkshopError("model.training drafts needs net.kind dit; use independent")
        schedule = make_schedule(self.schedule)
        check_play(self.steps, self.sampler, schedule)
        for key in ("context", "stabilization"):
            if not 0 <= getattr(self, key) < schedule.top:
                raise WorkshopError(
                    f"model.{key} {getattr(self, key)} must be at least 0 and below"
                    f" {schedule.top:g}, the highest level of schedule {self.schedule}"
                )

    def _check_mean(self, mean: NextFrameConfig) -> None:
        check_mean(mean)
        if mean.num_actions != self.num_actions:
            raise WorkshopError(
                f"model.mean.num_actions {mean.num_actions} must be model.num_actions, "
                f"{self.num_actions}"
            )
        if self.displacement or self.training != "drafts":
            raise WorkshopError(
                "model.mean goes with model.displacement false and model.training drafts"
            )
