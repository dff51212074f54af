"""Visual warm start for the synthetic scenes: the stand-in for an ImageNet initialisation.

Real systems start from an image network that already knows what objects look like. Here the image
trunk learns, without any sound, to tell shape, texture and hue of single objects; they are drawn
independently, so the classes of the scenes are not among what it is taught.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avscenes.media.augmentation import scale_images
from avscenes.models.encoders import ResNet18, SmallTrunk
from avscenes.scenes.drawing import SHAPES, TEXTURES
from avscenes.scenes.scene import ObjectSet

_BATCH_SIZE = 64
_LEARNING_RATE = 1e-2  # the highest one of Adam's one-cycle schedule


class ObjectHead(nn.Module):
    """Reads shape, texture and hue from the mean-pooled map of a trunk."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = nn.Linear(channels, len(SHAPES))
        self.texture = nn.Linear(channels, len(TEXTURES))
        self.hue = nn.Linear(channels, 2)

    def loss(self, features: Tensor, shapes: Tensor, textures: Tensor, hues: Tensor) -> Tensor:
        """Return the summed loss of the three answers for `features` [b, channels, h, w]."""
        pooled = features.mean(dim=(-2, -1))
        angle = 2 * math.pi * hues
        target = torch.stack((angle.cos(), angle.sin()), dim=1)
        return (
            F.cross_entropy(self.shape(pooled), shapes)
            + F.cross_entropy(self.texture(pooled), textures)
            + F.mse_loss(self.hue(pooled), target)
        )


def warm_start(
    trunk: SmallTrunk | ResNet18, objects: ObjectSet, *, epochs: int, seed: int
) -> float:
    """Train `trunk` in place and return the loss of the last epoch.

    Args:
        trunk: Image trunk.
        objects: What it is shown.
        epochs: Passes over the objects.
        seed: Of the order and of the head.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ObjectHead(trunk.channels)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=_LEARNING_RATE)
    images = scale_images(objects.images)
    steps = max(1, len(images) // _BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, epochs * steps)
    trunk.train()
    mean = math.nan
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for rows in torch.split(order[: steps * _BATCH_SIZE], _BATCH_SIZE):
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            batch = torch.where(mirrored, images[rows].flip(-1), images[rows])
            loss = head.loss(
                trunk(batch), objects.shapes[rows], objects.textures[rows], objects.hues[rows]
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
            total += loss.item()
        mean = total / steps
    return mean
