import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avcontrast import metrics

RULES = ["half", "area", 0.75, 0.1]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "localization_reference.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def published_ciou(values, gt, position, inclusive):
    """The definition, pixel by pixel, on flat lists of numbers."""
    cut = sorted(values)[position]
    hits = false_positives = 0.0
    for value, weight in zip(values, gt, strict=True):
        if value > cut or (inclusive and value == cut):
            hits += weight
            false_positives += weight == 0
    union = sum(gt) + false_positives
    return hits / union if union else 0.0


def position_of(rule, gt):
    foreground = sum(weight > 0 for weight in gt)
    if rule == "area" and foreground:
        return len(gt) - foreground
    return int((rule if isinstance(rule, float) else 0.5) * len(gt))


def reference_ciou(maps, gt_maps, rule, inclusive):
    return torch.tensor(
        [
            published_ciou(values, gt, position_of(rule, gt), inclusive)
            for values, gt in zip(
                maps.flatten(1).tolist(), gt_maps.flatten(1).tolist(), strict=True
            )
        ],
        dtype=torch.float64,
    )


def random_case(generator, n=6, size=(9, 14), levels=(0.0, 0.0, 0.0, 0.5, 1.0)):
    maps = torch.randn(n, *size, generator=generator)
    choice = torch.randint(len(levels), (n, *size), generator=generator)
    return maps, torch.tensor(levels)[choice]


def box_map(height, width, box):
    x0, y0, x1, y1 = box
    gt = torch.zeros(height, width)
    gt[y0:y1, x0:x1] = 1
    return gt


def bump():
    """A smooth map with its peak at row 120, column 100 of 224 x 224, in float64."""
    y, x = torch.meshgrid(
        torch.arange(224, dtype=torch.float64),
        torch.arange(224, dtype=torch.float64),
        indexing="ij",
    )
    values = -((x - 100) ** 2 + (y - 120) ** 2)
    return (values - values.min()) / (values.max() - values.min())


BOXES = torch.tensor([[60, 50, 160, 150], [80, 70, 180, 170], [0, 0, 10, 10]], dtype=torch.float64)


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


