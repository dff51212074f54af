"""How many samples a second each stage of the input pipeline makes.

    PYTHONPATH=examples python benchmarks/data_benchmark.py            about two minutes
    PYTHONPATH=examples python benchmarks/data_benchmark.py --quick    a few files, seconds

The files are made first: JPEGs of 1280 x 720, sounds of 10 s, a video. They are in the page cache
when they are read, so a slow disk is not seen. The stages take turns, in a new order each round, on
one thread. Times are medians a sample, on the process clock and, as loaders with workers run in
processes of their own, on the wall clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import PIL
import scipy
import soundfile
import torch
from measuring import ROOT, aligned, environment, positive, shown, write
from PIL import Image
from torch.utils.data import default_collate

from avscenes.media.audio import SAMPLE_RATE, load_wave
from avscenes.media.images import SHORT_SIDE, augmented_frame, load_frame, plain_frame
from avscenes.media.specaugment import spec_augment
from avscenes.media.spectrogram import published_spectrogram
from avscenes.sets.clips import ClipPairs, clips_in
from avscenes.sets.loaders import train_loader
from avscenes.sets.preparation import Job, make_clip

FRAME = (1280, 720)
SECONDS = 10
VIDEO_RATE = 25
WORKERS = (0, 1, 2)

OF_A_SAMPLE = ("decode image", "resize and crop", "decode sound", "spectrogram", "masks", "collate")
"""The stages that make a training sample."""


class Stage(NamedTuple):
    """Work that is timed, and for how many samples it is done."""

    work: Callable[[], object]
    samples: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results: what one stage takes."""

    date: str
    device: str
    device_name: str
    threads: int
    python: str
    torch: str
    avcontrast: str
    pillow: str
    scipy: str
    soundfile: str
    av: str
    load: float
    stage: str
    samples: int
    rounds: int
    process_ms: float
    wall_ms: float
    samples_per_s: float


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """Return an image with coarse and fine structure, of which JPEGs are as large as of a scene."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0], 3))
    for cells, strength in ((8, 0.5), (32, 0.3), (128, 0.15), (size[1], 0.05)):
        noise = generator.integers(256, size=(cells, cells * 16 // 9, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        pixels += strength * np.asarray(layer, dtype=float)
    return Image.fromarray(pixels.astype(np.uint8))


def write_files(folder: Path, count: int, seconds: int) -> None:
    """Write frames and sounds of so many clips, the latter in three kinds, and a video."""
    for kind in ("frames", "audio", "flac", "stereo", "videos"):
        (folder / kind).mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        picture = photograph(FRAME, number)
        picture.save(folder / "frames" / f"clip{number}.jpg", quality=95)
        for kind, suffix, rate, channels in (
            ("audio", "wav", SAMPLE_RATE, 1),
            ("flac", "flac", SAMPLE_RATE, 1),
            ("stereo", "wav", 44_100, 2),
        ):
            hum = 0.3 * np.sin(np.arange(seconds * rate) * 2_000 / rate)[:, None]
            noise = generator.normal(0, 0.05, (seconds * rate, channels))
            soundfile.write(folder / kind / f"clip{number}.{suffix}", hum + noise, rate)
    _write_video(folder / "videos" / "clip.mp4", picture, seconds)


def _write_video(path: Path, picture: Image.Image, seconds: int) -> None:
    """Encode a picture that moves, with a tone."""
    rate = 44_100
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=VIDEO_RATE)
        audio: Any = container.add_stream("aac", rate=rate, layout="mono")
        (video.width, video.height), video.pix_fmt = picture.size, "yuv420p"
        pixels = np.asarray(picture)
        tone = 0.3 * np.sin(np.arange(seconds * rate) * 2_000 / rate).astype(np.float32)[None]
        for number in range(seconds * VIDEO_RATE):
            moved = np.ascontiguousarray(np.roll(pixels, 4 * number, axis=1))
            frame = av.VideoFrame.from_ndarray(moved, "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
            part = slice(number * rate // VIDEO_RATE, (number + 1) * rate // VIDEO_RATE)
            piece = np.ascontiguousarray(tone[:, part])
            sound = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = rate, part.start
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def stages(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Stage]:
    """Return what is timed."""
    names = [f"clip{number}" for number in range(count)]
    clips = clips_in(folder, names)
    images = [load_frame(clip.frame, SHORT_SIDE) for clip in clips]
    wholes = [load_frame(clip.frame) for clip in clips]
    waves = [load_wave(clip.sound) for clip in clips]
    spectra = [published_spectrogram(wave, SAMPLE_RATE).float()[None] for wave in waves]
    generator = torch.Generator().manual_seed(0)
    pairs = ClipPairs(clips, seed=0)
    samples = [pairs[0, number] for number in range(count)]

    def each(work: Callable[[Any], object], inputs: Sequence[object]) -> Stage:
        return Stage(lambda: [work(one) for one in inputs], count)

    longer = ClipPairs(clips * (options.epoch // count), seed=0)

    def epoch(workers: int) -> None:
        for _ in train_loader(longer, len(longer), options.batch, seed=0, workers=workers):
            pass

    job = Job(
        folder / "videos" / "clip.mp4", folder / "out.jpg", folder / "out.wav", folder / "out.txt"
    )

    def prepare() -> None:
        for path in (job.frame, job.sound):
            path.unlink(missing_ok=True)
        if fault := make_clip(job):
            raise RuntimeError(fault)

    table = {
        "decode image": each(partial(load_frame, least=SHORT_SIDE), [one.frame for one in clips]),
        "decode image, whole": each(load_frame, [one.frame for one in clips]),
        "resize and crop": each(lambda image: augmented_frame(image, generator), images),
        "squeeze, for a test": each(plain_frame, wholes),
        "decode sound": each(load_wave, [one.sound for one in clips]),
        "decode sound, FLAC": each(load_wave, [folder / "flac" / f"{n}.flac" for n in names]),
        "decode sound, 44.1 kHz": each(load_wave, [folder / "stereo" / f"{n}.wav" for n in names]),
        "spectrogram": each(lambda wave: published_spectrogram(wave, SAMPLE_RATE), waves),
        "masks": each(lambda spectrum: spec_augment(spectrum, generator), spectra),
        "collate": Stage(lambda: default_collate(samples), count),
        "training sample": each(lambda number: pairs[0, number], range(count)),
        "test sample": each(lambda number: pairs[number], range(count)),
    }
    for workers in options.workers:
        name = f"loader, {workers} worker{'' if workers == 1 else 's'}"
        table[name] = Stage(partial(epoch, workers), len(longer) // options.batch * options.batch)
    table["prepare a video"] = Stage(prepare, 1)
    return table


def measure(options: argparse.Namespace) -> list[Row]:
    """Return what each stage takes: rounds in turns, medians a sample."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), options.files, options.seconds)
        table = stages(Path(name), options.files, options)
        laps: dict[str, list[tuple[float, float]]] = {stage: [] for stage in table}
        order = random.Random(0)
        for warm_up in (True, *[False] * options.repeats):
            for stage in order.sample(list(table), len(table)):
                wall, process = time.perf_counter(), time.process_time()
                table[stage].work()
                lap = time.process_time() - process, time.perf_counter() - wall
                if not warm_up:
                    laps[stage].append(lap)
    rows = []
    for stage, (_, samples) in table.items():
        process_ms, wall_ms = 1e3 * np.median(laps[stage], axis=0) / samples
        rows.append(
            Row(
                **environment("cpu", 1),  # type: ignore[arg-type]
                pillow=PIL.__version__,
                scipy=scipy.__version__,
                soundfile=soundfile.__version__,
                av=av.__version__,
                load=round(load, 2),
                stage=stage,
                samples=samples,
                rounds=options.repeats,
                process_ms=round(float(process_ms), 4),
                wall_ms=round(float(wall_ms), 4),
                samples_per_s=round(1e3 / float(wall_ms), 1),
            )
        )
    return rows


