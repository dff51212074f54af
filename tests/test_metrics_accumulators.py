import math
import pickle
import subprocess
import sys

import pytest
import torch
from metric_processes import samples, shared_metric
from processes import Cluster
from torchmetrics import MetricCollection

from avcontrast import metrics
from avcontrast.metrics import PROTOCOLS, _numerics, accumulators, protocols
from avcontrast.metrics.accumulators import LocalizationMetric, MaskMetric, SilenceMetric

METRICS = {
    "LocalizationMetric": LocalizationMetric,
    "SilenceMetric": SilenceMetric,
    "MaskMetric": MaskMetric,
}


def fill(metric, arguments, size):
    for some in zip(*(torch.split(part, size) for part in arguments)):
        metric.update(*some)
    return metric


def assert_same(found, expected, exact=()):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        slack = 0 if name.endswith(exact) else 1e-13
        torch.testing.assert_close(found[name], value, atol=slack, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    "protocol", ["ezvsl-test", "lvs", PROTOCOLS["lvs"]._replace(threshold=0.8)]
)
@pytest.mark.parametrize("size", [1, 5, 23])
def test_localization_is_that_of_the_functions(protocol, size):
    maps, gt_maps = samples("LocalizationMetric")
    found = fill(LocalizationMetric(protocol), (maps, gt_maps), size).compute()
    rules = protocol if not isinstance(protocol, str) else PROTOCOLS[protocol]
    settings = {"threshold": rules.threshold, "inclusive": rules.inclusive}
    heat = metrics.upsample(maps, 20, rules.mode, rules.align_corners)
    disc = metrics.centre_disc(20).expand_as(gt_maps)
    ciou = {
        "model": metrics.consensus_iou(heat, gt_maps, **settings),
        "centre_disc": metrics.consensus_iou(disc, gt_maps, **settings),
        "ceiling": metrics.ciou_ceiling(gt_maps, **settings),
    }
    best = {"model": heat, "centre_disc": disc, "ceiling": gt_maps}
    expected = {}
    for name, values in ciou.items():
        expected[f"{name}_success"] = metrics.success_rate(values)
        expected[f"{name}_mean_ciou"] = values.mean()
        expected[f"{name}_auc"] = metrics.success_auc(values)
        expected[f"{name}_pointing"] = metrics.pointing_accuracy(best[name], gt_maps)
    assert_same(found, expected, ("_success", "_pointing"))
    assert found["ceiling_pointing"].item() == 17 / 23


@pytest.mark.parametrize("size", [1, 5, 23])
def test_silence_is_that_of_the_functions(size):
    maps, gt_maps, visible = samples("SilenceMetric")
    found = fill(SilenceMetric(), (maps, gt_maps, visible), size).compute()
    heat = metrics.upsample(maps, 20, "bicubic", align_corners=True)
    ciou = metrics.consensus_iou(heat, gt_maps)
    confidence = metrics.map_confidence(heat)
    subset = metrics.area_subset(gt_maps)
    assert set(subset.tolist()) == {0}
    none = torch.tensor(math.nan, dtype=torch.float64)
    expected = {
        "average_precision": metrics.average_precision(ciou, confidence, visible),
        "max_f1": metrics.max_f1(ciou, confidence, visible),
        "localization_accuracy": metrics.localization_accuracy(ciou, visible),
        "success": metrics.success_rate(ciou[visible]),
        "auc": metrics.success_auc(ciou[visible]),
        "small_success": metrics.success_rate(ciou[visible]),
        "medium_success": none,
        "large_success": none,
        "huge_success": none,
    }
    assert_same(found, expected, ("success", "accuracy"))


def test_silence_resizes_each_map_once(monkeypatch):
    resized = []

    def spy(maps, *settings):
        resized.append(len(maps))
        return upsample(maps, *settings)

    upsample = metrics.upsample
    for module in (accumulators, protocols):
        monkeypatch.setattr(module, "upsample", spy)
    SilenceMetric().update(*samples("SilenceMetric"))
    assert resized == [23]


def test_success_of_each_size():
    gt_maps = torch.zeros(3, 40, 40)
    gt_maps[0, :20, :40] = 1
    gt_maps[1, :33, :32] = 1
    gt_maps[2, :32, :32] = 1
    maps = torch.cat([gt_maps[:2], 1 - gt_maps[2:]])
    metric = SilenceMetric(PROTOCOLS["slavc-test-absolute"]._replace(mode="nearest"))
    metric.update(maps, gt_maps, torch.tensor([True, True, True]))
    found = metric.compute()
    assert found["small_success"].item() == 1
    assert found["medium_success"].item() == 0.5
    assert found["large_success"].isnan()


@pytest.mark.parametrize("size", [1, 5, 23])
@pytest.mark.parametrize("settings", [{}, {"threshold": "half", "inclusive": True}])
def test_masks_are_those_of_the_functions(size, settings):
    maps, gt_masks = samples("MaskMetric")
    found = fill(MaskMetric(**settings), (maps, gt_masks), size).compute()
    expected = {
        "miou": metrics.mask_iou(maps, gt_masks, **settings).mean(),
        "f_score": metrics.mask_f_score(maps, gt_masks),
    }
    assert_same(found, expected)


def test_weight_of_the_recall():
    maps, gt_masks = samples("MaskMetric")
    found = fill(MaskMetric(beta_squared=1.0), (maps, gt_masks), 7).compute()["f_score"]
    torch.testing.assert_close(found, metrics.mask_f_score(maps, gt_masks, 1.0))


