"""Writes moving pictures: MP4 with sound, or GIF without; as a whole file or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avscenes.files.whole_files import whole_file

Canvas = NDArray[np.uint8]  # [height, width, 3]


def write_mp4(
    path: Path,
    pictures: Iterable[Canvas],
    rate: Fraction,
    sound: NDArray[np.int16],
    sound_rate: int,
) -> None:
    """Write pictures of one size, even both ways, with a sound [n, channels]."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    layout = "mono" if sound.shape[1] == 1 else "stereo"
    with (
        whole_file(path) as partial,
        av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        video: av.VideoStream = container.add_stream(codec, rate=rate)  # type: ignore[assignment]
        audio = container.add_stream("aac", rate=sound_rate, layout=layout)
        if codec == "libx264":
            video.options = {"crf": "20", "preset": "veryfast"}
        else:
            video.bit_rate = 4_000_000
        written = 0
        for number, picture in enumerate(pictures):
            if not number:
                video.height, video.width = picture.shape[:2]
                video.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = number
            frame.time_base = 1 / rate
            container.mux(video.encode(frame))
            # The sound of the same time lies beside it in the file.
            end = round((number + 1) * sound_rate / rate)
            piece = sound[written:end]
            if len(piece):
                samples = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(piece).reshape(1, -1), format="s16", layout=layout
                )
                samples.sample_rate, samples.pts = sound_rate, written
                container.mux(audio.encode(samples))
                written += len(piece)
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def write_gif(path: Path, pictures: Iterable[Canvas], rate: Fraction) -> None:
    """Write pictures of one size, again and again from the start."""
    frames = (Image.fromarray(picture) for picture in pictures)
    first = next(frames)
    # The file counts in hundredths of a second, and players show what is shorter than two slowly.
    duration = max(20, 10 * round(100 / rate))
    with whole_file(path) as partial:
        first.save(
            partial,
            "GIF",
            save_all=True,
            append_images=frames,
            duration=duration,
            loop=0,
        )