class TestConsensusIoU:
    def test_golden_maps_scores_success_and_auc(self, golden):
        maps = metrics.upsample(golden["map7"], 224, "bicubic", align_corners=False)
        ciou = metrics.consensus_iou(maps, golden["gt_map"])
        torch.testing.assert_close(ciou, golden["ciou"], atol=2e-3, rtol=0)
        assert metrics.success_rate(ciou).item() == golden["ap50"].item()
        assert metrics.success_auc(ciou).item() == pytest.approx(golden["auc"].item(), abs=1e-12)
        assert ciou.mean().item() == pytest.approx(golden["mean_ciou"].item(), abs=1e-4)

    def test_success_and_auc_of_the_golden_scores(self, golden):
        ciou = golden["ciou"]
        assert metrics.success_rate(ciou).item() == golden["ap50"].item()
        assert metrics.success_auc(ciou).item() == pytest.approx(golden["auc"].item(), abs=1e-12)

    @pytest.mark.parametrize(
        ("consensus", "threshold", "inclusive", "expected"),
        [
            (2, "half", True, 0.4616844932),
            (1, "half", True, 0.5363805601),
            (2, "area", False, 0.6280373129),
        ],
    )
    def test_published_evaluators_on_a_smooth_map(self, consensus, threshold, inclusive, expected):
        gt = metrics.ground_truth_map(BOXES / 224, 224, consensus)
        ciou = metrics.consensus_iou(bump()[None], gt[None], threshold, inclusive=inclusive)
        assert ciou.item() == pytest.approx(expected, abs=5e-11)

    @pytest.mark.parametrize(("inclusive", "predicted"), [(True, 5), (False, 4)])
    def test_upper_median_of_nine_values(self, generator, inclusive, predicted):
        maps = torch.randperm(9, generator=generator).float().view(1, 3, 3)
        everywhere = torch.ones(1, 3, 3)
        ciou = metrics.consensus_iou(maps, everywhere, inclusive=inclusive)
        assert ciou.item() == predicted / 9

    @pytest.mark.parametrize(
        ("threshold", "inclusive", "predicted"),
        [
            (0.75, True, 25),
            (0.75, False, 24),
            (0.29, True, 71),
            (0.999, True, 1),
            (0.999, False, 0),
            (1 - 1e-12, True, 1),
            (0.001, True, 100),
            (np.float32(0.75), True, 25),
        ],
    )
    def test_number_of_pixels_above_a_quantile(self, generator, threshold, inclusive, predicted):
        maps = torch.randperm(100, generator=generator).float().view(1, 10, 10)
        everywhere = torch.ones(1, 10, 10)
        ciou = metrics.consensus_iou(maps, everywhere, threshold, inclusive=inclusive)
        assert ciou.item() == predicted / 100

    def test_quantile_of_one_half_is_the_median(self, generator):
        maps, gt_maps = random_case(generator, size=(3, 5))
        half = metrics.consensus_iou(maps, gt_maps, "half")
        assert torch.equal(metrics.consensus_iou(maps, gt_maps, 0.5), half)

    @pytest.mark.parametrize(("inclusive", "missing"), [(True, 0), (False, 1)])
    def test_area_predicts_as_many_pixels_as_the_ground_truth_has(
        self, generator, inclusive, missing
    ):
        gt = box_map(6, 8, (1, 2, 5, 4))
        maps = torch.randperm(48, generator=generator).float().view(6, 8) + 100 * gt
        ciou = metrics.consensus_iou(maps[None], gt[None], "area", inclusive=inclusive)
        assert ciou.item() == (8 - missing) / 8

    @pytest.mark.parametrize("inclusive", [True, False])
    @pytest.mark.parametrize("threshold", RULES)
    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 14), (16, 16)])
    @pytest.mark.parametrize("values", ["distinct", "tied", "infinite"])
    def test_agrees_with_the_definition(self, generator, size, threshold, inclusive, values):
        maps, gt_maps = random_case(generator, n=8, size=size)
        gt_maps[0], gt_maps[1] = 0, 1
        if values == "tied":
            maps = maps.mul(2).round()
        elif values == "infinite":
            maps = torch.where(maps.abs() > 0.7, maps.sign() * float("inf"), maps)
        ciou = metrics.consensus_iou(maps, gt_maps, threshold, inclusive=inclusive)
        expected = reference_ciou(maps, gt_maps, threshold, inclusive)
        torch.testing.assert_close(ciou, expected, atol=1e-14, rtol=0)

    def test_constant_map_predicts_everything_or_nothing(self):
        gt = box_map(4, 8, (0, 0, 2, 4))[None]
        assert metrics.consensus_iou(torch.zeros(1, 4, 8), gt).item() == 0.25
        assert metrics.consensus_iou(torch.zeros(1, 4, 8), gt, inclusive=False).item() == 0

    @pytest.mark.parametrize("inclusive", [True, False])
    @pytest.mark.parametrize("threshold", RULES)
    def test_empty_ground_truth_scores_zero(self, generator, threshold, inclusive):
        maps = torch.randn(2, 4, 6, generator=generator)
        maps[1] = 0
        ciou = metrics.consensus_iou(maps, torch.zeros(2, 4, 6), threshold, inclusive=inclusive)
        assert ciou.tolist() == [0, 0]

    def test_weights_count_in_full_as_false_positives_only_where_zero(self):
        maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        gt = torch.tensor([[[0.5, 0.0, 1.0, 0.0]]])
        assert metrics.consensus_iou(maps, gt).item() == 0.5 / (1.5 + 1)

    @pytest.mark.parametrize("threshold", RULES)
    def test_batch_equals_samples_one_by_one(self, generator, threshold):
        maps, gt_maps = random_case(generator)
        one_by_one = [
            metrics.consensus_iou(m[None], g[None], threshold)
            for m, g in zip(maps, gt_maps, strict=True)
        ]
        assert torch.equal(metrics.consensus_iou(maps, gt_maps, threshold), torch.cat(one_by_one))

    @pytest.mark.parametrize("threshold", RULES)
    def test_chunks_do_not_show(self, generator, monkeypatch, threshold):
        maps, gt_maps = random_case(generator, n=7)
        whole = metrics.consensus_iou(maps, gt_maps, threshold)
        ceiling = metrics.ciou_ceiling(gt_maps, threshold)
        for values in (1, 3 * 9 * 14):
            monkeypatch.setattr(metrics, "_VALUES_PER_CHUNK", values)
            assert torch.equal(metrics.consensus_iou(maps, gt_maps, threshold), whole)
            assert torch.equal(metrics.ciou_ceiling(gt_maps, threshold), ceiling)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype_of_the_maps(self, generator, dtype):
        maps, gt_maps = random_case(generator)
        maps = maps.to(dtype)
        expected = metrics.consensus_iou(maps.float(), gt_maps)
        assert torch.equal(metrics.consensus_iou(maps, gt_maps), expected)
        assert expected.dtype == torch.float64

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64]
    )
    def test_dtype_of_the_ground_truth(self, generator, dtype):
        maps, gt_maps = random_case(generator, levels=(0.0, 1.0))
        expected = metrics.consensus_iou(maps, gt_maps)
        assert torch.equal(metrics.consensus_iou(maps, gt_maps.to(dtype)), expected)

    def test_strides_do_not_matter(self, generator):
        maps, gt_maps = random_case(generator)
        expected = metrics.consensus_iou(maps, gt_maps)
        turned = maps.mT.contiguous().mT
        spread = gt_maps.repeat_interleave(2, dim=2)[:, :, ::2]
        assert not turned.is_contiguous()
        assert not spread.is_contiguous()
        assert torch.equal(metrics.consensus_iou(turned, spread), expected)

    def test_infinite_values_keep_their_order(self):
        maps = torch.tensor([[[float("inf"), 1.0], [0.0, -float("inf")]]])
        gt = torch.tensor([[[1, 1], [0, 0]]])
        assert metrics.consensus_iou(maps, gt).item() == 1

    def test_no_maps_give_no_scores(self):
        empty = torch.zeros(0, 4, 4)
        assert metrics.consensus_iou(empty, empty).shape == (0,)
        assert metrics.ciou_ceiling(empty).shape == (0,)

    def test_leaves_inputs_alone_and_carries_no_gradient(self, generator):
        maps, gt_maps = random_case(generator)
        before, gt_before = maps.clone(), gt_maps.clone()
        ciou = metrics.consensus_iou(maps.requires_grad_(), gt_maps)
        assert not ciou.requires_grad
        assert torch.equal(maps.detach(), before)
        assert torch.equal(gt_maps, gt_before)

    @settings(deadline=None, max_examples=50)
    @given(data=st.data(), threshold=st.sampled_from(RULES), inclusive=st.booleans())
    def test_increasing_transforms_change_nothing(self, data, threshold, inclusive):
        height, width = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        count = height * width
        values = data.draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))
        weights = data.draw(
            st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=count, max_size=count)
        )
        maps = torch.tensor(values, dtype=torch.float64).view(1, height, width)
        gt = torch.tensor(weights).view(1, height, width)
        expected = metrics.consensus_iou(maps, gt, threshold, inclusive=inclusive)
        scaled = (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1)
        for transformed in (scaled, maps.exp(), 3 * maps - 7, maps**3):
            ciou = metrics.consensus_iou(transformed, gt, threshold, inclusive=inclusive)
            assert torch.equal(ciou, expected)

    @settings(deadline=None, max_examples=50)
    @given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from(RULES))
    def test_joint_permutations_change_nothing(self, seed, threshold):
        generator = torch.Generator().manual_seed(seed)
        maps, gt_maps = random_case(generator, n=4, size=(5, 6))
        expected = metrics.consensus_iou(maps, gt_maps, threshold)
        pixels = torch.randperm(30, generator=generator)
        samples = torch.randperm(4, generator=generator)
        shuffled = [x.flatten(1)[samples][:, pixels].view(4, 5, 6) for x in (maps, gt_maps)]
        assert torch.equal(metrics.consensus_iou(*shuffled, threshold), expected[samples])


