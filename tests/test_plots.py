"""Maps over images, and what to install for them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from PIL import Image

from avcontrast import metrics, plots


def images(count):
    return torch.rand(count, 3, 20, 30, generator=torch.Generator().manual_seed(0))


def maps(count):
    return torch.rand(count, 7, 7, generator=torch.Generator().manual_seed(1)) - 0.5


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_says_what_to_install_without_matplotlib():
    run = run_python("import sys; sys.modules['matplotlib.axes'] = None; import avcontrast.plots")
    assert run.returncode != 0
    assert run.stderr.strip().endswith(
        'ModuleNotFoundError: avcontrast.plots needs matplotlib: pip install "avcontrast[plots]"'
    )


def test_images_of_every_kind_become_pictures():
    image = images(1)[0]
    eight = (255 * image).round().to(torch.uint8)
    expected = eight.movedim(0, -1).numpy() / 255
    for given in (
        eight,
        eight.movedim(0, -1).numpy(),
        Image.fromarray(eight.movedim(0, -1).numpy()),
    ):
        picture = plots.as_picture(given)
        assert picture.dtype == np.float32
        np.testing.assert_allclose(picture, expected, atol=1e-6)
    stretched = plots.as_picture(3 * image - 7)
    np.testing.assert_allclose(stretched, plots.as_picture(image), atol=1e-5)
    assert (stretched.min(), stretched.max()) == (0, 1)
    assert plots.as_picture(torch.ones(3, 4, 5)).max() == 0


@pytest.mark.parametrize("wrong", [torch.zeros(20, 30, 3), torch.zeros(4, 3, 8, 8), [1.0, 2.0]])
def test_what_is_no_image_is_named(wrong):
    with pytest.raises(ValueError, match=r"image must have the shape \(3, h, w\) of a tensor"):
        plots.as_picture(wrong)


def test_the_cut_leaves_the_share_of_the_threshold():
    heat = torch.arange(100.0).view(10, 10)
    for threshold, area, share in ((0.75, 0, 0.25), ("half", 0, 0.5), ("area", 0.1, 0.1)):
        cut = plots.prediction_cut(heat, threshold, area)
        assert (heat > cut).double().mean().item() == pytest.approx(share, abs=0.011)
    assert plots.prediction_cut(heat, "fixed") == 0.5


def contours(axis):
    return [part for part in axis.get_children() if isinstance(part, QuadContourSet)]


def test_a_figure_has_an_axis_for_each_map():
    boxes = [[[0.1, 0.2, 0.5, 0.9]], [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], []]
    figure = plots.draw_maps(images(3), maps(3), boxes=boxes, titles=list("abc"), columns=2)
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c"]
    # Each box is drawn twice, dark and light.
    assert [len(axis.patches) for axis in figure.axes] == [2, 4, 0]
    assert figure.axes[0].patches[0].get_bbox().bounds == pytest.approx((2.5, 3.5, 12, 14))
    heat = metrics.upsample(maps(3), (20, 30))
    for axis, one in zip(figure.axes, heat, strict=True):
        np.testing.assert_allclose(axis.images[1].get_array(), one, atol=1e-6)
        (outline,) = contours(axis)
        assert outline.levels[0] == pytest.approx(plots.prediction_cut(one))
    bare = plots.draw_maps(list(images(1)), maps(1), threshold=None, limits=(-1, 1))
    assert contours(bare.axes[0]) == []
    assert bare.axes[0].images[1].get_clim() == (-1, 1)


def test_a_figure_can_be_written(tmp_path):
    plots.draw_maps(images(2), maps(2)).savefig(tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as image:
        assert image.width > image.height


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"boxes": [[]]}, "boxes must be as many as maps, 2, got 1"),
        ({"titles": list("abc")}, "titles must be as many as maps, 2, got 3"),
        ({"columns": 0}, "maps and columns must be at least 1, got 2 and 0"),
    ],
)
def test_what_does_not_belong_together_is_named(more, message):
    with pytest.raises(ValueError, match=message):
        plots.draw_maps(images(2), maps(2), **more)
    with pytest.raises(ValueError, match="images must be as many as maps, 2, got 1"):
        plots.draw_maps(images(1), maps(2))
    with pytest.raises(ValueError, match="maps must have"):
        plots.draw_maps(images(2), maps(2)[None])
