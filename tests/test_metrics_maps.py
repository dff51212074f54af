import re

import numpy as np
import pytest
import torch
from metric_cases import BOXES, box_map

from avcontrast import metrics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("size", "hint"),
    [((2, 9), r"maps.unflatten(1, (height, width))"), ((2, 5, 3, 3), "maps.flatten(0, 1)")],
)
def test_maps_of_tokens_and_videos_are_told_what_to_do(size, hint):
    with pytest.raises(ValueError, match=re.escape(f"got {size}; {hint} makes it so")):
        metrics.upsample(torch.rand(size), 6)


class TestFlatMaps:
    def test_one_value_up_to_rounding(self):
        maps = torch.full((6, 3, 4), 0.3)
        maps[1] = 0
        maps[2] += 1e-8 * torch.rand(3, 4)
        maps[3, 0, 0] += 1e-5
        maps[4, 0, 0] = float("nan")
        maps[5] = float("inf")
        assert metrics.flat_maps(maps).tolist() == [True, True, True, False, False, False]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_the_smallest_difference_of_a_dtype(self, dtype):
        maps = torch.ones(2, 2, 2, dtype=dtype)
        maps[1, 0, 0] += 16 * torch.finfo(dtype).eps
        assert metrics.flat_maps(maps).tolist() == [True, False]


class TestUpsample:
    @pytest.mark.parametrize(
        ("mode", "align_corners", "row"),
        [
            ("bilinear", True, [0, 1 / 3, 2 / 3, 1]),
            ("bilinear", False, [0, 0.25, 0.75, 1]),
            ("bicubic", True, [0, 0.3148, 0.6852, 1]),
            ("bicubic", False, [-0.3053, -0.0083, 0.4809, 0.7779]),
            ("nearest", True, [0, 0, 1, 1]),
            ("nearest", False, [0, 0, 1, 1]),
        ],
    )
    def test_first_row_of_a_two_by_two_map(self, mode, align_corners, row):
        maps = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]], dtype=torch.float64)
        resized = metrics.upsample(maps, 4, mode, align_corners=align_corners)
        expected = torch.tensor(row, dtype=torch.float64)
        torch.testing.assert_close(resized[0, 0], expected, atol=5e-5, rtol=0)

    def test_default_is_bilinear_with_aligned_corners(self, generator):
        maps = torch.randn(2, 3, 5, generator=generator)
        expected = metrics.upsample(maps, (8, 7), "bilinear", align_corners=True)
        assert torch.equal(metrics.upsample(maps, (8, 7)), expected)

    def test_pair_is_height_and_width(self):
        assert metrics.upsample(torch.zeros(2, 3, 5), (8, 11)).shape == (2, 8, 11)
        assert metrics.upsample(torch.zeros(2, 3, 5), torch.Size([8, 11])).shape == (2, 8, 11)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_keeps_the_dtype(self, dtype):
        assert metrics.upsample(torch.zeros(1, 2, 2, dtype=dtype), 4).dtype == dtype

    def test_is_differentiable(self):
        maps = torch.ones(1, 2, 2, requires_grad=True)
        metrics.upsample(maps, 4).sum().backward()
        torch.testing.assert_close(maps.grad, torch.full((1, 2, 2), 4.0))

    def test_works_without_maps(self):
        assert metrics.upsample(torch.zeros(0, 2, 2), 4).shape == (0, 4, 4)


