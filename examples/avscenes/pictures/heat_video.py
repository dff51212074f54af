"""Maps over a video: where its sound comes from at each moment, as a video and as a strip."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from avcontrast import functional, metrics
from avcontrast.plots import HEAT, SKY, Picture, show_map
from avscenes.files.whole_files import whole_file
from avscenes.media.footage import Footage, read_footage
from avscenes.media.images import squeezed
from avscenes.media.writing import Canvas, write_gif, write_mp4
from avscenes.pictures import style
from avscenes.pictures.overlays import bare
from avscenes.testing.towers import Towers, check_encoded

_LONGEST = {".mp4": 640, ".gif": 400}
_GIF_RATE = Fraction(10)
_IN_STRIP = 6
_OUTLINED = 0.25  # of all maps together, those of highest values
# Of the map over the grey image, as in all pictures.
_ALPHA, _BRIGHTEST = 0.6, 1.3
# Pixels of the progress bar, and of the colours beside the frame, which need some height.
_PROGRESS, _COLOURS, _LEAST_HIGH = 10, 84, 120


class HeatMaps(NamedTuple):
    """The maps of a video, and what they have in common."""

    maps: Tensor  # cosines, a map for each frame, [n, h, w]
    low: float
    high: float
    cut: float  # above it lie as many values as the region covers of all frames together


@torch.no_grad()
def video_maps(towers: Towers, footage: Footage, *, batch_size: int = 32) -> HeatMaps:
    """Return the map of each frame with the sound around it.

    Args:
        towers: What encodes them.
        footage: The video.
        batch_size: Frames that are encoded at a time.

    Raises:
        ValueError: When no frame can be decoded, or the towers make no maps or no vectors.
    """
    frames, done = footage.frames(), 0
    parts: list[Tensor] = []
    with tqdm(desc="maps", unit="frame", leave=False, disable=None) as bar:
        while images := [squeezed(one, towers.image_size) for one in islice(frames, batch_size)]:
            middles = (done + np.arange(len(images)) + 0.5) / float(footage.rate)
            sounds = torch.from_numpy(footage.windows(middles, towers.seconds))
            seen = towers.visual(torch.stack(images)).float()
            heard = towers.audio(sounds).float()
            check_encoded(seen, heard)
            parts.append(functional.localization_map(seen, heard).cpu())
            done += len(images)
            bar.update(len(images))
    if not parts:
        raise ValueError(f"no frame of {footage.path} can be decoded")
    maps = torch.cat(parts)
    low, high = maps.min().item(), maps.max().item()
    cut = np.quantile(maps.numpy(), 1 - _OUTLINED).item()
    return HeatMaps(maps, low, max(high, low + 1e-6), cut)


def heat_video(
    towers: Towers,
    source: Path | str | Footage,
    output: Path | str,
    *,
    strip: Path | str | None = None,
    batch_size: int = 32,
) -> HeatMaps:
    """Write a video over whose frames the maps lie, with the sound that it has.

    Colours mean the same in all frames, and what is outlined is the top quarter of the values of
    all maps: where nothing of a frame matches its sound, nothing is.

    Args:
        towers: What encodes frames and sounds.
        source: The video.
        output: MP4 file, or GIF file without the sound.
        strip: PNG file with some of the frames in a row.
        batch_size: Frames that are encoded at a time.

    Returns:
        The maps.

    Raises:
        avscenes.media.footage.Unreadable: When frames or sound cannot be decoded.
        ValueError: When `output` has another ending, or the towers make no maps or no vectors.
    """
    output = Path(output)
    ending = output.suffix.lower()
    if ending not in _LONGEST:
        raise ValueError(f"output must end in .mp4 or .gif, got {output}")
    footage = source if isinstance(source, Footage) else read_footage(Path(source))
    if ending == ".gif":
        footage = footage._replace(rate=min(footage.rate, _GIF_RATE))
    heat = video_maps(towers, footage, batch_size=batch_size)
    count = len(heat.maps)
    numbers = np.unique(((np.arange(_IN_STRIP) + 0.5) / _IN_STRIP * count).astype(int))
    kept: dict[int, Image.Image] = {}

    def pictures() -> Iterator[Canvas]:
        colours = None
        frames = tqdm(footage.frames(), total=count, desc="drawing", leave=False, disable=None)
        for number, frame in enumerate(frames):
            if colours is None:
                size = _even_size(frame, _LONGEST[ending])
                colours = _colours(heat, size[1])
            if number in numbers:
                kept[number] = frame
            shown = frame.resize(size, Image.Resampling.BILINEAR)
            yield _canvas(_as_floats(shown), heat, number, colours)

    if ending == ".mp4":
        write_mp4(output, pictures(), footage.rate, footage.sound, footage.sound_rate)
    else:
        write_gif(output, pictures(), footage.rate)
    if strip is not None:
        draw_strip(Path(strip), kept, heat, float(footage.rate))
    return heat


def _as_floats(frame: Image.Image) -> Picture:
    return np.asarray(frame, np.float32) / np.float32(255)


def _even_size(frame: Image.Image, longest: int) -> tuple[int, int]:
    """Return width and height of a frame that is no longer than this, in even numbers."""
    scale = min(1.0, longest / max(frame.size))
    width, height = (max(2, round(side * scale / 2) * 2) for side in frame.size)
    return width, height


def _colours(heat: HeatMaps, height: int) -> Canvas:
    """Return what the colours mean, as a picture."""
    height = max(height, _LEAST_HIGH)
    with style.look():
        figure = Figure(figsize=(_COLOURS / 100, height / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axis = figure.add_axes((0.1, 0.09, 0.16, 0.82))
        values = ScalarMappable(Normalize(heat.low, heat.high), HEAT)
        bar = figure.colorbar(values, cax=axis)
        bar.ax.axhline(heat.cut, color=SKY, lw=2)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        bar.set_label("cosine", fontsize=7)
        canvas.draw()  # type: ignore[no-untyped-call]
    drawn: Canvas = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return drawn


def _canvas(picture: Picture, heat: HeatMaps, number: int, colours: Canvas) -> Canvas:
    """Return a frame with its map, the colours beside it and the progress below it."""
    height, width = picture.shape[:2]
    values = metrics.upsample(heat.maps[number : number + 1], (height, width))[0].numpy()
    table = mpl.colormaps[HEAT](np.linspace(0, 1, 256))[:, :3].astype(np.float32)
    places = ((values - heat.low) / (heat.high - heat.low) * 255).clip(0, 255).astype(np.uint8)
    grey = picture.mean(axis=2, keepdims=True) / _BRIGHTEST
    drawn = (1 - _ALPHA) * grey + _ALPHA * table[places]
    drawn[_outline(values > heat.cut)] = to_rgb(SKY)
    tall = max(height, len(colours))
    canvas = np.full((tall + _PROGRESS, width + _COLOURS, 3), 255, np.uint8)
    canvas[:height, :width] = (255 * drawn).round()
    canvas[: len(colours), width:] = colours
    done = round((number + 1) / len(heat.maps) * width)
    canvas[tall + 2 :, :width] = 220
    canvas[tall + 2 :, :done] = (255 * np.array(to_rgb(style.BLUE))).round()
    return canvas


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a region, two deep, that have a neighbour outside of it."""
    core: NDArray[np.bool_] = binary_erosion(inside, iterations=2, border_value=1)
    return inside & ~core


def draw_strip(path: Path, frames: dict[int, Image.Image], heat: HeatMaps, rate: float) -> None:
    """Draw frames of a video in a row with their maps and times.

    Args:
        path: PNG file.
        frames: By their numbers.
        heat: The maps of all frames.
        rate: Frames a second.
    """
    one = next(iter(frames.values()))
    height = 1.9 * min(1.6, one.height / one.width) + 0.3
    with (
        whole_file(path) as partial,
        style.figure(partial, 1.9 * len(frames) + 0.8, height) as figure,
    ):
        axes = list(figure.subplots(1, len(frames), squeeze=False)[0])
        for axis, (number, frame) in zip(axes, frames.items(), strict=True):
            picture = _as_floats(frame)
            limits = heat.low, heat.high
            values = metrics.upsample(heat.maps[number : number + 1], 224)[0]
            show_map(axis, picture, values, heat.cut, limits)
            axis.set_title(f"{number / rate:.1f} s", fontsize=8, fontweight="normal")
            bare(axis)
        shown = ScalarMappable(Normalize(heat.low, heat.high), HEAT)
        bar = figure.colorbar(shown, ax=axes, pad=0.01, aspect=12)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        bar.set_label("cosine", fontsize=7)
