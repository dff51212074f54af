import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import BOXES, RULES, box_map, bump, random_case, reference_ciou

from avcontrast import metrics
from avcontrast.metrics import _numerics, _scoring


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "localization_reference.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


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

    def test_published_pixel_counts_on_a_smooth_map(self):
        """25,089 predicted pixels hold weights of 9,971 of 10,050 and 11,547 false positives."""
        everywhere = torch.ones(1, 224, 224)
        assert metrics.consensus_iou(bump()[None], everywhere).item() == 25_089 / 224**2
        gt = metrics.ground_truth_map(BOXES / 224, 224, consensus=2)[None]
        ciou = metrics.consensus_iou(bump()[None], gt)
        assert ciou.item() == pytest.approx(9_971 / (10_050 + 11_547), abs=1e-15)
        background = metrics.consensus_iou(bump()[None], (gt == 0).float())
        assert background.item() == pytest.approx(
            11_547 / (224**2 - 13_700 + 25_089 - 11_547), abs=1e-15
        )

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
            (0.999, "maximum", 1),
            (0.75, "maximum", 24),
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

    @pytest.mark.parametrize("inclusive", [True, False, "maximum"])
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
        for value, expected in ((0.0, 0.25), (0.7, 0.25), (-0.7, 0)):
            flat = torch.full((1, 4, 8), value)
            for threshold in ("half", 0.75, "area"):
                ciou = metrics.consensus_iou(flat, gt, threshold, inclusive="maximum")
                assert ciou.item() == expected

    def test_a_fixed_threshold_that_is_the_maximum(self):
        gt = torch.ones(1, 2, 2)
        maps = torch.tensor([[[0.5, 0.5], [0.1, 0.5]]])
        assert metrics.consensus_iou(maps, gt, "fixed", inclusive="maximum").item() == 0.75
        assert metrics.consensus_iou(maps - 0.1, gt, "fixed", inclusive="maximum").item() == 0
        maps[0, 0, 0] = 0.6
        assert metrics.consensus_iou(maps, gt, "fixed", inclusive="maximum").item() == 0.25

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
            monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", values)
            assert torch.equal(metrics.consensus_iou(maps, gt_maps, threshold), whole)
            assert torch.equal(metrics.ciou_ceiling(gt_maps, threshold), ceiling)

    @pytest.mark.parametrize("threshold", RULES)
    def test_an_expanded_map_is_one_map(self, generator, monkeypatch, threshold):
        maps, gt_maps = random_case(generator, n=7)
        maps = maps[:1].expand_as(gt_maps)
        copies = metrics.consensus_iou(maps.clone(), gt_maps, threshold)
        ranked = []

        def spy(values, position):
            ranked.append(len(values))
            return exact(values, position)

        exact = _scoring.order_statistic
        monkeypatch.setattr(_scoring, "order_statistic", spy)
        assert torch.equal(metrics.consensus_iou(maps, gt_maps, threshold), copies)
        assert ranked == ([] if threshold == "fixed" else [1])
        hits = metrics.pointing_accuracy(maps, gt_maps)
        assert hits == metrics.pointing_accuracy(maps.clone(), gt_maps)

    def test_nan_is_counted_in_the_whole_batch(self, generator, monkeypatch):
        maps, gt_maps = random_case(generator, n=7)
        maps[1, 2, 3] = maps[5, 0, 0] = float("nan")
        maps[2, 0, 0], maps[3, 0, 0] = float("inf"), -float("inf")
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 1)
        for metric in (metrics.consensus_iou, metrics.pointing_accuracy):
            with pytest.raises(ValueError, match="got NaN in 2 of 7 maps"):
                metric(maps, gt_maps)
        with pytest.raises(ValueError, match="got NaN in 2 of 7 maps"):
            metrics.map_confidence(maps)

    def test_chunks_suit_the_device(self):
        """The order statistic of 20 maps takes 12 MB, that of 334 takes 200 MB."""
        pixels = 224 * 224
        assert _numerics.rows_at_once(pixels, torch.device("cpu")) == 20
        assert _numerics.rows_at_once(pixels, torch.device("cuda")) == 334
        assert _numerics.rows_at_once(2**30, torch.device("cpu")) == 1

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

    @pytest.mark.parametrize("inclusive", [True, False, "maximum"])
    @pytest.mark.parametrize("threshold", ["half", "area", 0.75, 0.2, 0.9])
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
            [metrics.ground_truth_map([(0, 0, 1, i / 20)], 20, clip=True) for i in range(21)]
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
