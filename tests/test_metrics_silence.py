import pytest
import torch

from avcontrast import metrics
from avcontrast.metrics import _numerics

# Eight samples worked out with the rules of SLAVC's evaluator; three have nothing to see.
CIOU = torch.tensor([0.7, 0.2, 0, 0.55, 0, 0.5, 0.9, 0], dtype=torch.float64)
CONFIDENCE = torch.tensor([0.9, 0.8, 0.85, 0.6, 0.4, 0.3, 0.7, 0.2], dtype=torch.float64)
VISIBLE = torch.tensor([1, 1, 0, 2, 0, 1, 1, 0]) > 0


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def loop_precision_recall(ciou, confidence, visible, level, at):
    tp = fp = fn = 0
    for score, sure, seen in zip(ciou, confidence, visible):
        if not seen:
            fp += sure >= level
        elif sure < level:
            fn += 1
        elif score >= at:
            tp += 1
        else:
            fp += 1
    return tp / (tp + fp) if tp + fp else 1.0, tp / (tp + fn) if tp + fn else 1.0


def loop_ap(ciou, confidence, visible, at, thresholds):
    stride = max(1, len(ciou) // thresholds)
    levels = sorted(confidence)[:-1][::-stride]
    points = [loop_precision_recall(ciou, confidence, visible, level, at) for level in levels]
    best = [max(p for p, _ in points[i:]) for i in range(len(points))]
    return sum(best[i] * (points[i + 1][1] - points[i][1]) for i in range(len(points) - 1))


def loop_f1(ciou, confidence, visible, at, thresholds):
    stride = max(1, len(ciou) // thresholds)
    found = []
    for level in sorted(confidence)[::stride]:
        p, r = loop_precision_recall(ciou, confidence, visible, level, at)
        found.append(2 * p * r / (p + r) if p + r else 0.0)
    return max(found)


def random_samples(generator, n, share=0.6, ties=False):
    ciou = torch.rand(n, generator=generator, dtype=torch.float64)
    confidence = torch.rand(n, generator=generator, dtype=torch.float64)
    if ties:
        ciou, confidence = ciou.mul(4).round() / 4, confidence.mul(6).round() / 6
    return ciou, confidence, torch.rand(n, generator=generator) < share


class TestPublishedNumbers:
    def test_average_precision(self):
        ap = metrics.average_precision(CIOU, CONFIDENCE, VISIBLE)
        assert f"{ap.item():.10f}" == "0.4728571429"

    def test_localization_accuracy_is_strict(self):
        assert metrics.localization_accuracy(CIOU, VISIBLE).item() == 0.6
        assert metrics.success_rate(CIOU[VISIBLE]).item() == 0.8

    def test_f1(self):
        assert f"{metrics.f1_at(CIOU, CONFIDENCE, VISIBLE, 0.5).item():.4f}" == "0.6667"
        assert f"{metrics.max_f1(CIOU, CONFIDENCE, VISIBLE).item():.3f}" == "0.727"

    def test_auc_of_what_is_visible(self):
        assert metrics.success_auc(CIOU[VISIBLE]).item() == pytest.approx(0.585, abs=1e-12)


class TestDetections:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("n", [1, 2, 3, 9, 30, 399, 450, 1001])
    def test_agree_with_loops_over_the_definition(self, generator, n, ties):
        samples = random_samples(generator, n, ties=ties)
        lists = [values.tolist() for values in samples]
        for at in (0.5, 0.75):
            for thresholds in (10, 200):
                ap = metrics.average_precision(*samples, at, thresholds)
                assert ap.item() == pytest.approx(loop_ap(*lists, at, thresholds), abs=1e-12)
                f1 = metrics.max_f1(*samples, at, thresholds)
                assert f1.item() == pytest.approx(loop_f1(*lists, at, thresholds), abs=1e-12)
            p, r = loop_precision_recall(*lists, 0.37, at)
            f1 = metrics.f1_at(*samples, 0.37, at)
            assert f1.item() == pytest.approx(2 * p * r / (p + r) if p + r else 0, abs=1e-12)

    def test_all_thresholds(self, generator):
        samples = random_samples(generator, 500)
        lists = [values.tolist() for values in samples]
        ap = metrics.average_precision(*samples, thresholds=None)
        assert ap.item() == pytest.approx(loop_ap(*lists, 0.5, 500), abs=1e-12)
        assert metrics.max_f1(*samples, thresholds=None) >= metrics.max_f1(*samples)

    def test_order_of_the_samples_does_not_matter(self, generator):
        samples = random_samples(generator, 300, ties=True)
        order = torch.randperm(300, generator=generator)
        shuffled = [values[order] for values in samples]
        for function in (metrics.average_precision, metrics.max_f1, metrics.f1_at):
            assert torch.equal(function(*samples), function(*shuffled))

    def test_nothing_visible(self):
        nothing = torch.zeros(4, dtype=torch.bool)
        ciou, confidence = torch.ones(4), torch.arange(4.0)
        assert metrics.f1_at(ciou, confidence, nothing).item() == 0
        assert metrics.average_precision(ciou, confidence, nothing).item() == 0

    def test_no_detection_has_perfect_precision(self):
        visible = torch.tensor([True, False])
        scores = torch.ones(2), torch.zeros(2), visible
        assert metrics.f1_at(*scores, level=2.0).item() == 0
        assert metrics.f1_at(*[part[1:] for part in scores], level=2.0).item() == 1

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_results_are_float64_scalars(self, dtype):
        samples = CIOU.to(dtype), CONFIDENCE.to(dtype), VISIBLE
        for function in (metrics.average_precision, metrics.max_f1, metrics.f1_at):
            result = function(*samples)
            assert result.dtype == torch.float64
            assert result.shape == ()


class TestMapConfidence:
    @pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (5, 7), (16, 16)])
    @pytest.mark.parametrize("ties", [False, True])
    def test_mean_of_the_top_quarter(self, generator, size, ties):
        maps = torch.randn(6, *size, generator=generator, dtype=torch.float64)
        maps = maps.round() if ties else maps
        for flat, found in zip(maps.flatten(1).tolist(), metrics.map_confidence(maps).tolist()):
            top = sorted(flat)[-len(flat) // 4 :]
            assert found == pytest.approx(sum(top) / len(top), abs=1e-12)

    def test_chunks_do_not_show(self, generator, monkeypatch):
        maps = torch.randn(6, 5, 7, generator=generator)
        expected = metrics.map_confidence(maps)
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 80)
        assert torch.equal(metrics.map_confidence(maps), expected)

    def test_infinite_values_that_do_not_count_are_harmless(self):
        maps = torch.tensor([[[float("-inf"), 1.0], [2.0, 3.0]]])
        assert metrics.map_confidence(maps).item() == 3


