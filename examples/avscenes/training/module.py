"""The training step: two encoders, one loss, every term logged."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from avcontrast import FNACComponents, FNACLoss, functional, metrics, schedules
from avscenes.files.errors import UserError
from avscenes.models.encoders import AudioEncoder, VisualEncoder
from avscenes.sets.sampling import mix_seed
from avscenes.training.processes import average_in_order, rows_of_all
from avscenes.training.settings import Settings

TERMS = FNACComponents._fields
MONITOR = "validation_info_nce"


class LocalisationModule(LightningModule):
    """Trains an image and a sound encoder on pairs.

    Args:
        visual: Images to feature maps [b, d, h, w].
        audio: Spectrograms to vectors [b, d].
        criterion: The loss.
        settings: Of the run.
    """

    def __init__(
        self, visual: VisualEncoder, audio: AudioEncoder, criterion: FNACLoss, settings: Settings
    ) -> None:
        super().__init__()
        self.visual = visual
        self.audio = audio
        self.criterion = criterion
        self.settings = settings
        self._validation: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        """Tell the dropout which part of a batch is that of this process."""
        self.visual.dropout.rank = self.trainer.global_rank
        self.visual.dropout.world = self.trainer.world_size

    def on_train_start(self) -> None:
        """On CPUs, make the gradients of several processes the same in every run."""
        wrapped = self.trainer.model
        if isinstance(wrapped, DistributedDataParallel) and self.device.type == "cpu":
            wrapped.register_comm_hook(None, lambda _, bucket: average_in_order(bucket.buffer()))

    def regularization(self) -> float:
        """Return the strength of what comes after the warm-up in this epoch."""
        return schedules.warmup(self.current_epoch, start=self.settings.warmup_epochs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of one batch, that of all processes together."""
        # Dropout must be the same however often a run was interrupted. It is seeded here because
        # Lightning leaves out on_train_epoch_start in the first epoch after a resume.
        torch.manual_seed(mix_seed(self.settings.seed, self.current_epoch, batch_index))
        images, spectrograms = batch
        strength = self.regularization()
        parts = self.criterion.components(
            self.visual(images),
            self.audio(spectrograms),
            regularization=strength,
            eliminate=strength > 0,
        )
        self._log_terms("train", parts, len(images))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        both = {"learning_rate": rate, "regularization": strength}
        self.log_dict(both, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return parts.loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the terms of a held-out batch; a warm-up does not change what they mean."""
        visual, audio = self.visual(batch[0]), self.audio(batch[1])
        parts = self.criterion.components(visual, audio, eliminate=False)
        self._log_terms("validation", parts, len(audio))
        self._validation.append((visual, audio))

    def on_validation_epoch_end(self) -> None:
        """Log how often a held-out image finds its own sound among the first five, and back."""
        visual, audio = (
            rows_of_all(torch.cat(parts), self.trainer.world_size)
            for parts in zip(*self._validation, strict=True)
        )
        self._validation.clear()
        similarity = functional.max_similarity(visual, audio)
        if not similarity.isfinite().all():
            raise UserError(
                f"the features are not finite after epoch {self.current_epoch + 1}: the training "
                "diverged; start a new run with a lower --lr or a higher --temperature"
            )
        recalls = [metrics.recall_at_k(s, k=(5,))[5] for s in (similarity, similarity.T)]
        self.log("validation_pair_recall_5", sum(recalls) / 2, sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """Return Adam, and the one-cycle schedule when it is asked for."""
        rate, decay = self.settings.lr, self.settings.weight_decay
        optimizer = torch.optim.Adam(self.parameters(), lr=rate, weight_decay=decay)
        if self.settings.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _log_terms(self, stage: str, parts: FNACComponents, size: int) -> None:
        for name, value in zip(TERMS, parts, strict=True):
            self.log(
                f"{stage}_{name}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                prog_bar=f"{stage}_{name}" in ("train_loss", MONITOR),
                batch_size=size,
                sync_dist=True,
            )
