import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from small_sets import truncate
from video_files import brightness, turn_upright, write_video

from avscenes.media.videos import SAMPLE_RATE, encode_jpeg, encode_wav, read_frame, read_sound


@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec", "rate"),
    [
        ("mp4", "mpeg4", "aac", 44_100),
        ("mp4", "libx264", "aac", 22_050),
        ("mkv", "libx264", "libopus", 48_000),
        ("avi", "mpeg4", "pcm_s16le", 8_000),
        ("webm", "libvpx", "libopus", 48_000),
    ],
)
def test_the_frame_is_the_middle_one(tmp_path, suffix, vcodec, acodec, rate):
    layout = "mono" if rate == 8_000 else "stereo"
    path = tmp_path / f"video.{suffix}"
    write_video(path, vcodec=vcodec, acodec=acodec, rate=rate, layout=layout)
    image = read_frame(path)
    assert image.mode == "RGB"
    assert image.size == (64, 32)
    assert brightness(image) == pytest.approx(125, abs=13)  # its neighbours differ by 12.5
    sound = read_sound(path)
    assert sound.dtype == np.int16
    assert len(sound) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert np.argmax(np.abs(sound) > 8_000) == pytest.approx(SAMPLE_RATE, abs=0.02 * SAMPLE_RATE)
    # Equal channels are averaged and not summed.
    assert np.abs(sound).max() == pytest.approx(0.5 * 2**15, rel=0.1)
    loud = sound[int(1.2 * SAMPLE_RATE) :][: SAMPLE_RATE // 2]
    assert np.abs(np.fft.rfft(loud)).argmax() == 500


def test_a_long_video_gives_the_ten_seconds_around_its_middle(tmp_path):
    path = write_video(tmp_path / "long.mp4", seconds=23.5, fps=4, rate=16_000, layout="mono")
    sound = read_sound(path)
    assert len(sound) == 10 * SAMPLE_RATE
    assert np.argmax(np.abs(sound) > 8_000) == pytest.approx(5 * SAMPLE_RATE, abs=200)
    assert brightness(read_frame(path)) == pytest.approx(125, abs=4)


def test_a_video_filmed_upright_is_turned(tmp_path):
    image = read_frame(turn_upright(write_video(tmp_path / "phone.mp4")))
    assert image.size == (32, 64)
    # The bar at the left edge is at the top after a quarter turn to the right.
    assert np.asarray(image)[:12].mean() > 240
    assert np.asarray(image)[20:].mean() < 140


def test_a_picture_of_an_album_is_no_video(tmp_path):
    path = write_video(tmp_path / "sound.mp4", vcodec="")
    with pytest.raises(ValueError, match="no video stream"):
        read_frame(path)
    assert len(read_sound(path)) > SAMPLE_RATE


def test_a_video_without_sound_says_so(tmp_path):
    path = write_video(tmp_path / "mute.mp4", acodec="")
    with pytest.raises(ValueError, match="no audio stream"):
        read_sound(path)


@pytest.mark.parametrize(("share", "stops"), [(0.2, True), (0.45, True), (0.9, False)])
def test_a_file_cut_short_needs_its_middle(tmp_path, share, stops):
    path = write_video(tmp_path / "whole.mkv", seconds=4, acodec="pcm_s16le", rate=16_000)
    truncate(path, share)
    for read, kind in ((read_frame, "video"), (read_sound, "sound")):
        if stops:
            with pytest.raises(ValueError, match=rf"the {kind} stops at [\d.]+ s, before .* 2.0 s"):
                read(path)
        else:
            read(path)


def test_a_file_without_an_index_is_decoded_from_its_start(tmp_path):
    path = write_video(tmp_path / "stream.ts", seconds=4, vcodec="libx264")
    assert brightness(read_frame(path)) == pytest.approx(125, abs=7)


def test_files_hold_what_was_encoded():
    samples = np.arange(-3_000, 3_000, dtype=np.int16)
    wave, rate = soundfile.read(io.BytesIO(encode_wav(samples)), dtype="int16")
    assert rate == SAMPLE_RATE
    assert np.array_equal(wave, samples)
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    again = Image.open(io.BytesIO(encode_jpeg(image)))
    assert again.format == "JPEG"
    assert np.abs(np.asarray(again).astype(int) - np.asarray(image)).max() <= 2