class TestSuccess:
    def test_auc_of_a_published_list(self):
        ciou = torch.tensor([0, 0.3, 0.5, 0.62, 1], dtype=torch.float64)
        assert metrics.success_auc(ciou).item() == pytest.approx(0.49, abs=1e-12)
        assert metrics.success_rate(ciou).item() == 0.6

    def test_thresholds_in_float64_are_the_published_products(self):
        reached = [
            metrics.success_auc(torch.tensor([0.05 * i], dtype=torch.float64)).item()
            for i in range(21)
        ]
        decimal = [
            metrics.success_auc(torch.tensor([i / 20], dtype=torch.float64)).item()
            for i in range(21)
        ]
        assert reached == pytest.approx([0.05 * (i + 0.5) for i in range(20)] + [1.0])
        missed = [i for i in range(21) if decimal[i] < reached[i] - 0.01]
        assert missed == [3, 6, 7, 12, 14, 17, 19]

    def test_thresholds_in_float32_are_the_decimal_numbers(self):
        decimal = torch.arange(21) / 20
        areas = [metrics.success_auc(value[None]).item() for value in decimal]
        assert areas == pytest.approx([0.05 * (i + 0.5) for i in range(20)] + [1.0])

    def test_auc_agrees_with_the_trapezoidal_rule(self, generator):
        ciou = torch.rand(200, dtype=torch.float64, generator=generator)
        levels = np.array([0.05 * i for i in range(21)])
        shares = (ciou.numpy()[:, None] >= levels).mean(axis=0)
        expected = ((shares[1:] + shares[:-1]) / 2 * np.diff(levels)).sum()
        assert metrics.success_auc(ciou).item() == pytest.approx(expected, abs=1e-12)

    def test_limits(self):
        assert metrics.success_auc(torch.zeros(3)).item() == pytest.approx(0.025)
        assert metrics.success_auc(torch.ones(3)).item() == pytest.approx(1)
        assert metrics.success_rate(torch.zeros(3), at=0).item() == 1
        assert metrics.success_rate(torch.ones(3), at=1).item() == 1

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_results_are_float64_scalars(self, dtype):
        ciou = torch.tensor([0.25, 0.5, 0.75], dtype=dtype)
        for result in (metrics.success_rate(ciou), metrics.success_auc(ciou)):
            assert result.dtype == torch.float64
            assert result.shape == ()
        assert metrics.success_rate(ciou).item() == pytest.approx(2 / 3)


