"""One training of the study: the loop of the quickstart, with a batch order that knows classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast import (
    AlignmentLoss,
    FNACLoss,
    HardPositiveLoss,
    TriMapLoss,
    functional,
    schedules,
)
from avscenes.media.augmentation import flip_and_shift, scale_images, shift
from avscenes.media.specaugment import spec_augment
from avscenes.models.encoders import (
    AudioEncoder,
    ResNet18,
    SmallTrunk,
    VisualEncoder,
    build_encoders,
)
from avscenes.scenes.scene import SceneSet
from avscenes.sets.sampling import generator_for
from avscenes.training.alignment import ProjectedAlignment
from avstudy import data, opponents
from avstudy.plan import DigitSetting, Method, Run, Setting

WEIGHT_DECAY = 1e-4
_DIGIT_MARGIN = 3  # pixels
_PIECE = 128  # images that are encoded at a time


class Encoders(NamedTuple):
    """Images to maps [b, d, h, w], spectrograms to vectors [b, d]."""

    visual: VisualEncoder
    audio: AudioEncoder


def build(run: Run, folder: Path) -> Encoders:
    """Return encoders that depend on the seed alone, the image trunk warm-started."""
    torch.manual_seed(run.seed)
    visual, audio = build_encoders("small")
    assert isinstance(visual.trunk, SmallTrunk)
    data.warm_trunk(folder, run.seed, run.data, visual.trunk)
    for network in (visual, audio):
        # Convolutions on CPUs are faster in this memory format, which torch's types do not know.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoders(visual, audio)


def batches(labels: Tensor, setting: Setting | DigitSetting, seed: int, epoch: int) -> list[Tensor]:
    """Return the rows of each batch of an epoch.

    Without `classes_per_batch` every row comes once, up to a remainder. With it, each batch draws
    its classes and from each equally many rows, none twice.
    """
    generator = generator_for(seed, epoch)
    size, wanted = setting.batch_size, setting.classes_per_batch
    count = len(labels) // size
    if not wanted:
        order = torch.randperm(len(labels), generator=generator)
        return list(torch.split(order[: count * size], size))
    members = [(labels == label).nonzero()[:, 0] for label in range(setting.classes)]
    drawn = []
    for _ in range(count):
        chosen = torch.randperm(setting.classes, generator=generator)[:wanted].tolist()
        shares = [size // wanted + (place < size % wanted) for place in range(wanted)]
        rows = []
        for label, share in zip(chosen, shares, strict=True):
            there = len(members[label])
            if share > there:
                raise ValueError(f"a batch needs {share} of class {label}, got {there}")
            order = torch.randperm(there, generator=generator)
            rows.append(members[label][order[:share]])
        drawn.append(torch.cat(rows))
    return drawn


def augmented(
    scenes: SceneSet, rows: Tensor, generator: torch.Generator, digits: bool = False
) -> tuple[Tensor, Tensor]:
    """Return randomly changed images [b, 3, size, size] and sounds [b, 1, 64, frames].

    Digits are shifted less than the objects of scenes, and not mirrored.
    """
    if digits:
        images = [shift(scenes.images[row], generator, _DIGIT_MARGIN) for row in rows]
    else:
        images = [flip_and_shift(scenes.images[row], generator) for row in rows]
    sounds = [spec_augment(scenes.spectrograms[row], generator, widest=8) for row in rows]
    return scale_images(torch.stack(images)), torch.stack(sounds)


def criterion_of(method: Method) -> FNACLoss:
    """Return the loss of a method whose contrast is that of the package."""
    return FNACLoss(
        method.temperature,
        fns_audio_weight=method.fns_audio_weight,
        fns_visual_weight=method.fns_visual_weight,
        tne_weight=method.tne_weight,
        threshold=method.threshold,
        anchor=method.anchor,
        mask=method.mask,
        adjacency_reduction=method.adjacency_reduction,
        detach_adjacency=method.detach_adjacency,
        elimination=method.elimination,
        elimination_level=method.elimination_level,
    )


def loss_of(
    method: Method,
    visual: Tensor,
    audio: Tensor,
    *,
    ignore: Tensor | None = None,
    positives: Tensor | None = None,
    warm: bool = True,
) -> Tensor:
    """Return the loss of a batch.

    Args:
        method: Which loss, but that of alignment, which has several views.
        visual: Feature maps [b, d, h, w].
        audio: Vectors [b, d].
        ignore: Pairs that are left out of the contrast.
        positives: Pairs of neighbours, which are further positives of hardpos.
        warm: Whether the warm-up is over, before which there is the plain contrast alone.
    """
    temperature = method.temperature
    loss: Tensor
    if method.contrast == "debiased":
        loss = opponents.debiased(visual, audio, temperature, method.class_prior)
    elif method.contrast == "soft-targets":
        share = method.soft_share if warm else 0.0
        loss = opponents.soft_targets(visual, audio, temperature, share, method.soft_kind)
    elif method.contrast == "lvs":
        loss = TriMapLoss(temperature)(visual, audio)
    elif method.contrast == "hardpos":
        criterion = HardPositiveLoss(temperature, positive_form=method.positive_form)
        loss = criterion(visual, audio, positives=positives)
    else:
        loss = criterion_of(method)(
            visual, audio, regularization=float(warm), ignore=ignore, eliminate=warm
        )
    return loss


def projected_alignment(method: Method, channels: int, seed: int) -> ProjectedAlignment:
    """Return the loss of alignment with projections that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ProjectedAlignment(AlignmentLoss(method.temperature), channels)


