import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import prepare as script
import pytest
import soundfile
from PIL import Image
from script_runs import fault_of, read_rows
from video_files import write_video

from avscenes.files.whole_files import write_whole
from avscenes.sets import preparation
from avscenes.sets.clips import check_files, clips_in
from avscenes.sets.preparation import find_videos, make_clip, plan, prepare


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", seconds=10.5, fps=4)


@pytest.fixture
def videos(tmp_path, video):
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for name in ("-a_000030.mp4", "b.MP4", "more/c.mp4"):
        shutil.copy(video, folder / name)
    return folder


def made(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


WHOLE = [
    *("audio/-a_000030.wav", "audio/b.wav", "audio/c.wav", "clips.txt"),
    *("frames/-a_000030.jpg", "frames/b.jpg", "frames/c.jpg"),
]


def test_clips_are_made_in_the_layout_that_training_reads(tmp_path, videos, capsys):
    out = tmp_path / "out"
    assert script.main([str(videos), str(out), "--workers", "2"]) == 0
    assert made(out) == WHOLE
    info = soundfile.info(out / "audio" / "c.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (
        *(16_000, 1, 160_000),
        "PCM_16",
    )
    with Image.open(out / "frames" / "c.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 32))
        assert np.asarray(image)[:, 40:].mean() == pytest.approx(125, abs=8)
    assert check_files("train", clips_in(out, ["-a_000030", "b", "c"]), workers=1) == []
    printed = capsys.readouterr()
    assert printed.out == (
        "3 videos prepared, 0 done before, 0 failed\n"
        f"3 clips to train on are in {out / 'clips.txt'}\n"
    )
    assert (out / "clips.txt").read_text() == "-a_000030\nb\nc\n"
    assert "3/3" in printed.err


def test_what_is_done_is_not_done_again(tmp_path, videos, capsys):
    out = tmp_path / "out"
    prepare(videos, out, 1)
    times = {name: (out / name).stat().st_mtime_ns for name in WHOLE}
    (out / "audio" / "b.wav").unlink()
    assert script.main([str(videos), str(out), "--workers", "1"]) == 0
    assert made(out) == WHOLE
    again = {name for name in WHOLE if (out / name).stat().st_mtime_ns != times[name]}
    assert again == {"audio/b.wav", "clips.txt"}
    assert "1 videos prepared, 2 done before, 0 failed\n" in capsys.readouterr().out


def test_failures_are_named_with_their_reasons(tmp_path, videos, video, capsys):
    (videos / "cut.mp4").write_bytes(video.read_bytes()[:20_000])
    (videos / "empty.mkv").write_bytes(b"")
    (videos / "text.webm").write_text("no video")
    write_video(videos / "mute.avi", acodec="")
    shutil.copy(video, videos / "more" / "b.mp4")
    (videos / "notes.txt").write_text("not looked at")
    out = tmp_path / "out"
    assert script.main([str(videos), str(out), "--workers", "2"]) == 1
    whole = [name for name in WHOLE if "b." not in name]
    assert made(out) == [*whole[:3], "failed.csv", *whole[3:]]
    assert (out / "clips.txt").read_text() == "-a_000030\nc\n"
    reasons = {row["video"]: row["reason"] for row in read_rows(out / "failed.csv")}
    assert {Path(name).relative_to(videos).as_posix() for name in reasons} == {
        *("b.MP4", "more/b.mp4", "cut.mp4", "empty.mkv", "text.webm", "mute.avi"),
    }
    assert reasons[str(videos / "mute.avi")] == "no audio stream"
    assert reasons[str(videos / "b.MP4")] == f"has the same id as {videos / 'more' / 'b.mp4'}"
    assert reasons[str(videos / "text.webm")] == "Invalid data found when processing input"
    printed = capsys.readouterr().out
    assert printed.startswith("2 videos prepared, 0 done before, 6 failed\n")
    assert all(f"  {name}: {reason}\n" in printed for name, reason in reasons.items())
    assert f"all failures: {out / 'failed.csv'}\n" in printed


def silent_video(path):
    content = write_video(path, acodec="pcm_s16le", rate=16_000, layout="mono").read_bytes()
    with av.open(str(path)) as container:
        packets = [(one.pos, one.size) for one in container.demux(audio=0) if one.size]
    silent = bytearray(content)
    for begin, size in packets:
        silent[begin : begin + size] = bytes(size)
    path.write_bytes(silent)


def test_a_silent_sound_is_made_counted_and_listed(tmp_path, videos, video, capsys):
    silent_video(videos / "silent.mov")
    out = tmp_path / "out"
    assert script.main([str(videos), str(out), "--workers", "2"]) == 0
    extra = {"audio/silent.wav", "frames/silent.jpg", "notes.csv", "notes/silent.txt"}
    assert set(made(out)) == {*WHOLE, *extra}
    note = f"{videos / 'silent.mov'},the sound is silent throughout"
    assert (out / "notes.csv").read_text() == f"video,note\n{note}\n"
    said = (
        "4 videos prepared, 0 done before, 0 failed\n"
        "1 of the clips have a note, 1 of them a silent sound\n"
        f"  {videos / 'silent.mov'}: the sound is silent throughout\n"
        f"all notes: {out / 'notes.csv'}\n"
        f"4 clips to train on are in {out / 'clips.txt'}\n"
    )
    assert capsys.readouterr().out == said
    # A later run, which makes nothing of it, says so again.
    (out / "notes.csv").unlink()
    (out / "frames" / "silent.jpg").unlink()
    assert script.main([str(videos), str(out), "--workers", "1"]) == 0
    assert capsys.readouterr().out == said.replace("4 videos prepared, 0", "1 videos prepared, 3")
    # A video that was put right has no note any more.
    (videos / "silent.mov").unlink()
    shutil.copy(video, videos / "silent.mp4")
    for name in ("audio/silent.wav", "frames/silent.jpg"):
        (out / name).unlink()
    assert prepare(videos, out, 1).notes == []
    assert not [name for name in made(out) if "notes" in name]


def test_the_list_of_failures_goes_when_they_are_put_right(tmp_path, videos, video):
    out = tmp_path / "out"
    (videos / "more" / "c.mp4").write_bytes(b"broken")
    assert len(prepare(videos, out, 1).failures) == 1
    shutil.copy(video, videos / "more" / "c.mp4")
    assert prepare(videos, out, 1).failures == []
    assert made(out) == WHOLE


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"content")
    assert made(tmp_path) == []


@pytest.mark.parametrize("listed", [True, False])
def test_a_full_disk_ends_the_run_and_the_failures_are_kept(
    tmp_path, videos, monkeypatch, capsys, listed
):
    def here(function, jobs, count, limit):
        yield from ((job, function(job)) for job in jobs)

    full = Mock(side_effect=OSError(28, "No space left on device"))
    (videos / "-0.mp4").write_bytes(b"broken")
    monkeypatch.setattr(preparation, "faults_of", here)
    monkeypatch.setattr(preparation, "write_whole", full)
    if not listed:
        monkeypatch.setattr(preparation, "write_table", full)
    out = tmp_path / "out"
    assert script.main([str(videos), str(out), "--workers", "1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[-1] == (
        f"prepare.py: error: cannot write to {out}: No space left on device; "
        "make room, and the same command goes on where it stopped"
    )
    failure = "Invalid data found when processing input"
    assert made(out) == (["failed.csv"] if listed else [])
    if listed:
        assert failure in (out / "failed.csv").read_text()
    else:
        assert f"{videos / '-0.mp4'}: {failure}" in lines


def test_an_interrupted_run_lists_what_failed(tmp_path, videos, monkeypatch):
    def interrupted(function, jobs, count, limit):
        yield jobs[0], function(jobs[0])
        raise KeyboardInterrupt

    (videos / "-0.mp4").write_bytes(b"broken")
    monkeypatch.setattr(preparation, "faults_of", interrupted)
    assert script.main([str(videos), str(tmp_path), "--workers", "1"]) == 130
    assert "-0.mp4,Invalid data" in (tmp_path / "failed.csv").read_text()


def test_what_a_killed_run_left_is_removed_even_if_the_video_fails(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    jobs, _ = plan([tmp_path / "broken.mp4"], tmp_path)
    (tmp_path / "frames" / ".broken.jpg.partial").write_bytes(b"half")
    assert make_clip(jobs[0]) == "Invalid data found when processing input"
    assert made(tmp_path) == ["broken.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_linked_folders_are_followed_and_each_real_one_is_read_once(tmp_path, videos, video):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    shutil.copy(video, elsewhere / "deep" / "d.mp4")
    (videos / "a-link").symlink_to(elsewhere)
    (videos / "again").symlink_to(elsewhere / "deep")
    (videos / "a-more").symlink_to(videos / "more")
    (videos / "more" / "loop").symlink_to(videos)
    (elsewhere / "home").symlink_to("..", target_is_directory=True)
    (tmp_path / "root").symlink_to(videos)
    # A link to a file is that file under another id, or the same one.
    (videos / "e.mp4").symlink_to(video)
    (elsewhere / "b.MP4").symlink_to(videos / "b.MP4")
    for folder in (videos, tmp_path / "root"):
        found = find_videos(folder, tmp_path / "videos" / "out")
        jobs, failures = plan(found.videos, tmp_path / "out")
        names = sorted(job.video.name for job in jobs)
        assert names == ["-a_000030.mp4", "b.MP4", "c.mp4", "d.mp4", "e.mp4"]
        assert failures == found.left == found.failures == []
        # The way without links comes first.
        assert folder / "more" / "c.mp4" in found.videos


def test_what_is_not_taken_for_a_video_is_counted(tmp_path, videos, capsys):
    (videos / ".old").mkdir()
    for name in (
        *("d.m2ts", "e.M2TS", "more/f.m2ts", "g.vob", "no-ending", "h.mp4.part", "i.mp3"),
        *(".hidden.mp4", "._b.MP4", ".DS_Store", ".old/x.mp4", "j.txt", "k.SRT", "l.info.json"),
    ):
        (videos / name).write_bytes(b"anything")
    (videos / "nowhere").symlink_to(tmp_path / "nowhere")
    out = videos / "out"
    rows = [
        *((".m2ts", 3, "d.m2ts"), (".mp3", 1, "i.mp3"), (".part", 1, "h.mp4.part")),
        *((".vob", 1, "g.vob"), ("hidden .mp4", 1, ".hidden.mp4"), ("hidden folder", 1, ".old")),
        ("no ending", 2, "no-ending"),
    ]
    # The second time what was made is there too.
    for made_before in (0, 3):
        assert script.main([str(videos), str(out), "--workers", "1"]) == 0
        assert capsys.readouterr().out == (
            f"{3 - made_before} videos prepared, {made_before} done before, 0 failed\n"
            "10 files were not taken for videos:\n"
            + "".join(f"  {what}: {files}, first {videos / first}\n" for what, files, first in rows)
            + f"all endings: {out / 'left.csv'}\n"
            + f"3 clips to train on are in {out / 'clips.txt'}\n"
        )
    lines = [f"{what},{files},{videos / first}" for what, files, first in rows]
    assert (out / "left.csv").read_text().splitlines() == ["what,files,first", *lines]


def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path, videos, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary = prepare(videos, tmp_path / "out", 1)
    assert summary.failures == [(str(videos / "more"), "Permission denied")]
    assert summary.made == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(tmp_path, video, signal_number):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for number in range(60):
        os.link(video, videos / f"{number}.mp4")
    command = [sys.executable, script.__file__, str(videos), str(out), "--workers", "1"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not list(out.glob("audio/*.wav")):
        time.sleep(0.002)
    run.send_signal(signal_number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == (130 if signal_number == signal.SIGINT else -signal_number)
    # A worker whose parent was killed finishes its video and ends.
    time.sleep(0.5)
    stopped = made(out)
    assert 0 < len(stopped) < 120
    assert not [name for name in stopped if "partial" in name]
    for name in stopped:
        if name.endswith("wav"):
            assert soundfile.info(out / name).frames == 160_000
    if signal_number == signal.SIGINT:
        assert "interrupted; the same command goes on where it stopped" in said
        assert "Traceback" not in said
    summary = prepare(videos, out, 1)
    assert summary.made + summary.there_before == 60
    assert summary.there_before >= 1
    assert len(made(out)) == 121


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_processes_that_are_still_starting_say_nothing_of_an_interruption(tmp_path, videos):
    command = [sys.executable, script.__file__, str(videos), str(tmp_path / "out")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    said = b""
    while b"preparing" not in said:
        said += os.read(run.stderr.fileno(), 1_000)
    time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert said.endswith(b"interrupted; the same command goes on where it stopped\n")
    assert b"Traceback" not in said


def test_processes_that_decode_load_no_torch():
    code = "import sys, prepare; sys.exit('torch' in sys.modules)"
    folder = Path(script.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "VIDEOS must be a folder, got nowhere"),
        (["empty", "out"], r"VIDEOS must hold video files \(.*\.mp4.*\): empty"),
        (["unknown", "out"], r"VIDEOS must .*: unknown holds 2 x \.vob \(first unknown/a\.vob\)"),
        (["videos"], "the following arguments are required: OUT"),
        (["videos", "file"], "OUT: cannot make folders in file: .*"),
        (
            ["videos", "out", "--workers", "0"],
            "--workers: must be a whole number .* at least 1, got '0'",
        ),
        (["videos", "out", "--worker", "1"], "unrecognized arguments: --worker 1"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, videos, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("unknown").mkdir()
    for name in "ab":
        Path("unknown", f"{name}.vob").touch()
    Path("file").write_text("")
    assert re.fullmatch(message, fault_of(capsys, script, *arguments))