class TestPointingAccuracy:
    def test_counts_maps_that_point_at_a_weight_above_zero(self):
        maps = torch.zeros(4, 3, 5)
        maps[:, 1, 3] = 1
        gt_maps = torch.zeros(4, 3, 5)
        gt_maps[0, 1, 3] = 1
        gt_maps[1, 1, 3] = 0.5
        gt_maps[2] = 1 - gt_maps[0]
        assert metrics.pointing_accuracy(maps, gt_maps).item() == 0.5

    def test_first_of_several_peaks_counts(self):
        maps = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
        assert metrics.pointing_accuracy(maps, torch.tensor([[[0, 1], [0, 0]]])).item() == 1
        assert metrics.pointing_accuracy(maps, torch.tensor([[[0, 0], [1, 1]]])).item() == 0

    def test_batch_is_the_mean_of_its_samples(self, generator):
        maps, gt_maps = random_case(generator, n=12)
        hits = [
            metrics.pointing_accuracy(m[None], g[None]).item()
            for m, g in zip(maps, gt_maps, strict=True)
        ]
        assert set(hits) == {0.0, 1.0}
        accuracy = metrics.pointing_accuracy(maps, gt_maps).item()
        assert accuracy == pytest.approx(sum(hits) / 12)


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


class TestCIoUCeiling:
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.4, 0.5])
    def test_small_box_under_the_median_reaches_twice_its_share(self, share):
        gt = metrics.ground_truth_map([(0, 0, 1, share)], (20, 30))
        assert metrics.ciou_ceiling(gt[None]).item() == pytest.approx(2 * share, abs=1e-12)

    def test_large_box_is_missed_in_part(self):
        gt = metrics.ground_truth_map([(0, 0, 1, 0.8)], (20, 30))[None]
        assert metrics.ciou_ceiling(gt).item() == pytest.approx(0.5 / 0.8, abs=1e-12)

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
    def test_area_rule_has_no_ceiling(self, share):
        gt = metrics.ground_truth_map([(0, 0, 1, share)], (20, 30), consensus=2)[None]
        assert metrics.ciou_ceiling(gt, "area").item() == 1

    @pytest.mark.parametrize("inclusive", [True, False])
    @pytest.mark.parametrize("threshold", ["half", "area", 0.75, 0.2])
    @pytest.mark.parametrize("size", [(1, 6), (2, 3)])
    def test_is_the_best_of_all_rankings(self, generator, size, threshold, inclusive):
        rankings = torch.tensor(list(itertools.permutations(range(6))))
        maps = rankings.view(-1, *size).float()
        levels = torch.tensor([0.0, 0.0, 0.3, 0.5, 1.0])
        for _ in range(10):
            gt = levels[torch.randint(5, (6,), generator=generator)].view(1, *size)
            gt_maps = gt.expand(len(maps), *size)
            reached = metrics.consensus_iou(maps, gt_maps, threshold, inclusive=inclusive).max()
            ceiling = metrics.ciou_ceiling(gt, threshold, inclusive=inclusive)
            torch.testing.assert_close(ceiling[0], reached, atol=1e-7, rtol=0)

    @pytest.mark.parametrize("inclusive", [True, False])
    @pytest.mark.parametrize("threshold", RULES)
    def test_bounds_random_maps_and_is_reached_by_the_oracle(self, generator, threshold, inclusive):
        maps, gt_maps = random_case(generator, n=40, levels=(0.0, 0.0, 0.0, 0.5, 1.0))
        gt_maps[0], gt_maps[1] = 0, 1
        ceiling = metrics.ciou_ceiling(gt_maps, threshold, inclusive=inclusive)
        reached = metrics.consensus_iou(maps, gt_maps, threshold, inclusive=inclusive)
        assert (reached <= ceiling + 1e-12).all()
        tie_breaker = torch.arange(9 * 14).view(9, 14) / 1000
        oracle = gt_maps + tie_breaker.sub(tie_breaker.mean())
        best = metrics.consensus_iou(oracle, gt_maps, threshold, inclusive=inclusive)
        torch.testing.assert_close(best, ceiling, atol=1e-12, rtol=0)

    def test_quarter_of_the_image_is_where_success_starts(self):
        gt_maps = torch.stack(
            [metrics.ground_truth_map([(0, 0, 1, i / 20)], 20) for i in range(21)]
        )
        ceiling = metrics.ciou_ceiling(gt_maps)
        assert (ceiling >= 0.5).tolist() == [i >= 5 for i in range(21)]
        assert metrics.success_rate(ceiling).item() == pytest.approx(16 / 21)

    def test_batch_equals_samples_one_by_one(self, generator):
        _, gt_maps = random_case(generator)
        one_by_one = torch.cat([metrics.ciou_ceiling(gt[None]) for gt in gt_maps])
        assert torch.equal(metrics.ciou_ceiling(gt_maps), one_by_one)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
    def test_dtype_of_the_ground_truth(self, generator, dtype):
        _, gt_maps = random_case(generator, levels=(0.0, 1.0))
        expected = metrics.ciou_ceiling(gt_maps)
        assert torch.equal(metrics.ciou_ceiling(gt_maps.to(dtype)), expected)


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
            np.testing.assert_array_equal(metrics.ground_truth_map(boxes, 224).numpy(), expected)

    @pytest.mark.parametrize("wild", [-2.88e16, 2.88e16, float("inf"), -float("inf")])
    def test_wildly_wrong_coordinates_are_clipped(self, wild):
        box = [0.25, wild, 0.75, 1.0] if wild < 0 else [0.25, 0.0, 0.75, wild]
        assert torch.equal(metrics.ground_truth_map([box], 8), box_map(8, 8, (2, 0, 6, 8)))

    @pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4)), torch.zeros(0, 4)])
    def test_no_boxes_give_zeros(self, empty):
        assert torch.equal(metrics.ground_truth_map(empty, (3, 5)), torch.zeros(3, 5))

    def test_box_without_extent_covers_nothing(self):
        boxes = [(0.5, 0.2, 0.5, 0.9), (0.9, 0.1, 0.2, 0.8)]
        assert metrics.ground_truth_map(boxes, 10).sum().item() == 0

    def test_whole_image(self):
        assert torch.equal(metrics.ground_truth_map([(0, 0, 1, 1)], (3, 5)), torch.ones(3, 5))

    def test_kind_of_container_does_not_matter(self):
        boxes = [[0.1, 0.2, 0.7, 0.9], [0.0, 0.3, 0.5, 0.6]]
        expected = metrics.ground_truth_map(boxes, 32)
        array = np.array(boxes)
        array.flags.writeable = False
        for same in (tuple(map(tuple, boxes)), array, torch.tensor(boxes, dtype=torch.float64)):
            assert torch.equal(metrics.ground_truth_map(same, 32), expected)