def test_score_of_empty_masks_alone_is_undefined():
    metric = MaskMetric()
    metric.update(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))
    found = metric.compute()
    assert found["miou"].item() == 1
    assert found["f_score"].isnan()


@pytest.mark.parametrize("name", METRICS)
class TestInterface:
    def test_reset(self, name):
        metric = fill(METRICS[name](), samples(name), 9)
        before = metric.compute()
        metric.reset()
        again = fill(metric, samples(name), 9).compute()
        assert_same(again, before)

    def test_compute_does_not_end_it(self, name):
        arguments = samples(name)
        metric = METRICS[name]()
        fill(metric, [part[:10] for part in arguments], 10)
        metric.compute()
        found = fill(metric, [part[10:] for part in arguments], 10).compute()
        assert_same(found, fill(METRICS[name](), arguments, 23).compute())

    def test_forward_returns_the_figures_of_the_batch(self, name):
        arguments = samples(name)
        metric = METRICS[name]()
        metric(*[part[:12] for part in arguments])
        last = metric(*[part[12:] for part in arguments])
        alone = fill(METRICS[name](), [part[12:] for part in arguments], 23)
        assert_same(last, alone.compute())
        assert_same(metric.compute(), fill(METRICS[name](), arguments, 23).compute())

    def test_in_a_collection(self, name):
        collection = MetricCollection({"test": METRICS[name]()})
        collection.update(*samples(name))
        found = {name.removeprefix("test_"): value for name, value in collection.compute().items()}
        assert_same(found, fill(METRICS[name](), samples(name), 23).compute())

    def test_pickles_with_what_it_has_seen(self, name):
        metric = fill(METRICS[name](), samples(name), 23)
        assert_same(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())

    def test_half_precision_of_the_model_does_not_reach_it(self, name):
        metric = fill(METRICS[name]().half(), samples(name), 5)
        assert_same(metric.compute(), fill(METRICS[name](), samples(name), 5).compute())

    @pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
    def test_no_samples(self, name):
        with pytest.raises(ValueError, match="compute needs at least one sample, got none"):
            METRICS[name]().compute()

    def test_chunks_do_not_show(self, name, monkeypatch):
        expected = fill(METRICS[name](), samples(name), 23).compute()
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 5 * 400)
        assert_same(fill(METRICS[name](), samples(name), 23).compute(), expected)


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(2)
    yield cluster
    cluster.close()


@pytest.mark.dist
@pytest.mark.parametrize("sizes", [(12, 11), (4, 19), (23, 0), (0, 23)])
@pytest.mark.parametrize("name", METRICS)
def test_processes_give_the_figures_of_the_whole(cluster, name, sizes):
    """Exactly where counts are added up, and to the rounding of a sum elsewhere."""
    expected = fill(METRICS[name](), samples(name), 23).compute()
    for results in cluster.run(shared_metric, name, sizes):
        assert_same(results[0], expected, ("success", "_pointing", "_auc", "_f1", "_precision"))


@pytest.mark.dist
@pytest.mark.parametrize("name", METRICS)
def test_processes_go_on_after_compute(cluster, name):
    metric = METRICS[name]()
    expected = [fill(metric, samples(name), 23).compute() for _ in range(2)]
    for results in cluster.run(shared_metric, name, (10, 13), rounds=2):
        for found, whole in zip(results, expected):
            assert_same(found, whole)


@pytest.mark.dist
def test_the_comparison_of_processes_can_fail(cluster):
    expected = fill(LocalizationMetric(), samples("LocalizationMetric"), 23).compute()
    results = cluster.run(shared_metric, "LocalizationMetric", (10, 12))
    with pytest.raises(AssertionError):
        assert_same(results[0][0], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LocalizationMetric("vggss"), ValueError, "protocol must be .* got 'vggss'"),
        (lambda: SilenceMetric("vggss"), ValueError, "protocol must be .* got 'vggss'"),
        (lambda: MaskMetric("median"), ValueError, "threshold must be .* got 'median'"),
        (
            lambda: LocalizationMetric().update(torch.zeros(1, 4, 4), torch.zeros(2, 8, 8)),
            ValueError,
            "maps and gt_maps must hold the same number of samples",
        ),
        (
            lambda: SilenceMetric().update(
                torch.zeros(2, 4, 4), torch.zeros(2, 8, 8), torch.zeros(2)
            ),
            TypeError,
            r"visible must be a boolean tensor, got dtype torch\.float32",
        ),
        (
            lambda: MaskMetric().update(torch.full((1, 4, 4), 3.0), torch.zeros(1, 4, 4)),
            ValueError,
            r"maps must lie in \[0, 1\], got values from 3 to 3",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_metrics_do_not_import_torchmetrics():
    code = "import sys, avcontrast.metrics; print('torchmetrics' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"
    assert run_python(code.replace("metrics;", "metrics.accumulators;")).stdout.strip() == "True"


def test_says_what_to_install_without_torchmetrics():
    code = "import sys; sys.modules['torchmetrics'] = None; import avcontrast.metrics.accumulators"
    run = run_python(code)
    assert run.returncode != 0
    assert run.stderr.strip().endswith(
        "ModuleNotFoundError: avcontrast.metrics.accumulators needs torchmetrics: "
        'pip install "avcontrast[metrics]"'
    )
