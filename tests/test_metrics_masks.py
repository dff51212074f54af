import math

import pytest
import torch

from avcontrast import metrics
from avcontrast.metrics import _numerics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_masks(generator, n=9, size=(7, 10), dtype=torch.float64):
    maps = torch.rand(n, *size, generator=generator, dtype=torch.float64).to(dtype)
    masks = torch.rand(n, *size, generator=generator) > torch.linspace(0.1, 0.9, n)[:, None, None]
    masks[1] = False
    masks[2] = True
    return maps, masks


def loop_iou(values, mask, threshold, inclusive):
    index = len(values) - sum(mask) if threshold == "area" and any(mask) else len(values) // 2
    cut = 0.5 if threshold == "fixed" else sorted(values)[index]
    predicted = [value >= cut if inclusive else value > cut for value in values]
    if not any(mask):
        return sum(not p for p in predicted) / len(values)
    both = sum(p and m for p, m in zip(predicted, mask))
    return both / sum(p or m for p, m in zip(predicted, mask))


def loop_f_score(maps, masks, beta_squared, thresholds):
    best = 0.0
    for level in thresholds:
        total, images = 0.0, 0
        for values, mask in zip(maps, masks):
            if not any(mask):
                continue
            images += 1
            predicted = [value >= level for value in values]
            hits = sum(p and m for p, m in zip(predicted, mask))
            precision = hits / sum(predicted) if any(predicted) else 0.0
            recall = hits / sum(mask)
            below = beta_squared * precision + recall
            total += (1 + beta_squared) * precision * recall / below if below else 0.0
        best = max(best, total / images)
    return best


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("threshold", ["fixed", "half", "area"])
@pytest.mark.parametrize("ties", [False, True])
def test_iou_agrees_with_the_definition(generator, threshold, inclusive, ties):
    maps, masks = random_masks(generator)
    maps = maps.mul(4).round() / 4 if ties else maps
    expected = [
        loop_iou(values, mask, threshold, inclusive)
        for values, mask in zip(maps.flatten(1).tolist(), masks.flatten(1).tolist())
    ]
    iou = metrics.mask_iou(maps, masks, threshold, inclusive=inclusive)
    assert iou.tolist() == pytest.approx(expected, abs=1e-14)


def test_default_rule_is_above_one_half():
    maps = torch.tensor([[[0.5, 0.51], [0.49, 0.9]]])
    assert metrics.mask_iou(maps, torch.tensor([[[0, 1], [0, 1]]])).item() == 1


def test_empty_mask_counts_the_pixels_left_out():
    maps = torch.tensor([[[0.9, 0.1], [0.1, 0.1]]])
    assert metrics.mask_iou(maps, torch.zeros(1, 2, 2)).item() == 0.75