def slow_recall(similarity, labels, k, exclude_self):
    hits = 0
    for query, row in enumerate(similarity.tolist()):
        gallery = [i for i in range(len(row)) if not (exclude_self and i == query)]
        ranked = sorted(gallery, key=lambda i: (-row[i], i))[:k]
        if labels is None:
            hits += query in ranked
        else:
            hits += any(labels[i] == labels[query] for i in ranked)
    return hits / len(similarity)


class TestRecallAtK:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize(
        ("classes", "exclude_self"), [(None, False), (4, False), (4, True), (30, True)]
    )
    def test_agrees_with_sorting(self, generator, classes, exclude_self, ties):
        n = 23
        similarity = torch.randn(n, n, generator=generator)
        if ties:
            similarity = similarity.round()
        labels = None if classes is None else torch.randint(classes, (n,), generator=generator)
        recall = metrics.recall_at_k(
            similarity, labels, (1, 2, 5, 22, 23), exclude_self=exclude_self
        )
        expected = {
            k: slow_recall(similarity, None if labels is None else labels.tolist(), k, exclude_self)
            for k in (1, 2, 5, 22, 23)
        }
        assert {k: value.item() for k, value in recall.items()} == pytest.approx(expected)

    def test_perfect_model(self):
        recall = metrics.recall_at_k(torch.eye(12))
        assert {k: value.item() for k, value in recall.items()} == {1: 1, 5: 1, 10: 1}

    def test_collapsed_model_is_at_chance(self):
        recall = metrics.recall_at_k(torch.zeros(20, 20))
        values = {k: value.item() for k, value in recall.items()}
        assert values == pytest.approx({1: 0.05, 5: 0.25, 10: 0.5})

    def test_directions_differ(self):
        similarity = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        assert metrics.recall_at_k(similarity, k=[1])[1].item() == 0.5
        assert metrics.recall_at_k(similarity.T, k=[1])[1].item() == 1

    def test_own_pair_is_left_out(self):
        similarity = torch.tensor([[9.0, 5.0, 1.0], [1.0, 9.0, 5.0], [5.0, 1.0, 9.0]])
        labels = torch.tensor([0, 0, 1])
        assert metrics.recall_at_k(similarity, labels, [1])[1].item() == 1
        left = metrics.recall_at_k(similarity, labels, [1, 2, 50], exclude_self=True)
        assert left[1].item() == pytest.approx(1 / 3)
        assert left[2].item() == pytest.approx(2 / 3)
        assert left[50].item() == pytest.approx(2 / 3)
        shifted = metrics.recall_at_k(similarity - 99, labels, [1, 2], exclude_self=True)
        assert shifted == {1: left[1], 2: left[2]}

    def test_k_beyond_the_gallery_is_the_whole_gallery(self):
        assert metrics.recall_at_k(-torch.eye(3), k=[7])[7].item() == 1

    def test_single_pair(self):
        assert metrics.recall_at_k(torch.zeros(1, 1), k=[1])[1].item() == 1
        alone = metrics.recall_at_k(torch.zeros(1, 1), torch.zeros(1).int(), [1], exclude_self=True)
        assert alone[1].item() == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype(self, generator, dtype):
        similarity = torch.randn(16, 16, generator=generator).to(dtype)
        recall = metrics.recall_at_k(similarity, k=[3])[3]
        assert recall.item() == metrics.recall_at_k(similarity.float(), k=[3])[3].item()
        assert recall.dtype == torch.float64

    @settings(deadline=None, max_examples=50)
    @given(seed=st.integers(0, 2**32 - 1), exclude_self=st.booleans())
    def test_joint_permutation_and_monotone_transform(self, seed, exclude_self):
        generator = torch.Generator().manual_seed(seed)
        similarity = torch.randn(9, 9, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (9,), generator=generator)
        order = torch.randperm(9, generator=generator)

        def recall(scores, classes):
            found = metrics.recall_at_k(scores, classes, (1, 3), exclude_self=exclude_self)
            return [value.item() for value in found.values()]

        expected = recall(similarity, labels)
        assert recall(similarity[order][:, order], labels[order]) == pytest.approx(expected)
        assert recall(similarity.exp(), labels) == expected

    def test_leaves_the_similarity_alone(self, generator):
        similarity = torch.randn(5, 5, generator=generator)
        before = similarity.clone()
        metrics.recall_at_k(similarity, torch.zeros(5).int(), exclude_self=True)
        assert torch.equal(similarity, before)


