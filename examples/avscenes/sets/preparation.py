"""Makes frames and sounds from video files: `frames/ID.jpg` and `audio/ID.wav`.

ID is the name of the video without its ending. The frame is the one half way through the video, the
sound the 10 s around it, mono at 16 kHz. Videos that are done already are skipped, so that an
interrupted run goes on when it is started again; those that cannot be read are reported. What is
odd about a clip that was made, such as a silent sound, is in `notes/ID.txt`.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from avscenes.files.errors import UserError, printable, reason_of
from avscenes.files.output import no_room, writing_to
from avscenes.files.whole_files import partial_path, write_table, write_whole
from avscenes.files.workers import faults_of
from avscenes.media.videos import encode_jpeg, encode_wav, is_silent, read_frame, read_sound

SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
    *(".ts", ".webm", ".wmv"),
}
# Texts, tables, subtitles and web pages hold no video; they are passed over without a word.
TEXTS = {
    *(".ass", ".csv", ".description", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md"),
    *(".md5", ".nfo", ".pdf", ".py", ".rst", ".sh", ".srt", ".toml", ".tsv", ".txt", ".url"),
    *(".vtt", ".xml", ".yaml", ".yml"),
}
# Seconds; a video takes a tenth of one, and some broken ones never end.
LIMIT = 300.0
SILENT = "the sound is silent throughout"


class Job(NamedTuple):
    """A video, and where its frame, its sound and the notes on them belong."""

    video: Path
    frame: Path
    sound: Path
    notes: Path


class Failure(NamedTuple):
    """A video that could not be used, and why."""

    video: str
    reason: str


class Note(NamedTuple):
    """A video whose clip is there, and what is odd about it."""

    video: str
    note: str


class Left(NamedTuple):
    """Files that were not taken for videos: what they have in common, and the first of them."""

    what: str  # their ending, or that they are hidden
    files: int
    first: str


class Found(NamedTuple):
    """What a folder holds."""

    videos: list[Path]
    left: list[Left]
    failures: list[Failure]  # folders that cannot be read


class Summary(NamedTuple):
    """What a run did."""

    made: int
    there_before: int
    failures: list[Failure]
    notes: list[Note]  # on all clips that are there
    left: list[Left]
    listed: int  # clips that are there


def _real_folders(folder: Path, failures: list[Failure]) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder under one with the names of the files in it, links to folders followed.

    A folder that can be reached in several ways comes once, by a way without links if there is one.
    Hidden folders come with a name that ends in a slash, among the files of the one they are in.
    """

    def fail(error: OSError) -> None:
        failures.append(Failure(printable(Path(error.filename)), reason_of(error)))

    seen: set[str] = set()
    linked = [str(folder)]
    while linked:
        for place, folders, names in os.walk(linked.pop(0), onerror=fail):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            hidden = [f"{name}/" for name in folders if name.startswith(".")]
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            ways = (os.path.join(place, name) for name in folders)
            linked += [way for way in ways if os.path.islink(way)]
            yield place, sorted(names + hidden)


def _what(name: str) -> str | None:
    """Return how a file that is no video is counted, or None when nobody would take it for one."""
    suffix = Path(name).suffix.lower()
    if not name.startswith("."):
        return None if suffix in TEXTS else suffix or "no ending"
    if name.endswith("/"):
        return "hidden folder"
    # Some systems put a hidden file beside each file, with what else they know of it.
    return f"hidden {suffix}" if suffix in SUFFIXES and not name.startswith("._") else None


