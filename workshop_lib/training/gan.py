"""Training a tokenizer against a judge (a GAN): reconstructions that also look real.

    tokenizer:      reconstruction + quantizer + weight * r * (-mean judgment of reconstructions)
    discriminator:  hinge loss between real frames and the same reconstructions

after VQGAN (Esser et al. 2021); r, the adaptive weight, is its equation 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from lightning import Trainer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.discriminator import Discriminator, DiscriminatorConfig, hinge_loss
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig, learning_rate_factor, make_optimizer


@dataclass(frozen=True)
class GanConfig:
    """weight: of the discriminator's say in the tokenizer's loss. More is sharper, and costs PSNR.
    adaptive: weigh it against the reconstruction: with 0.1 its pull on the decoder's last layer is
        a tenth as long as the reconstruction's, whatever scale both have; else `weight` alone
        counts.
    adaptive_limit: the most that this may multiply `weight` by.
    start_step: training step from which on the tokenizer listens to the discriminator.
    head_start: so many steps earlier the discriminator begins to learn. Untrained, its advice
        would be noise, and the adaptive weight would still make it heard.
    lr, betas: of the discriminator's AdamW; schedule, warm-up and all else as in `optim`.
    discriminator: what it looks at, and how large it is.
    """

    weight: float = 0.5
    adaptive: bool = True
    adaptive_limit: float = 1e4
    start_step: int = 1000
    head_start: int = 200
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.9)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        for name in ("weight", "adaptive_limit", "lr"):
            if getattr(self, name) <= 0:
                raise WorkshopError(f"gan.{name} must be above 0, got {getattr(self, name)}")
        for name in ("start_step", "head_start"):
            if getattr(self, name) < 0:
                raise WorkshopError(f"gan.{name} must not be negative, got {getattr(self, name)}")

    @property
    def first_step(self) -> int:
        """The training step in which the discriminator begins to learn."""
        return max(0, self.start_step - self.head_start)


class GanTrainingModule(TrainingModule):
    """A TrainingModule with a discriminator and its optimizer; validation is the same.

    A step runs the tokenizer once and uses its reconstruction for both losses, so a codebook
    learns once. `trainer.global_step` counts the tokenizer's steps only. On several GPUs it needs
    trainer.strategy ddp_find_unused_parameters_true, for neither backward pass reaches all weights.

    Args:
        model, optim, compile: as in TrainingModule.
        gan: the discriminator and how much it counts.

    Raises WorkshopError for what cannot go together.
    """

    def __init__(
        self, model: Tokenizer, optim: OptimConfig | None, gan: GanConfig, compile: bool = False
    ) -> None:
        if compile and gan.adaptive:
            raise WorkshopError(
                "compile: cannot take the gradient of one layer apart, which gan.adaptive needs; "
                "use gan.adaptive false or leave compile out"
            )
        super().__init__(model, optim, compile)
        self.automatic_optimization = False
        self.gan = gan
        self.discriminator = Discriminator(gan.discriminator)
        self._forward: Any = torch.compile(model.forward) if compile else model.forward

    @property
    def _tokenizer(self) -> Tokenizer:
        return cast(Tokenizer, self.model)

    def training_step(self, clip: Clip, batch_idx: int) -> None:  # type: ignore[override]
        step = self.global_step
        # `Any`: Lightning types both as one or several.
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        video = clip.video
        reconstruction, quantized = self._forward(video)
        loss, logs = self._tokenizer.loss_of(video, reconstruction, quantized)
        if step >= self.gan.start_step:
            advice, more = self._advice(loss, reconstruction)
            loss, logs = loss + advice, {**logs, **more}
        self._descend(loss, optimizers[0])
        optimizers[0].step()
        schedulers[0].step()
        logs = {"loss": loss.detach(), **logs}
        if step >= self.gan.first_step:
            logs["discriminator"] = self._judge(video, reconstruction.detach(), optimizers[1])
            # The raw optimizer: Lightning adds each step of its own wrapper to global_step, by
            # which max_steps, averaged weights and the data's position on resuming are counted.
            optimizers[1].optimizer.step()
            schedulers[1].step()
        self.log_all("train", logs, clip)

    def _advice(self, loss: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss, weighted, and what to log of it."""
        self.discriminator.requires_grad_(False)
        fooled = -self.discriminator(reconstruction).mean()
        self.discriminator.requires_grad_(True)
        logs = {"generator": fooled.detach()}
        ratio: Tensor | float = 1.0
        if self.gan.adaptive:
            last = self._tokenizer.last_layer
            ratio = adaptive_weight(loss, fooled, last, self.gan.adaptive_limit)
            logs["adaptive_weight"] = ratio
        return self.gan.weight * ratio * fooled, logs

    def _judge(self, video: Tensor, reconstruction: Tensor, optimizer: Any) -> Tensor:
        """Gradients of the hinge loss for the discriminator; returns the loss."""
        real, fake = self.discriminator(torch.cat([video, reconstruction])).chunk(2)
        loss = hinge_loss(real, fake)
        self._descend(loss, optimizer)
        return loss.detach()

    def _descend(self, loss: Tensor, optimizer: Any) -> None:
        """This loss's gradients, clipped, in place of the last step's."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.configure_gradient_clipping(optimizer)

    def configure_optimizers(self) -> Any:
        """One optimizer and schedule each for tokenizer and discriminator."""
        own = replace(self.optim, lr=self.gan.lr, betas=self.gan.betas)
        total = self.trainer.max_steps
        parts = [
            (self.model, self.optim, total, "lr-tokenizer"),
            (self.discriminator, own, total - self.gan.first_step, "lr-discriminator"),
        ]
        optimizers, schedulers = [], []
        for part, optim, steps, name in parts:
            optimizers.append(make_optimizer(part, optim))
            schedule = LambdaLR(optimizers[-1], learning_rate_factor(optim, steps))
            schedulers.append({"scheduler": schedule, "interval": "step", "name": name})
        return optimizers, schedulers

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises WorkshopError for a checkpoint without a discriminator."""
        if not any(name.startswith("discriminator.") for name in checkpoint["state_dict"]):
            raise WorkshopError(
                "gan: the checkpoint is of a run without gan, which cannot go on with one"
            )


def adaptive_weight(loss: Tensor, fooled: Tensor, last: Tensor, limit: float = 1e4) -> Tensor:
    """|d loss / d last| / (|d fooled / d last| + 1e-4), at most `limit`; no gradients in it.

    loss: reconstruction and all else. fooled: the generator's loss. last: the decoder's last
    weight. Returns a scalar.
    """
    mine, theirs = (torch.autograd.grad(x, last, retain_graph=True)[0] for x in (loss, fooled))
    return (mine.norm() / (theirs.norm() + 1e-4)).clamp(max=limit).detach()


def check_trainer(trainer: Trainer) -> None:
    """Raises WorkshopError for settings of the trainer that do not work with two optimizers."""
    if trainer.accumulate_grad_batches != 1:
        raise WorkshopError("trainer.accumulate_grad_batches: not with gan; raise data.batch_size")
    if trainer.gradient_clip_val:
        raise WorkshopError("trainer.gradient_clip_val: not with gan; use optim.clip")
    if trainer.precision == "16-mixed":
        raise WorkshopError("trainer.precision 16-mixed: not with gan; use bf16-mixed or 32-true")