MAPS = torch.zeros(2, 4, 4)
BROKEN = torch.full((2, 4, 4), float("nan"))
SIMILARITY = torch.eye(3)
LABELS = torch.zeros(3, dtype=torch.int64)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (
                lambda: metrics.upsample(MAPS[0], 8),
                ValueError,
                r"maps must have shape \(n, height, width\), got \(4, 4\)",
            ),
            (
                lambda: metrics.upsample(MAPS[:, :0], 8),
                ValueError,
                r"maps must have shape \(n, height, width\), got \(2, 0, 4\)",
            ),
            (
                lambda: metrics.upsample(MAPS.numpy(), 8),
                TypeError,
                "maps must be a floating-point tensor, got ndarray",
            ),
            (
                lambda: metrics.upsample(MAPS.int(), 8),
                TypeError,
                r"maps must be a floating-point tensor, got dtype torch\.int32",
            ),
            (
                lambda: metrics.upsample(MAPS, 8, "area"),
                ValueError,
                "mode must be 'bilinear', 'bicubic' or 'nearest', got 'area'",
            ),
            *[
                (
                    lambda size=size: metrics.upsample(MAPS, size),
                    ValueError,
                    "size must be a positive integer or a pair of them, got ",
                )
                for size in (0, -3, True, 2.0, (4,), (4, 4, 4), (4, 0), (4, 2.5), "44", None)
            ],
            (
                lambda: metrics.consensus_iou(MAPS, MAPS[:, :2]),
                ValueError,
                r"maps and gt_maps must have the same shape, got \(2, 4, 4\) and \(2, 2, 4\)"
                "; resize maps with upsample first",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.to("meta")),
                ValueError,
                "maps and gt_maps must be on the same device, got cpu and meta",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.numpy()),
                TypeError,
                "gt_maps must be a real or boolean tensor, got ndarray",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.to(torch.complex64)),
                TypeError,
                r"gt_maps must be a real or boolean tensor, got dtype torch\.complex64",
            ),
            (
                lambda: metrics.consensus_iou(BROKEN, MAPS),
                ValueError,
                "maps must not have NaN, got NaN in 2 of 2 maps",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, 255 * torch.ones(2, 4, 4).byte()),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from 255 to 255",
            ),
            (
                lambda: metrics.ciou_ceiling(BROKEN),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from nan to nan",
            ),
            (
                lambda: metrics.ciou_ceiling(MAPS - 0.5),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from -0\.5 to -0\.5",
            ),
            *[
                (
                    lambda threshold=threshold: metrics.consensus_iou(MAPS, MAPS, threshold),
                    ValueError,
                    "threshold must be 'half', 'area' or a number strictly between 0 and 1, got ",
                )
                for threshold in ("median", 0.0, 1.0, 1, 75, True, float("nan"), None)
            ],
            (
                lambda: metrics.ciou_ceiling(MAPS, "full"),
                ValueError,
                "threshold must be 'half', 'area' or a number .* got 'full'",
            ),
            (
                lambda: metrics.pointing_accuracy(MAPS[:0], MAPS[:0]),
                ValueError,
                r"maps must hold at least one map, got shape \(0, 4, 4\)",
            ),
            (
                lambda: metrics.pointing_accuracy(BROKEN, MAPS),
                ValueError,
                "maps must not have NaN, got NaN in 2 of 2 maps",
            ),
            (
                lambda: metrics.success_rate([0.5]),
                TypeError,
                "ciou must be a floating-point tensor, got list",
            ),
            (
                lambda: metrics.success_rate(torch.zeros(0)),
                ValueError,
                r"ciou must have shape \(n,\) with n of at least 1, got \(0,\)",
            ),
            (
                lambda: metrics.success_auc(torch.tensor(0.5)),
                ValueError,
                r"ciou must have shape \(n,\) with n of at least 1, got \(\)",
            ),
            (
                lambda: metrics.success_auc(torch.tensor([20.0, 50.0])),
                ValueError,
                r"ciou must lie in \[0, 1\], got values from 20 to 50",
            ),
            (
                lambda: metrics.success_rate(torch.tensor([0.5, float("nan")])),
                ValueError,
                r"ciou must lie in \[0, 1\], got values from nan to nan",
            ),
            (
                lambda: metrics.success_rate(torch.tensor([0.5]), at=50),
                ValueError,
                r"at must lie in \[0, 1\], got 50",
            ),
            (
                lambda: metrics.centre_disc((0, 4)),
                ValueError,
                r"size must be a positive integer or a pair of them, got \(0, 4\)",
            ),
            (
                lambda: metrics.ground_truth_map([0.1, 0.2, 0.3, 0.4], 8),
                ValueError,
                r"boxes must have shape \(k, 4\), got \(4,\)",
            ),
            (
                lambda: metrics.ground_truth_map([(0.1, 0.2, 0.3)], 8),
                ValueError,
                r"boxes must have shape \(k, 4\), got \(1, 3\)",
            ),
            *[
                (
                    lambda boxes=boxes: metrics.ground_truth_map(boxes, 8),
                    ValueError,
                    r"boxes must be numbers of shape \(k, 4\), got ",
                )
                for boxes in ([(0, 0, 1, 1), (0, 0, 1)], [("a", "b", "c", "d")], None, "box")
            ],
            (
                lambda: metrics.ground_truth_map([(0, 0, 1, float("nan"))], 8),
                ValueError,
                "boxes must not have NaN",
            ),
            (
                lambda: metrics.ground_truth_map([(60, 50, 160, 150)], 224),
                ValueError,
                r"boxes must be shares of the image in \[0, 1\], got only coordinates above 1",
            ),
            (
                lambda: metrics.ground_truth_map([], 8, consensus=0),
                ValueError,
                "consensus must be at least 1, got 0",
            ),
            (
                lambda: metrics.ground_truth_map([], 8, consensus=1.5),
                TypeError,
                r"consensus must be an integer, got 1\.5",
            ),
            (
                lambda: metrics.recall_at_k(torch.zeros(2, 3)),
                ValueError,
                r"similarity must have shape \(n, n\), got \(2, 3\)",
            ),
            (
                lambda: metrics.recall_at_k(torch.zeros(0, 0)),
                ValueError,
                r"similarity must have shape \(n, n\), got \(0, 0\)",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY.int()),
                TypeError,
                r"similarity must be a floating-point tensor, got dtype torch\.int32",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY.log()),
                ValueError,
                "similarity must be finite, got NaN or infinite values",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, exclude_self=True),
                ValueError,
                "exclude_self=True needs labels",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, LABELS[:2]),
                ValueError,
                r"labels must have one entry for each row of similarity, "
                r"got shapes \(2,\) and \(3, 3\)",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, LABELS.float()),
                TypeError,
                r"labels must be an integer tensor, got dtype torch\.float32",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, [0, 0, 0]),
                TypeError,
                "labels must be an integer tensor, got list",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=1),
                TypeError,
                "k must be a sequence of integers, got 1",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=(1, 2.0)),
                TypeError,
                r"k must be a sequence of integers, got \[1, 2\.0\]",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=(0, 1)),
                ValueError,
                r"k must hold integers of at least 1, got \[0, 1\]",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=()),
                ValueError,
                r"k must hold integers of at least 1, got \[\]",
            ),
        ],
    )
    def test_names_the_argument_and_what_came(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("threshold", RULES)
def test_cuda_gives_the_same_numbers_as_the_cpu(generator, threshold):
    maps, gt_maps = random_case(generator, n=20)
    similarity = torch.randn(20, 20, generator=generator).round()
    labels = torch.randint(5, (20,), generator=generator)

    def everything(device):
        m, g, s = maps.to(device), gt_maps.to(device), similarity.to(device)
        ciou = metrics.consensus_iou(m, g, threshold)
        results = [
            ciou,
            metrics.ciou_ceiling(g, threshold),
            metrics.success_rate(ciou),
            metrics.success_auc(ciou),
            metrics.pointing_accuracy(m, g),
            metrics.ground_truth_map(torch.tensor([[0.1, 0.2, 0.7, 0.9]], device=device), 32),
            *metrics.recall_at_k(s).values(),
            *metrics.recall_at_k(s, labels.to(device), exclude_self=True).values(),
        ]
        assert all(result.device.type == device for result in results)
        return [result.cpu() for result in results]

    for on_gpu, on_cpu in zip(everything("cuda"), everything("cpu"), strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-12, rtol=0)
