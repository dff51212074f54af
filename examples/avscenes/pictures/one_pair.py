"""One image file and one sound file: the heat map of a model as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from avcontrast import functional
from avcontrast.plots import Picture, show_map
from avscenes.files.errors import reading
from avscenes.files.whole_files import whole_file
from avscenes.media.audio import load_wave
from avscenes.media.images import IMAGE_SIZE, load_frame, squeezed
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import heat_maps, object_maps
from avscenes.pictures import style
from avscenes.pictures.overlays import bare, shorten
from avscenes.testing.settings import OnePair
from avscenes.testing.towers import as_fed, trained_towers
from avscenes.training.trained import Trained

_LONGEST = 640


def draw_pair(trained: Trained, object_network: ResNet18 | None, pair: OnePair) -> None:
    """Write the picture: the image, the map of the model and, with OGL, object map and mix.

    Raises:
        UserError: When one of the files cannot be read.
    """
    with reading("--image", pair.image):
        frame = load_frame(pair.image)
    with reading("--sound", pair.sound):
        if not pair.sound.is_file():  # of which libsndfile says less
            raise FileNotFoundError("No such file or directory")
        wave = load_wave(pair.sound)
    towers = trained_towers(trained)
    images = squeezed(frame, towers.image_size)[None]
    with torch.no_grad():
        seen, heard = towers.visual(images).float(), towers.audio(wave[None]).float()
        things = None
        if object_network is not None:
            pixels = as_fed(trained, images).to(pair.device)
            things = object_maps(object_network, pixels).float()
    cosines = functional.localization_map(seen, heard)
    heats = heat_maps(
        cosines,
        things,
        size=IMAGE_SIZE,
        protocol=pair.protocol,
        object_share=pair.object_share,
    )
    named = {
        f"model: cosine {cosines.min():.2f} to {cosines.max():.2f}": heats["model"],
        **({"object map (OGL), no sound": heats["ogl"]} if "ogl" in heats else {}),
        **({f"mix, {pair.object_share:.0%} of it OGL": heats["mix"]} if "mix" in heats else {}),
    }
    names = [shorten(path.stem, 20) for path in (pair.sound, pair.image)]
    title = "Where {} comes from in {}".format(*names)
    _draw(pair.output, frame, {k: heat[0].cpu() for k, heat in named.items()}, title)


def _draw(path: Path, frame: Image.Image, heats: dict[str, Tensor], title: str) -> None:
    shown = frame.copy()
    shown.thumbnail((_LONGEST, _LONGEST))
    picture: Picture = np.asarray(shown, dtype=np.float32) / np.float32(255)
    panels = 1 + len(heats)
    width = 3.2 * panels
    height = min(7.0, 3.2 * shown.height / shown.width) + 0.65
    with whole_file(path) as partial, style.figure(partial, width, height) as figure:
        figure.suptitle(title, x=0.005, ha="left", fontsize=11)
        axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
        axes[0].imshow(picture)
        axes[0].set_title("image", fontsize=9, fontweight="normal")
        for axis, (label, heat) in zip(axes[1:], heats.items(), strict=True):
            show_map(axis, picture, heat, None)
            axis.set_title(label, fontsize=9, fontweight="normal")
        for axis in axes:
            bare(axis)
