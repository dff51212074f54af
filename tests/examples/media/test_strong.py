import numpy as np
import pytest
import torch
from PIL import Image

from avscenes.media import strong
from avscenes.media.images import _DEVIATION, _MEAN


def levels(pixels):
    """Return what was normalised as values in [0, 1]."""
    return pixels * _DEVIATION + _MEAN


def one_colour(colour, count=40):
    image = Image.new("RGB", (300, 200), colour)
    return torch.stack(
        [
            levels(strong.strongly_augmented(image, torch.Generator().manual_seed(seed)))
            for seed in range(count)
        ]
    )


def test_the_same_generator_gives_the_same_view():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(256, size=(120, 400, 3), dtype=np.uint8))
    views = [
        strong.strongly_augmented(image, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    for view in views:
        assert view.shape == (3, 224, 224)
        assert 0 <= levels(view).min() < levels(view).max() <= 1 + 1e-5


def test_a_single_colour_stays_one_and_is_at_times_another_or_grey():
    views = one_colour((180, 60, 40))
    flat = views[:, :, 0, 0]
    torch.testing.assert_close(views, flat[:, :, None, None].expand_as(views), rtol=0, atol=1e-4)
    grey = (flat - flat[:, :1]).abs().amax(dim=1) < 1e-4
    assert 1 <= grey.sum() <= 20
    plain = torch.tensor([180, 60, 40]) / 255
    same = (flat - plain).abs().amax(dim=1) < 1e-4
    assert 1 <= same.sum() <= 20
    assert len(flat.mul(1000).round().unique(dim=0)) > 15


def test_grey_stays_grey_whatever_its_colours_are_turned_to():
    flat = one_colour((120, 120, 120))[:, :, 0, 0]
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(300, 200), (1, 500), (224, 224)])
def test_crops_lie_in_the_image_and_have_the_named_sizes(size):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x0, y0, x1, y1 = strong._crop(*size, generator)
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        if min(size) > 1:
            assert (x1 - x0) * (y1 - y0) <= 1.001 * size[0] * size[1]
            assert (x1 - x0) * (y1 - y0) >= 0.13 * size[0] * size[1]


def test_a_blur_keeps_the_sum_of_a_point():
    pixels = torch.zeros(3, 41, 41)
    pixels[:, 20, 20] = 1
    blurred = strong._blurred(pixels, 2.0)
    assert blurred.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert blurred[0, 20, 20] < 0.05
