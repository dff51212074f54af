"""The training step: two encoders, one loss, every term logged."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from avcontrast import (
    FNACLoss,
    HardPositiveLoss,
    TriMapLoss,
    functional,
    metrics,
    schedules,
)
from avscenes.files.errors import UserError
from avscenes.models.encoders import AudioEncoder, VisualEncoder
from avscenes.sets.sampling import mix_seed
from avscenes.training.alignment import ProjectedAlignment
from avscenes.training.processes import average_in_order, rows_of_all
from avscenes.training.settings import OTHER_METHODS, Settings

Criterion = FNACLoss | TriMapLoss | HardPositiveLoss | ProjectedAlignment


def monitor_of(settings: Settings) -> str:
    """Return what is lowest for the best checkpoint: the contrast of held-out pairs."""
    return "validation_loss" if settings.loss in OTHER_METHODS else "validation_info_nce"


class LocalisationModule(LightningModule):
    """Trains an image and a sound encoder on pairs.

    Args:
        visual: Images to feature maps [b, d, h, w].
        audio: Spectrograms to vectors [b, d].
        criterion: The loss.
        settings: Of the run.
    """

    def __init__(
        self, visual: VisualEncoder, audio: AudioEncoder, criterion: Criterion, settings: Settings
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

    def training_step(self, batch: Any, batch_index: int) -> Tensor:  # noqa: ANN401
        """Return the loss of one batch, that of all processes together."""
        # Dropout must be the same however often a run was interrupted. It is seeded here because
        # Lightning leaves out on_train_epoch_start in the first epoch after a resume.
        torch.manual_seed(mix_seed(self.settings.seed, self.current_epoch, batch_index))
        strength = self.regularization()
        terms = self._terms(batch, strength)
        size = self.settings.batch_size // self.trainer.world_size
        self._log_terms("train", terms, size)
        others = {"learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"]}
        if isinstance(self.criterion, FNACLoss):
            others["regularization"] = strength
        self.log_dict(others, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return terms["loss"]

    def _terms(self, batch: Any, strength: float) -> dict[str, Tensor]:  # noqa: ANN401
        """Return the loss of a batch and its terms; what a batch holds depends on the loss."""
        if isinstance(self.criterion, ProjectedAlignment):
            seen, heard = batch
            views = [self.visual(view) for view in seen], [self.audio(view) for view in heard]
            terms: dict[str, Tensor] = self.criterion(*views)._asdict()
            return terms
        images, spectrograms, *near = batch
        visual, audio = self.visual(images), self.audio(spectrograms)
        if isinstance(self.criterion, HardPositiveLoss):
            positives = self._positives(*near) if near else None
            return {"loss": self.criterion(visual, audio, positives=positives)}
        if isinstance(self.criterion, TriMapLoss):
            return {"loss": self.criterion(visual, audio)}
        return self.criterion.components(
            visual, audio, regularization=strength, eliminate=strength > 0
        )._asdict()

    def _positives(self, samples: Tensor, by_image: Tensor, by_sound: Tensor) -> Tensor:
        """Return which pairs of the batch of all processes are of neighbours."""
        return functional.neighbour_positives(
            samples,
            by_image,
            by_sound,
            combine=self.settings.combine_neighbours,
            everyone=rows_of_all(samples, self.trainer.world_size),
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the terms of a held-out batch; a warm-up does not change what they mean.

        There is one view of each image and sound, and the own pairs are the only positives.
        """
        visual, audio = self.visual(batch[0]), self.audio(batch[1])
        if isinstance(self.criterion, FNACLoss):
            terms = self.criterion.components(visual, audio, eliminate=False)._asdict()
        elif isinstance(self.criterion, ProjectedAlignment):
            terms = self.criterion([visual], [audio])._asdict()
        else:
            terms = {"loss": self.criterion(visual, audio)}
        self._log_terms("validation", terms, len(audio))
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

    def _log_terms(self, stage: str, terms: dict[str, Tensor], size: int) -> None:
        for name, value in terms.items():
            self.log(
                f"{stage}_{name}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                prog_bar=f"{stage}_{name}" in ("train_loss", monitor_of(self.settings)),
                batch_size=size,
                sync_dist=True,
            )
