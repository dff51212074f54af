import numpy as np
import pytest
from video_files import brightness, turn_upright, write_video

from avscenes.media.footage import Unreadable, read_footage


def levels(footage):
    return [brightness(image) for image in footage.frames()]


def test_frames_come_at_the_rate_of_the_video_and_again_when_asked_again(tmp_path):
    footage = read_footage(write_video(tmp_path / "a.mp4", fps=12))
    assert footage.rate == 12
    expected = [250 * number / 24 for number in range(24)]
    for _ in range(2):
        assert levels(footage) == pytest.approx(expected, abs=6)


@pytest.mark.parametrize(("fps", "most", "rate"), [(60, 30, 30), (50, 30, 25), (20, 10, 10)])
def test_frames_of_a_fast_video_are_passed_over(tmp_path, fps, most, rate):
    footage = read_footage(write_video(tmp_path / "a.mp4", fps=fps), most)
    assert footage.rate == rate
    expected = [250 * number / (2 * rate) for number in range(2 * rate)]
    assert levels(footage) == pytest.approx(expected, abs=8)


def test_a_variable_rate_becomes_a_constant_one_and_keeps_its_times(tmp_path):
    # Shown at 0, 0.1, 0.8, 0.9 and 1.9 s; their brightness is 0, 50, 100, 150 and 200.
    path = write_video(tmp_path / "a.mkv", fps=10, stamps=[0, 1, 8, 9, 19], acodec="pcm_s16le")
    footage = read_footage(path)
    assert footage.rate == 10
    expected = [0] + [50] * 7 + [100] + [150] * 10 + [200]
    assert levels(footage) == pytest.approx(expected, abs=6)


def test_a_slide_show_is_shown_often_enough_for_a_map_that_moves(tmp_path):
    footage = read_footage(write_video(tmp_path / "a.mp4", seconds=3, fps=1))
    assert footage.rate == 10
    assert len(levels(footage)) == 30


def test_a_video_filmed_upright_is_shown_upright(tmp_path):
    footage = read_footage(turn_upright(write_video(tmp_path / "phone.mp4")))
    assert {image.size for image in footage.frames()} == {(32, 64)}


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2)])
def test_the_sound_is_kept_and_heard_around_each_time(tmp_path, layout, channels):
    path = write_video(tmp_path / "a.mp4", seconds=5, rate=22_050, layout=layout)
    footage = read_footage(path)
    assert footage.sound_rate == 22_050
    assert footage.sound.shape == (pytest.approx(5 * 22_050, abs=900), channels)
    sets_in = np.argmax(np.abs(footage.sound[:, 0]) > 8_000) / 22_050
    assert sets_in == pytest.approx(2.5, abs=0.02)
    waves = footage.windows(np.array([0.0, 2.5, 4.9]), 2)
    assert waves.shape == (3, 32_000)
    loud = (np.abs(waves) > 0.25).mean(axis=1)
    assert loud == pytest.approx([0, 5 / 16, 10 / 16], abs=0.02)  # of 16 samples a period
    # A window that is longer than the sound repeats it.
    assert footage.windows(np.zeros(2), 7).shape == (2, 112_000)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"acodec": ""}, "no audio stream"),
        ({"vcodec": ""}, "no video stream"),
    ],
)
def test_what_a_video_lacks_is_said_in_one_line(tmp_path, more, reason):
    path = write_video(tmp_path / "a.mp4", **more)
    with pytest.raises(Unreadable) as error:
        read_footage(path)
    assert str(error.value) == f"cannot read {path}: {reason}"


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(Unreadable, match=r"cannot read .*text\.mp4: Invalid data found"):
        read_footage(tmp_path / "text.mp4")
    with pytest.raises(Unreadable, match=r"cannot read .*none\.mp4: No such file"):
        read_footage(tmp_path / "none.mp4")
