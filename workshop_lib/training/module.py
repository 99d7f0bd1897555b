"""The one LightningModule: it trains whatever has `loss(clip) -> (loss, logs)`."""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch import Tensor, nn

from workshop_lib.data.clip import Clip
from workshop_lib.training.optim import OptimConfig, learning_rate_factor, make_optimizer


class TrainingModule(lightning.LightningModule):
    """Wraps a model for Lightning's Trainer.

    Args:
        model: a module with `loss(clip) -> (scalar loss, logs)`, logs being scalars by name.
        optim: optimizer and schedule; the schedule ends at the trainer's max_steps.
        compile: run the model through torch.compile (worth it on GPUs).
    """

    def __init__(
        self, model: nn.Module, optim: OptimConfig | None = None, compile: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim or OptimConfig()
        # `Any`: torch types every attribute of a module as "Tensor or Module".
        loss: Any = model.loss
        self._loss = torch.compile(loss) if compile else loss
        self._parts: list[dict[str, Any]] = []  # what was logged of the global batch under way

    def training_step(self, clip: Clip, batch_idx: int) -> Tensor:
        loss, logs = self._loss(clip)
        self.log_all("train", {"loss": loss.detach(), **logs}, clip)
        return loss

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        self._evaluate("val", clip)

    def test_step(self, clip: Clip, batch_idx: int) -> None:
        self._evaluate("test", clip)

    def _evaluate(self, stage: str, clip: Clip) -> None:
        loss, logs = self._loss(clip)
        self.log_all(stage, {"loss": loss, **logs}, clip)

    def log_all(self, stage: str, logs: dict[str, Any], clip: Clip) -> None:
        """Logs as train/NAME (each step) or val/NAME, test/NAME (mean over the set)."""
        named = {f"{stage}/{name}": value for name, value in logs.items()}
        if stage == "train":
            named = self._of_global_batch(named)
        self.log_dict(named, batch_size=len(clip), sync_dist=stage != "train")

    def _of_global_batch(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The mean over the parts of a batch so far and, when it is written, over processes."""
        self._parts.append(logs)
        named = logs
        if len(self._parts) > 1:
            named = {n: sum(part[n] for part in self._parts) / len(self._parts) for n in logs}
        if len(self._parts) >= self.trainer.accumulate_grad_batches:
            self._parts.clear()
            if self.trainer.world_size > 1 and self.trainer._logger_connector.should_update_logs:
                together = torch.stack(
                    [torch.as_tensor(v).float().to(self.device) for v in named.values()]
                )
                dist.all_reduce(together)
                named = dict(zip(named, together / self.trainer.world_size, strict=True))
        return named

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.optim)
        factor = learning_rate_factor(self.optim, self.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        limit = gradient_clip_val if gradient_clip_val is not None else self.optim.clip
        if limit:  # not self.clip_gradients: Lightning has it refuse fused optimizers
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, limit)

    def transfer_batch_to_device(
        self, batch: Clip, device: torch.device, dataloader_idx: int
    ) -> Clip:
        return batch.to(device, non_blocking=True)