def report(rows: Sequence[Row]) -> str:
    """Return the results as aligned text, and what takes most of a training sample."""
    taken = {row.stage: row.process_ms for row in rows if row.stage in OF_A_SAMPLE}
    whole = sum(taken.values())
    lines = [["stage", "", "process ms", "wall ms", "samples/s"]]
    for row in rows:
        share = f"{row.process_ms / whole:.0%}" if row.stage in taken else ""
        times = f"{row.process_ms:.3f}", f"{row.wall_ms:.3f}", f"{row.samples_per_s:.0f}"
        lines.append([row.stage, share, *times])
    slowest = max(taken, key=lambda stage: taken[stage])
    loaders = [row for row in rows if row.stage.startswith("loader")]
    best = max(loaders, key=lambda row: row.samples_per_s)
    first = rows[0]
    return (
        f"a sample, medians of {first.rounds} rounds, load {first.load:g}; %: of a training "
        f"sample\n{aligned(lines)}\n\n"
        f"bottleneck: {slowest}, {taken[slowest] / whole:.0%} of the {whole:.2f} ms that a core "
        f"needs for a training sample\n"
        f"fastest: {best.stage}, {best.samples_per_s:.0f} samples/s; a batch of 256 every "
        f"{256 / best.samples_per_s:.2f} s"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=positive, metavar="N", help="clips (default 32)")
    parser.add_argument("--repeats", type=positive, metavar="N", help="rounds (default 7)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=list(WORKERS), metavar="W", help="of loaders"
    )
    parser.add_argument("--batch", type=positive, default=32, metavar="B", help="of the loaders")
    parser.add_argument("--quick", action="store_true", help="few files, one round")
    parser.add_argument(
        "--output", type=Path, metavar="CSV", help="default benchmarks/results/data_cpu.csv"
    )
    options = parser.parse_args(arguments)
    if min(options.workers) < 0:
        parser.error(f"--workers: must be at least 0, got {min(options.workers)}")
    options.files = options.files or (4 if options.quick else 32)
    options.repeats = options.repeats or (1 if options.quick else 7)
    options.seconds = 1 if options.quick else SECONDS
    if options.quick:
        options.batch = min(options.batch, options.files)
    # Long enough that starting the workers does not count.
    options.epoch = options.files * (1 if options.quick else max(1, 512 // options.files))
    if options.batch > options.epoch:
        parser.error(f"--batch: must be at most {options.epoch} for {options.files} files")
    if options.output is None:
        name = "data_quick.csv" if options.quick else "data_cpu.csv"
        options.output = ROOT / "benchmarks" / "results" / name
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse(arguments)
    rows = measure(options)
    print(report(rows))
    write(rows, options.output)
    print(f"\nwrote {shown(options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