class TestAreaSubset:
    @pytest.mark.parametrize(
        ("area", "subset"),
        [(0, 0), (1023, 0), (1024, 1), (9215, 1), (9216, 2), (20735, 2), (20736, 3), (50176, 3)],
    )
    def test_bounds(self, area, subset):
        gt = torch.zeros(224 * 224)
        gt[:area] = 1
        assert metrics.area_subset(gt.view(1, 224, 224)).tolist() == [subset]

    def test_area_is_the_sum_of_the_weights(self):
        gt = torch.zeros(1, 224, 224)
        gt[0, :40, :40] = 0.5
        assert metrics.area_subset(gt).tolist() == [0]
        assert metrics.area_subset(gt > 0).tolist() == [1]


@pytest.mark.parametrize("function", [metrics.average_precision, metrics.max_f1, metrics.f1_at])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ciou": CIOU * 100}, ValueError, r"ciou must lie in \[0, 1\], got values from 0 to 90"),
        ({"ciou": CIOU[:0]}, ValueError, r"ciou must have shape \(n,\) with n of at least 1"),
        (
            {"confidence": CONFIDENCE[:3]},
            ValueError,
            r"confidence must have the shape of ciou, got \(3,\) and \(8,\)",
        ),
        (
            {"confidence": CONFIDENCE.log() - float("inf") + float("inf")},
            ValueError,
            "confidence must not have NaN, got 8 of them",
        ),
        (
            {"confidence": [0.5] * 8},
            TypeError,
            "confidence must be a floating-point tensor, got list",
        ),
        (
            {"visible": VISIBLE.long()},
            TypeError,
            r"visible must be a boolean tensor, got dtype torch\.int64",
        ),
        ({"visible": [True] * 8}, TypeError, "visible must be a boolean tensor, got list"),
        (
            {"visible": VISIBLE[:, None]},
            ValueError,
            r"visible must have the shape of ciou, got \(8, 1\) and \(8,\)",
        ),
        ({"at": 50}, ValueError, r"at must lie in \[0, 1\], got 50"),
    ],
)
def test_errors_name_the_argument_and_what_came(function, change, error, message):
    arguments = {"ciou": CIOU, "confidence": CONFIDENCE, "visible": VISIBLE, **change}
    with pytest.raises(error, match=message):
        function(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: metrics.average_precision(CIOU, CONFIDENCE, VISIBLE, thresholds=0),
            ValueError,
            "thresholds must be at least 1, got 0",
        ),
        (
            lambda: metrics.max_f1(CIOU, CONFIDENCE, VISIBLE, thresholds=0.5),
            TypeError,
            r"thresholds must be an integer, got 0\.5",
        ),
        (
            lambda: metrics.f1_at(CIOU, CONFIDENCE, VISIBLE, level="half"),
            TypeError,
            "level must be a number, got str",
        ),
        (
            lambda: metrics.f1_at(CIOU, CONFIDENCE, VISIBLE, level=float("nan")),
            ValueError,
            "level must be a number, got nan",
        ),
        (
            lambda: metrics.localization_accuracy(CIOU, ~VISIBLE & VISIBLE),
            ValueError,
            "visible must hold at least one True, got none among 8",
        ),
        (
            lambda: metrics.localization_accuracy(CIOU, VISIBLE, at=-1),
            ValueError,
            r"at must lie in \[0, 1\], got -1",
        ),
        (
            lambda: metrics.map_confidence(torch.full((2, 3, 3), float("nan"))),
            ValueError,
            "maps must not have NaN, got NaN in 2 of 2 maps",
        ),
        (
            lambda: metrics.map_confidence(torch.zeros(3, 3)),
            ValueError,
            r"maps must have shape \(n, height, width\), got \(3, 3\)",
        ),
        (
            lambda: metrics.area_subset(torch.full((1, 3, 3), 255)),
            ValueError,
            r"gt_maps must hold weights in \[0, 1\], got values from 255 to 255",
        ),
    ],
)
def test_other_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