@torch.no_grad()
def nearest_images(trunk: SmallTrunk | ResNet18, images: Tensor, count: int) -> Tensor:
    """Return for each image [n, 3, size, size] the others that are most like it, [n, count].

    By the mean over the positions of the features of the trunk, as it is before the training: the
    warm start has taught it objects. Sounds have no such features, so they have no neighbours.
    """
    trunk.eval()
    pieces = torch.split(scale_images(images), _PIECE)
    vectors = F.normalize(torch.cat([trunk(piece).mean(dim=(-2, -1)) for piece in pieces]), dim=1)
    likeness = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    return likeness.argsort(dim=1, descending=True, stable=True)[:, :count]


def left_out(
    kind: str, labels: Tensor, silent_labels: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Return which pairs of a batch the contrast leaves out, images by sounds [b, b].

    Args:
        kind: `nothing`; `same-class`, the false negatives; `shown`, also sounds of the class of the
            silent object; `random`, as many pairs as there are false negatives, of other classes.
        labels: Class of each sound.
        silent_labels: Class of each silent object.
        generator: For `random`.
    """
    if kind == "nothing":
        return None
    own = torch.eye(len(labels), dtype=torch.bool)
    same = labels[:, None] == labels
    if kind == "same-class":
        return same & ~own
    if kind == "shown":
        return (same | (silent_labels[:, None] == labels)) & ~own
    if kind == "random":
        scores = torch.rand(same.shape, generator=generator).masked_fill(same, 2.0)
        count = same.sum(dim=1, keepdim=True) - 1
        return scores.argsort(dim=1).argsort(dim=1) < count
    raise ValueError(f"ignore: nothing, same-class, shown or random, got {kind}")


def train(run: Run, encoders: Encoders, scenes: SceneSet) -> Iterator[int]:
    """Train in place and yield the number of epochs after each."""
    setting, method = run.data, run.loss
    parameters = [*encoders.visual.parameters(), *encoders.audio.parameters()]
    near = projected = None
    if method.contrast == "hardpos":
        near = nearest_images(encoders.visual.trunk, scenes.images, method.neighbours)
    if method.contrast == "alignment":
        projected = projected_alignment(method, encoders.visual.dim, run.seed)
        parameters += projected.parameters()
    optimizer = torch.optim.Adam(parameters, lr=method.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = setting.epochs * (len(scenes.labels) // setting.batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, method.learning_rate, steps)
    digits = isinstance(setting, DigitSetting)
    for epoch in range(setting.epochs):
        encoders.visual.train()
        encoders.audio.train()
        warm = schedules.warmup(epoch, start=round(method.warmup * setting.epochs)) > 0
        for step, rows in enumerate(batches(scenes.labels, setting, run.seed, epoch)):
            generator = generator_for(run.seed, epoch, step)
            images, sounds = augmented(scenes, rows, generator, digits)
            labels, silent_labels = scenes.labels[rows], scenes.silent_labels[rows]
            ignore = left_out(method.ignore, labels, silent_labels, generator)
            visual, audio = encoders.visual(images), encoders.audio(sounds)
            if projected is not None:
                plain = scale_images(scenes.images[rows]), scenes.spectrograms[rows]
                seen, heard = encoders.visual(plain[0]), encoders.audio(plain[1])
                loss = projected([seen, visual], [heard, audio]).loss
            else:
                positives = (
                    None if near is None else functional.neighbour_positives(rows, near[rows])
                )
                loss = loss_of(method, visual, audio, ignore=ignore, positives=positives, warm=warm)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
        yield epoch + 1
