"""Synthetic scenes as pairs to train on and as a labelled test set."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset

from avscenes.media.augmentation import flip_and_shift, scale_images
from avscenes.media.specaugment import spec_augment
from avscenes.scenes.scene import SceneSet
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.loaders import Key
from avscenes.sets.sampling import generator_for


class SceneDataset(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic scenes held in memory."""

    def __init__(self, scenes: SceneSet, seed: int) -> None:
        self.scenes = scenes
        self.seed = seed

    def __len__(self) -> int:
        return len(self.scenes.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        if isinstance(key, int):
            return scale_images(self.scenes.images[key]), self.scenes.spectrograms[key]
        epoch, index = key
        generator = generator_for(self.seed, epoch, index)
        image = flip_and_shift(self.scenes.images[index], generator)
        spectrogram = spec_augment(self.scenes.spectrograms[index], generator, widest=8)
        return scale_images(image), spectrogram


def scene_test_set(scenes: SceneSet, class_names: list[str]) -> LabelledSet:
    """Return synthetic scenes as a labelled test set."""
    return LabelledSet(
        pairs=SceneDataset(scenes, seed=0),
        labels=scenes.labels,
        class_names=class_names,
        boxes=list(scenes.boxes.unsqueeze(1)),
        image_size=scenes.images.shape[-1],
    )