def find_videos(folder: Path, out: Path) -> Found:
    """Return the video files in a folder and the folders in it, hidden ones left out.

    Args:
        folder: Where to look.
        out: Where frames and sounds are made; those are not counted among the other files.

    Raises:
        UserError: When there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise UserError(f"VIDEOS must be a folder, got {folder}")
    made = [os.path.realpath(out / name) for name in ("frames", "audio")]
    videos: list[Path] = []
    others: dict[str, list[Path]] = defaultdict(list)
    failures: list[Failure] = []
    for place, names in _real_folders(folder, failures):
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                videos.append(Path(place, name))
            elif (what := _what(name)) and os.path.realpath(place) not in made:
                others[what].append(Path(place, name))
    left = [Left(what, len(same), printable(same[0])) for what, same in sorted(others.items())]
    if not videos:
        there = [f"{one.files} x {one.what} (first {one.first})" for one in left]
        there += [f"{place} cannot be read: {reason}" for place, reason in failures]
        raise UserError(
            f"VIDEOS must hold video files ({' '.join(sorted(SUFFIXES))}): {folder}"
            + (f" holds {', '.join(there)}" if there else "")
        )
    return Found(videos, left, failures)


def plan(videos: Sequence[Path], out: Path) -> tuple[list[Job], list[Failure]]:
    """Return what is to be made, and the videos whose id another one has too.

    None of those is used: which one is meant cannot be known. A file and a link to it are one.
    """
    by_id: dict[str, list[Path]] = defaultdict(list)
    for video in videos:
        if not any(_same_file(video, other) for other in by_id[video.stem]):
            by_id[video.stem].append(video)
    jobs, failures = [], []
    for clip, same in by_id.items():
        if len(same) == 1:
            frame, sound = out / "frames" / f"{clip}.jpg", out / "audio" / f"{clip}.wav"
            jobs.append(Job(same[0], frame, sound, out / "notes" / f"{clip}.txt"))
        for video in same if len(same) > 1 else []:
            others = ", ".join(printable(other) for other in same if other != video)
            failures.append(Failure(printable(video), f"has the same id as {others}"))
    return jobs, failures


def _same_file(video: Path, other: Path) -> bool:
    try:
        return video.samefile(other)
    except OSError:  # a link that leads nowhere
        return False


def make_clip(job: Job) -> str | None:
    """Write what is missing of a frame and a sound; return why that is not possible, or None."""
    for path in (job.frame, job.sound, job.notes):
        partial_path(path).unlink(missing_ok=True)  # of a run that was killed
    try:
        # What was noted of the half that is there stays true.
        half = job.frame.exists() or job.sound.exists()
        notes = job.notes.read_text("utf-8").splitlines() if half and job.notes.exists() else []
        # Both are decoded before either is written: a frame without a sound is of no use.
        frame = None if job.frame.exists() else encode_jpeg(read_frame(job.video, notes))
        sound = None
        if not job.sound.exists():
            samples = read_sound(job.video, notes)
            notes += [SILENT] if is_silent(samples) else []
            sound = encode_wav(samples)
        # Written first: no run that is stopped leaves a clip without its notes.
        if notes:
            write_whole(job.notes, "".join(f"{note}\n" for note in dict.fromkeys(notes)).encode())
        else:
            job.notes.unlink(missing_ok=True)
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
    """Make the frames and sounds that are missing.

    `clips.txt` lists all clips that are there, also those of other folders of videos. `failed.csv`
    lists the videos that failed, `notes.csv` what is odd about clips that were made,
    `left.csv` what was not taken for a video; none is there when it would be empty.

    Args:
        videos: Folder of video files.
        out: Where `frames` and `audio` are made.
        workers: Number of processes.
        limit: Seconds after which a video is given up.

    Raises:
        UserError: When `videos` holds none, or nothing can be written to `out`, be it at the start
            or later on.
    """
    found = find_videos(videos, out)
    jobs, failures = plan(found.videos, out)
    failures += found.failures
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
            _keep_failures(out / "failed.csv", failures)
        notes = _notes_on(jobs, out)
        _write_list(out / "notes.csv", notes)
        _write_list(out / "left.csv", found.left)
        clips = _clips_in(out)
        if clips:
            write_whole(out / "clips.txt", "".join(f"{clip}\n" for clip in clips).encode())
    return Summary(made, done, failures, notes, found.left, len(clips))


def _clips_in(out: Path) -> list[str]:
    """Return the ids of all clips that are there, of this run and of earlier ones."""
    sounds = {path.stem for path in (out / "audio").glob("*.wav")}
    return sorted(path.stem for path in (out / "frames").glob("*.jpg") if path.stem in sounds)


def _notes_on(jobs: Sequence[Job], out: Path) -> list[Note]:
    """Return the notes on all clips that are there, of this run and of earlier ones."""
    noted = {path.name for path in (out / "notes").glob("*.txt")}
    return sorted(
        Note(printable(job.video), note)
        for job in jobs
        if job.notes.name in noted and job.frame.exists() and job.sound.exists()
        for note in job.notes.read_text("utf-8").splitlines()
    )


def _keep_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write the list of failures; where that is not possible, print it."""
    try:
        _write_list(path, failures)
    except OSError:
        for failure in failures:
            tqdm.write(f"{failure.video}: {failure.reason}", file=sys.stderr)
        raise


def _write_list(path: Path, rows: Sequence[Failure | Note | Left]) -> None:
    """Write a list, or remove the one of an earlier run when there is nothing in it."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_table(path, list(rows[0]._fields), [row._asdict() for row in rows])
