from unittest.mock import Mock

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from video_files import turn_upright, write_video

from avscenes.media.footage import read_footage
from avscenes.pictures import heat_video as drawing
from avscenes.pictures.heat_video import heat_video, video_maps
from avscenes.testing.towers import Towers


def see(images):
    """Two channels: what is bright, and what is dark."""
    assert images.dtype == torch.uint8
    grey = F.avg_pool2d(images.float().mean(dim=1, keepdim=True) / 255, 8)
    return torch.cat([grey, 1 - grey], dim=1)


def hear(waves):
    """Loud is bright, silent is dark."""
    loud = (waves.abs() > 0.25).any(dim=1).float()
    return torch.stack([loud, 1 - loud], dim=1)


TOWERS = Towers(see, hear, image_size=32, seconds=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A bright bar at the left, and a tone in the second half."""
    return write_video(tmp_path_factory.mktemp("video") / "in.mp4", seconds=3, fps=10, size=160)


def read_back(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_each_frame_has_the_map_of_the_sound_around_it(video):
    heat = video_maps(TOWERS, read_footage(video), batch_size=7)
    assert heat.maps.shape == (30, 4, 4)
    # The bar is bright all the time, and half a second before the tone it is heard first.
    assert (heat.maps[:9, :, 0] < heat.maps[:9, :, 3]).all()
    assert (heat.maps[11:20, :, 0] > heat.maps[11:20, :, 3]).all()
    for number in (0, 15):
        expected = F.cosine_similarity(
            see(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)).flatten()[None],
            hear(torch.full((1, 9), 0.3 * (number > 9))),
        )
        torch.testing.assert_close(heat.maps[number, 1, 0], expected[0], atol=0.05, rtol=0)
    one = video_maps(TOWERS, read_footage(video), batch_size=30)
    torch.testing.assert_close(one.maps, heat.maps)


def test_a_video_keeps_its_sound_and_gets_maps_and_bars(video, tmp_path):
    output = tmp_path / "new" / "out.mp4"
    heat = heat_video(TOWERS, video, output, strip=tmp_path / "strip.png")
    assert [path.name for path in output.parent.iterdir()] == ["out.mp4"]
    frames = read_back(output)
    assert len(frames) == len(heat.maps) == 30
    again = read_footage(output)
    assert again.sound.shape[1] == 2
    sets_in = np.argmax(np.abs(again.sound[:, 0]) > 8_000) / again.sound_rate
    assert sets_in == pytest.approx(1.5, abs=0.05)
    # The progress bar is blue up to the time of the frame.
    blue = np.array([0, 114, 178])
    for number in (4, 28):
        last_row = frames[number][-4, :160].astype(int)
        done = (np.abs(last_row - blue).sum(axis=1) < 60).sum()
        assert done == pytest.approx(160 * (number + 1) / 30, abs=4)
    # The colours beside the frame are the same throughout.
    assert np.abs(frames[2][:80, 168:175].astype(int) - frames[27][:80, 168:175]).mean() < 4
    # Before the tone the dark part is the brighter one of the map, and after it the bar.
    assert frames[2][40, 20].sum() < frames[2][40, 120].sum()
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > 5 * strip.height


def test_a_region_is_outlined_where_the_map_is_above_the_cut(video):
    heat = video_maps(TOWERS, read_footage(video))
    share = (heat.maps > heat.cut).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)
    inside = np.zeros((12, 12), bool)
    inside[3:11, :9] = True
    outline = drawing._outline(inside)
    assert outline.sum() == 8 * 9 - 4 * 7
    assert not outline[5:9, :7].any()
    assert not drawing._outline(np.ones((9, 9), bool)).any()


def test_a_gif_has_no_sound_and_the_same_length(video, tmp_path):
    heat_video(TOWERS, str(video), str(tmp_path / "out.gif"))
    with Image.open(tmp_path / "out.gif") as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
        assert sum(durations) == 3_000
        assert image.info["loop"] == 0


def test_an_upright_video_stays_upright(tmp_path):
    path = turn_upright(write_video(tmp_path / "phone.mp4", fps=10, size=160))
    heat_video(TOWERS, path, tmp_path / "out.mp4")
    height, width, _ = read_back(tmp_path / "out.mp4")[0].shape
    assert (height, width) == (160 + drawing._PROGRESS, 80 + drawing._COLOURS)


def test_a_failure_leaves_nothing(video, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"output must end in \.mp4 or \.gif"):
        heat_video(TOWERS, video, tmp_path / "out.avi")
    sequences = TOWERS._replace(audio=lambda waves: hear(waves)[:, :, None])
    with pytest.raises(ValueError, match=r"sounds must be encoded as vectors \(b, d\), got"):
        heat_video(sequences, video, tmp_path / "out.mp4")
    monkeypatch.setattr(drawing, "_canvas", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        heat_video(TOWERS, video, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