class TestCentreDisc:
    @pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 7), (8, 8), (9, 14), (64, 64)])
    def test_falls_with_the_distance_to_the_centre(self, size):
        disc = metrics.centre_disc(size)
        assert disc.shape == size
        y = torch.arange(size[0])[:, None] - (size[0] - 1) / 2
        x = torch.arange(size[1]) - (size[1] - 1) / 2
        distance = (y**2 + x**2).flatten()
        values = disc.flatten()
        nearer = distance[:, None] < distance
        equal = distance[:, None] == distance
        higher = values[:, None] > values
        assert torch.equal(higher, nearer)
        assert torch.equal(values[:, None] == values, equal)

    def test_is_symmetric(self):
        disc = metrics.centre_disc((9, 14))
        assert torch.equal(disc, disc.flip(0))
        assert torch.equal(disc, disc.flip(1))
        assert torch.equal(metrics.centre_disc(224), metrics.centre_disc(224).mT)

    @pytest.mark.parametrize("quantile", [0.5, 0.75, 0.9])
    def test_prediction_is_a_disc_of_the_right_size(self, quantile):
        disc = metrics.centre_disc(224)
        predicted = disc >= disc.flatten().sort().values[int(quantile * 224 * 224)]
        share = predicted.double().mean().item()
        assert share == pytest.approx(1 - quantile, abs=1e-3)
        radius = 224 * ((1 - quantile) / torch.pi) ** 0.5
        offset = torch.arange(224) - 111.5
        distance = (offset[:, None] ** 2 + offset**2).sqrt()
        assert predicted[distance < radius - 1].all()
        assert not predicted[distance > radius + 1].any()

    def test_range(self):
        disc = metrics.centre_disc((5, 7))
        assert disc[2, 3].item() == 1
        assert disc[0, 0].item() == 0
        assert disc.dtype == torch.float32


