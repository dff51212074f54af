"""Videos that hold other things than one stream of pictures and one of sound of the same length."""

from fractions import Fraction

import av
import numpy as np
import pytest
from small_sets import truncate
from video_files import write_video

from avscenes.media.streams import in_words
from avscenes.media.videos import SAMPLE_RATE, is_silent, read_frame, read_sound

RATE = 16_000


def write(path, streams, *, vcodec="mpeg4", acodec="aac"):
    """Write streams (kind, start, end, level), and whether each is the default one.

    Pictures get brighter from 0 to 250 from their start to their end; sound is a tone whose level
    grows from 0 to 1 likewise.
    """
    with av.open(str(path), "w") as container:
        packets, opened = [], []
        for kind, *_ in streams:
            if kind == "subtitle":
                name = "mov_text" if path.suffix == ".mp4" else "subrip"
                opened.append(container.add_mux_stream(name, time_base=Fraction(1, 1_000)))
            elif kind == "video":
                video = container.add_stream(vcodec, rate=10)
                video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
                opened.append(video)
            else:
                opened.append(container.add_stream(acodec, rate=RATE, layout="mono"))
        for stream, (kind, start, end, default) in zip(opened, streams, strict=True):
            stream.disposition = av.stream.Disposition(int(default))
            if kind == "subtitle":
                text = b"\0\2hi" if path.suffix == ".mp4" else b"hi"
                packet = av.Packet(text)
                packet.stream, packet.time_base = stream, Fraction(1, 1_000)
                packet.pts = packet.dts = round(1_000 * start)
                packet.duration = round(1_000 * (end - start))
                packets.append(packet)
                continue
            frames = {"video": video_frames, "audio": sound_frames}[kind](start, end)
            for frame in [*frames, None]:
                packets += stream.encode(frame)
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            container.mux(packet)
    return path


def video_frames(start, end, fps=10):
    count = round((end - start) * fps)
    for number in range(count):
        level = np.full((32, 64, 3), round(250 * number / count), np.uint8)
        frame = av.VideoFrame.from_ndarray(level, "rgb24")
        frame.pts, frame.time_base = round(start * fps) + number, Fraction(1, fps)
        yield frame


def sound_frames(start, end, rate=RATE, layout="mono", hertz=1_000):
    time = np.arange(round((end - start) * rate)) / rate
    wave = (time / (end - start) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    for first in range(0, len(wave), 1_024):
        piece = np.tile(wave[first : first + 1_024], (channels, 1))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "fltp", layout)
        frame.sample_rate, frame.pts = rate, round(start * rate) + first
        frame.time_base = Fraction(1, rate)
        yield frame


def brightness(path, notes=None):
    return np.asarray(read_frame(path, notes)).mean()


def level(samples, begin, end):
    return np.abs(samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]).max() / 2**15


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("last", [8, 60])
def test_the_middle_is_that_of_the_pictures_not_of_subtitles(tmp_path, suffix, last):
    plain = [("video", 0, 4, True), ("audio", 0, 4, True)]
    more = [*plain, ("subtitle", last - 1, last, False)]
    with_titles = write(tmp_path / f"titles.{suffix}", more)
    without = write(tmp_path / f"plain.{suffix}", plain)
    assert read_frame(with_titles).tobytes() == read_frame(without).tobytes()
    sound, right = read_sound(with_titles), read_sound(without)
    # The window of the one without may follow the padding of its sound.
    assert len(sound) == pytest.approx(len(right), abs=0.1 * SAMPLE_RATE)
    assert brightness(with_titles) == pytest.approx(125, abs=8)


CODECS = {
    **dict.fromkeys(("mp4", "mkv", "avi", "mov"), ("mpeg4", "aac")),
    **dict.fromkeys(("ts", "mpg"), ("mpeg2video", "mp2")),
    "webm": ("libvpx", "libopus"),
    "wmv": ("msmpeg4", "libmp3lame"),
}