@pytest.mark.parametrize("beta_squared", [0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_f_score_agrees_with_the_definition(generator, beta_squared, dtype):
    maps, masks = random_masks(generator, dtype=dtype)
    # Values on the thresholds themselves, the last of which is 1 in float32 alone.
    maps[3] = torch.linspace(0, 1 - 1e-10, 255, dtype=dtype)[::3][:70].view(7, 10)
    maps[4], maps[5] = 1, 0
    thresholds = torch.linspace(0, 1 - 1e-10, 255, dtype=dtype).tolist()
    lists = maps.flatten(1).tolist(), masks.flatten(1).tolist()
    expected = loop_f_score(*lists, beta_squared, thresholds)
    found = metrics.mask_f_score(maps, masks, beta_squared)
    assert found.item() == pytest.approx(expected, abs=1e-13)
    assert 0.5 < expected < 1


def test_mean_over_images_comes_before_the_maximum():
    """The maxima of the two images are at different thresholds, each with an F-score of 1."""
    mask = torch.tensor([[1, 0]])
    first, second = torch.tensor([[0.3, 0.2]]), torch.tensor([[0.9, 0.6]])
    alone = [metrics.mask_f_score(one[None], mask[None]).item() for one in (first, second)]
    assert alone == [1, 1]
    together = metrics.mask_f_score(torch.stack([first, second]), torch.stack([mask, mask]))
    assert together.item() == pytest.approx((1 + 1.3 * 0.5 / (0.3 * 0.5 + 1)) / 2)


def test_repeating_the_images_changes_nothing(generator):
    maps, masks = random_masks(generator)
    once = metrics.mask_f_score(maps, masks)
    twice = metrics.mask_f_score(maps.repeat(2, 1, 1), masks.repeat(2, 1, 1))
    torch.testing.assert_close(twice, once, atol=1e-15, rtol=0)


def test_perfect_masks(generator):
    _, masks = random_masks(generator)
    assert metrics.mask_iou(masks.float(), masks).tolist() == [1] * 9
    assert metrics.mask_f_score(masks.float(), masks).item() == 1


def test_chunks_do_not_show(generator, monkeypatch):
    maps, masks = random_masks(generator)
    iou, f_score = metrics.mask_iou(maps, masks), metrics.mask_f_score(maps, masks)
    monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 200)
    assert torch.equal(metrics.mask_iou(maps, masks), iou)
    assert torch.equal(metrics.mask_f_score(maps, masks), f_score)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_dtype_of_the_masks(generator, dtype):
    maps, masks = random_masks(generator)
    assert torch.equal(metrics.mask_iou(maps, masks.to(dtype)), metrics.mask_iou(maps, masks))
    found = metrics.mask_f_score(maps, masks.to(dtype))
    assert torch.equal(found, metrics.mask_f_score(maps, masks))


def test_strides_do_not_matter(generator):
    maps, masks = random_masks(generator)
    spread = torch.stack([maps, 1 - maps], dim=1)[:, 0]
    assert not spread.is_contiguous()
    assert torch.equal(metrics.mask_f_score(spread, masks), metrics.mask_f_score(maps, masks))


MAPS, MASKS = torch.full((2, 4, 4), 0.5), torch.ones(2, 4, 4)
SHARED = [
    ((MAPS * 4, MASKS), ValueError, r"maps must lie in \[0, 1\], got values from 2 to 2"),
    ((MAPS * math.nan, MASKS), ValueError, "maps must not have NaN, got NaN in 2 of 2 maps"),
    (
        (MAPS, MASKS / 2),
        ValueError,
        "gt_masks must hold zeros and ones, got values between them",
    ),
    (
        (MAPS, MASKS * 255),
        ValueError,
        r"gt_masks must hold weights in \[0, 1\], got values from 255 to 255",
    ),
    (
        (MAPS, MASKS[:1]),
        ValueError,
        r"maps and gt_masks must have the same shape, got \(2, 4, 4\) and \(1, 4, 4\)",
    ),
    (
        (MAPS, MASKS.to("meta")),
        ValueError,
        "maps and gt_masks must be on the same device, got cpu and meta",
    ),
    ((MAPS, MASKS.tolist()), TypeError, "gt_masks must be a real or boolean tensor, got list"),
    ((MAPS, MASKS[0]), ValueError, r"gt_masks must have shape \(n, height, width\), got \(4, 4\)"),
    ((MAPS.int(), MASKS), TypeError, "maps must be a floating-point tensor, got dtype torch.int32"),
]


@pytest.mark.parametrize("function", [metrics.mask_iou, metrics.mask_f_score])
@pytest.mark.parametrize(("arguments", "error", "message"), SHARED)
def test_errors_name_the_argument_and_what_came(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: metrics.mask_iou(MAPS, MASKS, "otsu"),
            ValueError,
            "threshold must be 'half', 'area', 'fixed' or a number .* got 'otsu'",
        ),
        (
            lambda: metrics.mask_f_score(MAPS, MASKS * 0),
            ValueError,
            "gt_masks must hold at least one mask that is not empty, got 2 empty ones",
        ),
        (
            lambda: metrics.mask_f_score(MAPS, MASKS, 0),
            ValueError,
            "beta_squared must be above 0, got 0",
        ),
        (
            lambda: metrics.mask_f_score(MAPS, MASKS, "0.3"),
            TypeError,
            "beta_squared must be a number, got str",
        ),
    ],
)
def test_other_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_scale_of_the_maps_is_free_where_their_order_decides(generator):
    maps, masks = random_masks(generator)
    expected = metrics.mask_iou(maps, masks, "half")
    assert torch.equal(metrics.mask_iou(7 * maps - 3, masks, "half"), expected)