class TestGroundTruthMap:
    def test_union_of_half_open_boxes(self):
        boxes = [(0.1, 0.25, 0.5, 0.75), (0.4, 0.5, 0.99, 1.0)]
        gt = metrics.ground_truth_map(boxes, (8, 20))
        expected = torch.maximum(
            box_map(8, 20, (2, 2, 10, 6)),
            box_map(8, 20, (8, 4, 19, 8)),
        )
        assert torch.equal(gt, expected)
        assert gt.dtype == torch.float32

    def test_consensus_of_the_published_boxes(self):
        gt = metrics.ground_truth_map(BOXES / 224, 224, consensus=2)
        expected = sum(box_map(224, 224, box) for box in BOXES.int().tolist()) / 2
        assert torch.equal(gt, expected.clamp(max=1))
        assert gt.sum().item() == 10_050
        assert gt.count_nonzero().item() == 13_700

    def test_coordinates_of_a_256_pixel_frame(self):
        boxes = [(31, 17, 200, 255), (3, 100, 77, 133)]
        gt = metrics.ground_truth_map(torch.tensor(boxes) / 256, 224, consensus=2)
        expected = sum(box_map(224, 224, [int(224 * c / 256) for c in box]) for box in boxes) / 2
        assert torch.equal(gt, expected)

    def test_agrees_with_plain_python_on_random_boxes(self):
        rng = np.random.default_rng(0)
        for boxes in rng.uniform(-0.2, 1.2, (50, 3, 4)):
            expected = np.zeros((224, 224), dtype=np.float32)
            for box in boxes:
                x0, y0, x1, y1 = (int(np.clip(c, 0, 1) * 224) for c in box)
                expected[y0:y1, x0:x1] = 1
            found = metrics.ground_truth_map(boxes, 224, clip=True)
            np.testing.assert_array_equal(found.numpy(), expected)

    @pytest.mark.parametrize("wild", [-2.88e16, 2.88e16, float("inf"), -float("inf")])
    def test_wildly_wrong_coordinates_are_clipped(self, wild):
        box = [0.25, wild, 0.75, 1.0] if wild < 0 else [0.25, 0.0, 0.75, wild]
        found = metrics.ground_truth_map([box], 8, clip=True)
        assert torch.equal(found, box_map(8, 8, (2, 0, 6, 8)))

    @pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4)), torch.zeros(0, 4)])
    def test_no_boxes_give_zeros(self, empty):
        assert torch.equal(metrics.ground_truth_map(empty, (3, 5)), torch.zeros(3, 5))

    def test_clipped_box_without_extent_covers_nothing(self):
        boxes = [(0.5, 0.2, 0.5, 0.9), (0.9, 0.1, 0.2, 0.8)]
        assert metrics.ground_truth_map(boxes, 10, clip=True).sum().item() == 0

    @pytest.mark.parametrize("clip", [False, True])
    @pytest.mark.parametrize("box", [(0, 0, 110, 200), (0, 35, 110, 200), (50, 60, 20, 30)])
    def test_pixels_are_refused(self, box, clip):
        numbers = ", ".join(f"{value:.1f}" for value in box)
        message = f"shares of the image in [0, 1], got [{numbers}] (pixels? divide by width and"
        for boxes in ([box], [(0.1, 0.1, 0.2, 0.2), box], torch.tensor([box])):
            with pytest.raises(ValueError, match=re.escape(message)):
                metrics.ground_truth_map(boxes, 224, clip=clip)

    @pytest.mark.parametrize(
        "box", [(-0.1, 0.0, 0.5, 0.5), (0.0, 0.0, 1.1, 0.5), (0.2, 0.0, 0.5, 1.001), (0, 0, 1, 9)]
    )
    def test_what_reaches_over_the_edges_is_refused_unless_it_may(self, box):
        with pytest.raises(ValueError, match=r"in \[0, 1\], got .*clip=True cuts off"):
            metrics.ground_truth_map([box], 8)
        cut = [min(max(value, 0.0), 1.0) for value in box]
        expected = metrics.ground_truth_map([cut], 8)
        assert torch.equal(metrics.ground_truth_map([box], 8, clip=True), expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_rounding_is_no_fault(self, dtype):
        eps = torch.finfo(dtype).eps
        box = torch.tensor([[-eps, 0.0, 1 + eps, 1.0]], dtype=dtype)
        assert torch.equal(metrics.ground_truth_map(box, 4), torch.ones(4, 4))

    @pytest.mark.parametrize(
        "box", [(0.5, 0.6, 0.3, 0.3), (0.5, 0.2, 0.5, 0.9), (0.1, 0.4, 0.4, 0.3)]
    )
    def test_a_box_without_an_area_is_refused(self, box):
        message = f"xmin < xmax and ymin < ymax, got {list(box)} (x, y, width, height? add"
        with pytest.raises(ValueError, match=re.escape(message)):
            metrics.ground_truth_map([box], 8)
        with pytest.raises(TypeError, match="clip must be a bool, got int"):
            metrics.ground_truth_map([box], 8, clip=1)

    def test_a_thin_box_may_miss_every_pixel(self):
        assert not metrics.ground_truth_map([(0.26, 0.0, 0.27, 1.0)], 4).any()

    def test_maps_of_several_images(self):
        boxes = [[(0.1, 0.2, 0.7, 0.9)], [], [(0.0, 0.0, 0.5, 0.5), (0.2, 0.2, 0.6, 0.6)]]
        expected = torch.stack([metrics.ground_truth_map(one, (6, 8), 2) for one in boxes])
        assert torch.equal(metrics.ground_truth_maps(boxes, (6, 8), 2), expected)
        assert metrics.ground_truth_maps([], (6, 8)).shape == (0, 6, 8)
        tensor = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0)) / 2
        tensor[:, :, 2:] += 0.5
        for several in (tensor, tensor.numpy(), list(tensor)):
            found = metrics.ground_truth_maps(several, 9)
            assert torch.equal(found[1], metrics.ground_truth_map(tensor[1], 9))
        over = metrics.ground_truth_maps([[(0.0, 0.0, 1.5, 1.0)]], 4, clip=True)
        assert torch.equal(over, torch.ones(1, 4, 4))

    def test_mistakes_in_those_of_several_images(self):
        good = [(0.1, 0.2, 0.7, 0.9)]
        with pytest.raises(ValueError, match=r"^image 1: boxes must be shares of the image"):
            metrics.ground_truth_maps([good, [(0, 0, 110, 200)]], 8)
        with pytest.raises(
            ValueError, match=r"^image 0: boxes must have shape \(k, 4\), got \(4,\)"
        ):
            metrics.ground_truth_maps(good, 8)
        with pytest.raises(ValueError, match=r"got \(2, 1, 4\); ground_truth_maps takes those of"):
            metrics.ground_truth_map([good, good], 8)
        with pytest.raises(TypeError, match="boxes must be a sequence of the boxes of each image"):
            metrics.ground_truth_maps(3, 8)

    def test_whole_image(self):
        assert torch.equal(metrics.ground_truth_map([(0, 0, 1, 1)], (3, 5)), torch.ones(3, 5))

    def test_kind_of_container_does_not_matter(self):
        boxes = [[0.1, 0.2, 0.7, 0.9], [0.0, 0.3, 0.5, 0.6]]
        expected = metrics.ground_truth_map(boxes, 32)
        array = np.array(boxes)
        array.flags.writeable = False
        for same in (tuple(map(tuple, boxes)), array, torch.tensor(boxes, dtype=torch.float64)):
            assert torch.equal(metrics.ground_truth_map(same, 32), expected)