@pytest.mark.parametrize(
    ("suffix", "first", "part", "loud", "tolerance"),
    [
        *[(suffix, 0, (6.5, 7), 7 / 12, 0.06) for suffix in CODECS],
        *[(suffix, 8, (0, 0.2), 5 / 12, 0.05) for suffix in ("mp4", "mkv", "ts")],
    ],
)
def test_sound_that_is_longer_does_not_move_the_middle(
    tmp_path, suffix, first, part, loud, tolerance
):
    vcodec, acodec = CODECS[suffix]
    streams = [("video", first, first + 4, True), ("audio", 0, 12, True)]
    path = write(tmp_path / f"long.{suffix}", streams, vcodec=vcodec, acodec=acodec)
    assert brightness(path) == pytest.approx(125, abs=9)
    sound = read_sound(path)
    # Five seconds at either side of second 2 or 10, of which the sound has 0 to 7 or 5 to 12.
    assert len(sound) == pytest.approx(7 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
    assert level(sound, *part) == pytest.approx(loud, abs=tolerance)


def test_a_file_cut_short_does_not_get_another_middle(tmp_path):
    streams = [("video", 0, 4, True), ("audio", 0, 4, True), ("subtitle", 5, 6, False)]
    path = truncate(write(tmp_path / "cut.mkv", streams), 0.3)
    with pytest.raises(ValueError, match=r"the video stops at .* before its middle at [23]\.\d s"):
        read_frame(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_stream_is_taken(tmp_path, suffix):
    streams = [
        *[("video", 0, 4, False), ("video", 2, 4, True)],
        *[("audio", 2, 4, False), ("audio", 0, 4, True)],
    ]
    path = write(tmp_path / f"two.{suffix}", streams)
    notes = []
    # Half way through the second video, which is shown from second 2 to 4.
    assert brightness(path, notes) == pytest.approx(125, abs=13)
    assert len(read_sound(path, notes)) == pytest.approx(4 * SAMPLE_RATE, abs=2_500)
    assert notes == []


def test_the_first_stream_is_taken_where_none_is_the_default(tmp_path):
    streams = [("video", 0, 4, False), ("audio", 0, 4, False), ("audio", 2, 3, False)]
    path = write(tmp_path / "two.mkv", streams)
    assert len(read_sound(path)) == pytest.approx(4 * SAMPLE_RATE, abs=2_500)


def test_another_stream_than_the_default_one_is_noted(tmp_path):
    streams = [("video", 0, 4, True), ("audio", 0, 4, False), ("audio", 0, 4, True)]
    path = write(tmp_path / "two.mkv", streams, acodec="flac")
    content = path.read_bytes()
    second = content.index(b"A_FLAC", content.index(b"A_FLAC") + 1)
    path.write_bytes(content[:second] + b"A_FLUC" + content[second + 6 :])
    notes = []
    assert len(read_sound(path, notes)) == pytest.approx(4 * SAMPLE_RATE, abs=2_500)
    assert notes == [
        "audio of stream 1, since of stream 2 it is: an unknown audio codec, not supported by "
        "this build of FFmpeg"
    ]


@pytest.mark.parametrize(("suffix", "acodec"), [("mpg", "mp2"), ("mpg", "ac3"), ("ts", "mp2")])
def test_a_stream_that_cannot_be_entered_is_heard_from_its_start(tmp_path, suffix, acodec):
    path = tmp_path / f"stream.{suffix}"
    write_video(path, seconds=24, fps=25, rate=48_000, vcodec="mpeg2video", acodec=acodec)
    notes = []
    sound = read_sound(path, notes)
    assert (len(sound), notes) == (10 * SAMPLE_RATE, [])
    assert np.argmax(np.abs(sound) > 8_000) == pytest.approx(5 * SAMPLE_RATE, abs=1_000)


def test_a_packet_that_is_lost_keeps_the_rest_in_its_place(tmp_path):
    path = write(tmp_path / "one.mp4", [("video", 0, 4, True), ("audio", 0, 4, True)])
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams[1])]
    whole, content = read_sound(path), bytearray(path.read_bytes())
    begin, size = packets[20]
    content[begin : begin + size] = b"\xff" * size
    path.write_bytes(content)
    notes = []
    sound = read_sound(path, notes)
    assert len(sound) == pytest.approx(len(whole), abs=16)
    assert np.array_equal(sound[-SAMPLE_RATE:], whole[-SAMPLE_RATE:])
    assert len(notes) == 1
    assert notes[0].endswith("s of the sound are lost, and silent")


