"""Makes frames and sounds from video files: `frames/ID.jpg` and `audio/ID.wav`.

ID is the name of the video without its ending. The frame is the one half way through the video, the
sound the 10 s around it, mono at 16 kHz. Videos that are done already are skipped, so that an
interrupted run goes on when it is started again; those that cannot be read are reported.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from avscenes.files.errors import UserError, printable, reason_of
from avscenes.files.output import no_room, writing_to
from avscenes.files.whole_files import partial_path, write_table, write_whole
from avscenes.files.workers import faults_of
from avscenes.media.videos import encode_jpeg, encode_wav, read_frame, read_sound

SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
    *(".ts", ".webm", ".wmv"),
}
# Seconds; a video takes a tenth of one, and some broken ones never end.
LIMIT = 300.0


class Job(NamedTuple):
    """A video, and where its frame and its sound belong."""

    video: Path
    frame: Path
    sound: Path


class Failure(NamedTuple):
    """A video that could not be used, and why."""

    video: str
    reason: str


class Summary(NamedTuple):
    """What a run did."""

    made: int
    there_before: int
    failures: list[Failure]


def find_videos(folder: Path) -> list[Path]:
    """Return the video files in a folder and the folders in it, hidden ones left out.

    Raises:
        UserError: When there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise UserError(f"VIDEOS must be a folder, got {folder}")
    videos = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        videos += [
            Path(place, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    if not videos:
        raise UserError(f"VIDEOS must hold video files ({' '.join(sorted(SUFFIXES))}): {folder}")
    return videos


def plan(videos: Sequence[Path], out: Path) -> tuple[list[Job], list[Failure]]:
    """Return what is to be made, and the videos whose id another one has too.

    None of those is used: which one is meant cannot be known.
    """
    by_id: dict[str, list[Path]] = defaultdict(list)
    for video in videos:
        by_id[video.stem].append(video)
    jobs, failures = [], []
    for clip, same in by_id.items():
        if len(same) == 1:
            frame, sound = out / "frames" / f"{clip}.jpg", out / "audio" / f"{clip}.wav"
            jobs.append(Job(same[0], frame, sound))
        for video in same if len(same) > 1 else []:
            others = ", ".join(printable(other) for other in same if other != video)
            failures.append(Failure(printable(video), f"has the same id as {others}"))
    return jobs, failures


def make_clip(job: Job) -> str | None:
    """Write what is missing of a frame and a sound; return why that is not possible, or None."""
    for path in (job.frame, job.sound):
        partial_path(path).unlink(missing_ok=True)  # of a run that was killed
    try:
        # Both are decoded before either is written: a frame without a sound is of no use.
        frame = None if job.frame.exists() else encode_jpeg(read_frame(job.video))
        sound = None if job.sound.exists() else encode_wav(read_sound(job.video))
        if frame is not None:
            write_whole(job.frame, frame)
        if sound is not None:
            write_whole(job.sound, sound)
    # Decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        if no_room(error):
            raise
        return reason_of(error)
    return None


def prepare(videos: Path, out: Path, workers: int, limit: float = LIMIT) -> Summary:
    """Make the frames and sounds that are missing, and `failed.csv` when there are failures.

    Args:
        videos: Folder of video files.
        out: Where `frames` and `audio` are made.
        workers: Number of processes.
        limit: Seconds after which a video is given up.

    Raises:
        UserError: When `videos` holds none, or nothing can be written to `out`, be it at the start
            or later on.
    """
    found = find_videos(videos)
    jobs, failures = plan(found, out)
    try:
        for folder in ("frames", "audio"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT: cannot make folders in {out}: {reason_of(error)}") from error
    missing = [job for job in jobs if not (job.frame.exists() and job.sound.exists())]
    done = len(jobs) - len(missing)
    made = 0
    with writing_to(out, "; make room, and the same command goes on where it stopped"):
        try:
            with (
                closing(faults_of(make_clip, missing, workers, limit)) as results,
                tqdm(total=len(jobs), initial=done, desc="preparing", unit="video") as bar,
            ):
                for job, fault in results:
                    bar.update()
                    if fault is None:
                        made += 1
                        continue
                    failures.append(Failure(printable(job.video), fault))
                    bar.set_postfix(failed=len(failures), refresh=False)
        finally:
            failures.sort()
            _write_failures(out / "failed.csv", failures)
    return Summary(made, done, failures)


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write the list, or remove the one of an earlier run when nothing has failed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    try:
        write_table(path, list(Failure._fields), [failure._asdict() for failure in failures])
    except OSError:
        for failure in failures:
            tqdm.write(f"{failure.video}: {failure.reason}", file=sys.stderr)
        raise