@pytest.mark.parametrize(
    ("rate", "layout"), [(48_000, "stereo"), (16_000, "5.1"), (32_000, "mono")]
)
def test_sound_may_change_its_format(tmp_path, rate, layout):
    content = b""
    for part, (start, *form) in enumerate([(0, 16_000, "mono"), (3, rate, layout)]):
        path = tmp_path / f"{part}.ts"
        with av.open(str(path), "w", options={"output_ts_offset": str(start)}) as container:
            video = container.add_stream("mpeg2video", rate=25)
            video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
            audio = container.add_stream("aac", rate=form[0], layout=form[1])
            for frame in [*video_frames(0, 3, 25), None]:
                container.mux(video.encode(frame))
            for frame in [*sound_frames(0, 3, *form), None]:
                container.mux(audio.encode(frame))
        content += path.read_bytes()
    (tmp_path / "both.ts").write_bytes(content)
    sound = read_sound(tmp_path / "both.ts")
    assert len(sound) == pytest.approx(6 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)
    assert level(sound, 1, 2) > 0.4
    second = sound[round(4.5 * SAMPLE_RATE) :][:SAMPLE_RATE]
    assert np.abs(np.fft.rfft(second)).argmax() == pytest.approx(1_000, abs=2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("pixel", [Fraction(64, 45), Fraction(1, 2), Fraction(1216, 1215)])
def test_pixels_are_made_square(tmp_path, suffix, pixel):
    path = tmp_path / f"wide.{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        video.sample_aspect_ratio = pixel
        for frame in [*video_frames(0, 1, 10), None]:
            container.mux(video.encode(frame))
    # A hundredth is the rounding of a scaler.
    width = 64 if pixel.denominator > 1_000 else round(64 * pixel)
    assert read_frame(path).size == (width, 32)


def turned(path, matrix):
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # of the first track, the video
    numbers = [65_536 * number for number in (*matrix[:2], 0, *matrix[2:], 0)]
    content[place : place + 24] = b"".join(one.to_bytes(4, "big", signed=True) for one in numbers)
    path.write_bytes(content)
    return np.asarray(read_frame(path)).mean(axis=2) > 240


def test_a_mirrored_video_is_shown_as_a_player_shows_it(tmp_path):
    path = write_video(tmp_path / "mirror.mp4", acodec="")  # with a bar at the left edge
    assert turned(path, (-1, 0, 0, 1))[:, -12:].all()
    assert turned(path, (1, 0, 0, -1))[:, :12].all()
    assert turned(path, (-1, 0, 0, -1))[:, -12:].all()
    assert turned(path, (0, 1, 1, 0))[:12].all()
    assert turned(path, (0, -1, -1, 0))[-12:].all()


def test_a_reason_is_words():
    said = {in_words(error(code, "")) for error, code in ERRORS}
    assert not any(character.isdigit() for text in said for character in text)
    assert len(said) == len(ERRORS)


ERRORS = [
    (av.error.PatchWelcomeError, 1),
    (av.error.UndefinedError, -50_531_338),
    (av.error.ExperimentalError, 2),
]


@pytest.mark.parametrize(
    ("fill", "reason"), [(b"\xaa", "Invalid data found"), (b"\xff", "invalid data, or something")]
)
def test_a_decoder_that_refuses_all_is_named_with_its_reason(tmp_path, fill, reason):
    path = write(tmp_path / "noise.mp4", [("video", 0, 2, True), ("audio", 0, 2, True)])
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams[1])]
    content = bytearray(path.read_bytes())
    for begin, size in packets:
        if size:
            content[begin : begin + size] = fill * size
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^no sound can be decoded: {reason}"):
        read_sound(path)


def test_dither_is_silence_and_a_whisper_is_none():
    assert is_silent(np.zeros(100, np.int16))
    assert is_silent(np.array([0, 1, -1, 0], np.int16))
    assert not is_silent(np.array([0, 2, -1, 0], np.int16))
    assert not is_silent(np.array([-(2**15), 2**15 - 1], np.int16))
