import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avcontrast import metrics
from avcontrast.metrics import PROTOCOLS, Protocol, _numerics

# The evaluators as released: (mode, align_corners, inclusive, threshold), then mode and
# align_corners of object maps, and what the maps hold.
PUBLISHED = {
    "ezvsl-test": ("bilinear", True, True, "half", "bilinear", True, "any"),
    "ezvsl-train": ("bicubic", False, True, "half", "bilinear", True, "any"),
    "fnac-test": ("bilinear", True, True, "half", "bilinear", True, "any"),
    "fnac-test2": ("bicubic", False, True, "half", "bilinear", True, "any"),
    "fnac-train": ("bicubic", False, True, "half", "bilinear", True, "any"),
    "slavc-test": ("bicubic", True, True, "half", "bicubic", True, "any"),
    "slavc-test-absolute": ("bicubic", True, True, "fixed", "bicubic", True, "cosine"),
    "slavc-train": ("bicubic", False, True, "half", "bicubic", True, "any"),
    "lvs": ("bilinear", False, "maximum", "half", "bilinear", False, "any"),
    "ssltie": ("bilinear", False, "maximum", "half", "bilinear", False, "any"),
    "alignment": ("bilinear", True, False, "half", "bilinear", True, "any"),
    "alignment-adaptive": ("bilinear", True, False, "area", "bilinear", True, "any"),
    "alignment-vggss": ("bilinear", False, False, "half", "bilinear", False, "any"),
    "alignment-vggss-adaptive": ("bilinear", False, False, "area", "bilinear", False, "any"),
}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def batch(generator):
    """Small maps, and boxes of all sizes, some with half weights; one of them is empty."""
    maps = torch.rand(12, 5, 6, generator=generator) * 1.6 - 0.7
    gt_maps = torch.zeros(12, 17, 22)
    for i, gt in enumerate(gt_maps[1:]):
        gt[i : i + 1 + i // 2, : 2 * i + 2] = 1 - 0.5 * (i % 3 == 0)
        gt[: i // 2, 3:7] = 1
    return maps, gt_maps


def loop_ciou(values, gt, rules):
    _, _, inclusive, threshold, *_ = rules
    foreground = sum(weight > 0 for weight in gt)
    index = len(values) - foreground if threshold == "area" and foreground else len(values) // 2
    cut = 0.5 if threshold == "fixed" else sorted(values)[index]
    negative = max(values) == min(values) < 0
    includes_maximum = inclusive == "maximum" and cut == max(values) and not negative
    hits = false_positives = 0.0
    for value, weight in zip(values, gt):
        if value > cut or (value == cut and (inclusive is True or includes_maximum)):
            hits += weight
            false_positives += weight == 0
    union = sum(gt) + false_positives
    return hits / union if union else 0.0


def loop_scores(maps, gt_maps, rules):
    mode, align_corners, *_ = rules
    resized = F.interpolate(
        maps[:, None], gt_maps.shape[1:], mode=mode, align_corners=align_corners
    )
    if rules[-1] == "cosine":
        resized = (resized + 1) / 2
    return torch.tensor(
        [
            loop_ciou(values.flatten().tolist(), gt.flatten().tolist(), rules)
            for values, gt in zip(resized, gt_maps)
        ],
        dtype=torch.float64,
    )


def test_table_is_that_of_the_released_code():
    assert {name: tuple(rules) for name, rules in PROTOCOLS.items()} == PUBLISHED


def test_table_in_the_text_is_the_one_in_the_code():
    rows = re.findall(
        r'^``"([\w-]+)"``(?: \(the default\))? +(\w+) +(True|False) +(\w+), (True|False) '
        r"+(True|False|maximum) +(\w+)$",
        metrics.__doc__,
        flags=re.MULTILINE,
    )
    words = {"True": True, "False": False, "maximum": "maximum"}
    written = {
        name: (mode, words[corners], words[inclusive], threshold, objects, words[aligned])
        for name, mode, corners, objects, aligned, inclusive, threshold in rows
    }
    assert written == {name: rules[:6] for name, rules in PUBLISHED.items()}


def test_table_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        PROTOCOLS["lvs"] = Protocol()
    with pytest.raises(AttributeError, match="can't set attribute"):
        PROTOCOLS["lvs"].mode = "nearest"


@pytest.mark.parametrize("name", PUBLISHED)
def test_scores_agree_with_a_loop_over_the_definition(batch, name):
    expected = loop_scores(*batch, PUBLISHED[name])
    ciou = metrics.localization_ciou(*batch, name)
    torch.testing.assert_close(ciou, expected, atol=1e-14, rtol=0)
    assert len(set(expected.tolist())) > 6


def test_protocols_that_differ_give_other_scores(batch):
    scores = {
        rules[:4]: tuple(metrics.localization_ciou(*batch, name).tolist())
        for name, rules in PROTOCOLS.items()
    }
    assert len(scores) == 9
    # LVS differs from SSL-Alignment on VGG-SS in maps with ties alone.
    assert len(set(scores.values())) == 8


def test_default_is_the_test_of_ezvsl(batch):
    expected = metrics.localization_ciou(*batch, "ezvsl-test")
    assert torch.equal(metrics.localization_ciou(*batch), expected)
    assert torch.equal(metrics.localization_scores(*batch).ciou, expected)


def test_own_protocol(batch):
    own = PROTOCOLS["lvs"]._replace(threshold=0.75)
    expected = metrics.consensus_iou(
        metrics.upsample(batch[0], (17, 22), align_corners=False), batch[1], 0.75, inclusive=False
    )
    assert torch.equal(metrics.localization_ciou(*batch, own), expected)


@pytest.mark.parametrize("name", ["ezvsl-test", "lvs", "slavc-test-absolute", "alignment-adaptive"])
def test_scores_are_those_of_the_functions(batch, name):
    maps, gt_maps = batch
    mode, align_corners, inclusive, threshold, *_ = PROTOCOLS[name]
    heat = metrics.upsample(maps, gt_maps.shape[1:], mode, align_corners)
    if name == "slavc-test-absolute":
        heat = (heat + 1) / 2
    disc = metrics.centre_disc(gt_maps.shape[1:]).expand_as(gt_maps)
    scores = metrics.localization_scores(maps, gt_maps, name)
    rules = {"threshold": threshold, "inclusive": inclusive}
    assert torch.equal(scores.ciou, metrics.consensus_iou(heat, gt_maps, **rules))
    assert torch.equal(scores.centre_disc_ciou, metrics.consensus_iou(disc, gt_maps, **rules))
    assert torch.equal(scores.ceiling, metrics.ciou_ceiling(gt_maps, **rules))
    for hits, maps_of in ((scores.pointing, heat), (scores.centre_disc_pointing, disc)):
        assert hits.dtype == torch.bool
        assert hits.double().mean() == metrics.pointing_accuracy(maps_of, gt_maps)
        assert 0 < hits.sum() < len(hits)


@pytest.mark.parametrize("name", ["ezvsl-test", "alignment-adaptive"])
def test_chunks_do_not_show(batch, monkeypatch, name):
    whole = metrics.localization_scores(*batch, name)
    for values in (1, 5 * 17 * 22):
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", values)
        for part, expected in zip(metrics.localization_scores(*batch, name), whole):
            assert torch.equal(part, expected)


def test_groups_of_similar_rank_do_not_show(generator):
    """More maps than go into one group, whose thresholds all lie at another rank."""
    maps = torch.rand(80, 9, 10, generator=generator)
    gt_maps = torch.zeros(80, 90)
    for i, gt in enumerate(gt_maps):
        gt[: 1 + (37 * i) % 90] = 1
    rules = PROTOCOLS["alignment-adaptive"]._replace(inclusive=True)
    expected = loop_scores(maps, gt_maps.view(80, 9, 10), rules)
    ciou = metrics.consensus_iou(maps, gt_maps.view(80, 9, 10), "area")
    torch.testing.assert_close(ciou, expected, atol=1e-14, rtol=0)


def test_no_maps_give_no_scores():
    for part in metrics.localization_scores(torch.zeros(0, 7, 7), torch.zeros(0, 8, 8)):
        assert part.shape == (0,)


def test_carries_no_gradient(batch):
    maps, gt_maps = batch
    for part in metrics.localization_scores(maps.requires_grad_(), gt_maps):
        assert not part.requires_grad


class TestFixedThreshold:
    def test_compares_with_one_half(self):
        maps = torch.tensor([[[0.5, 0.6], [0.4, 0.1]]])
        gt_maps = torch.tensor([[[1, 1], [1, 0]]])
        assert metrics.consensus_iou(maps, gt_maps, "fixed").item() == pytest.approx(2 / 3)
        strict = metrics.consensus_iou(maps, gt_maps, "fixed", inclusive=False)
        assert strict.item() == pytest.approx(1 / 3)

    def test_predicts_nothing_where_the_model_is_not_sure(self):
        gt_maps = torch.ones(1, 4, 4)
        assert metrics.consensus_iou(torch.full((1, 4, 4), 0.4), gt_maps, "fixed").item() == 0

    def test_ceiling_is_one_wherever_there_is_an_object(self):
        gt_maps = torch.zeros(2, 4, 4)
        gt_maps[1, 0, 0] = 0.5
        assert metrics.ciou_ceiling(gt_maps, "fixed").tolist() == [0, 1]
        assert metrics.consensus_iou((gt_maps > 0).float(), gt_maps, "fixed").tolist() == [0, 1]


def lvs_ciou(heat, gt):
    """The test script of LVS, on a resized map."""

    def scaled(values):
        low, high = values.min(), values.max()
        return (values - low) / (high - low) if high != low else values

    predicted = 1 - scaled(-heat)
    cut = np.sort(predicted, axis=None)[predicted.size // 2]
    predicted[predicted > cut] = 1
    predicted[predicted < 1] = 0
    found = predicted >= 0.5
    return (found * gt).sum() / (gt.sum() + (found & (gt == 0)).sum())


class TestCollapsedMaps:
    """More than half of the pixels share the maximum."""

    @pytest.fixture
    def plateaus(self):
        maps = torch.full((7, 7, 7), 0.25)
        maps[0, 3, 3] = 0
        maps[1, :2] = -0.5
        maps[2, :3] = -0.5
        maps[3, :4] = -0.5  # the maximum has less than half of the pixels
        maps[4] -= 0.5  # below 0 everywhere
        maps[4, 0, 0] = -0.75
        maps[5, 2:5, 2:5] = torch.arange(9.0).view(3, 3) / 40
        maps[6, ::2] = 0.125
        return maps

    @pytest.mark.parametrize("name", ["lvs", "ssltie"])
    def test_plateaus_score_as_in_the_released_code(self, plateaus, name):
        gt = metrics.ground_truth_map([(0.1, 0.2, 0.7, 0.9)], 224)
        heat = metrics.upsample(plateaus, 224, align_corners=False)
        expected = [lvs_ciou(values.numpy(), gt.numpy()) for values in heat]
        ciou = metrics.localization_ciou(plateaus, gt.expand(7, 224, 224), name)
        assert ciou.tolist() == pytest.approx(expected, abs=1e-12)
        assert (ciou > 0.1).all()
        strict = PROTOCOLS["lvs"]._replace(inclusive=False)
        assert (metrics.localization_ciou(plateaus, gt.expand(7, 224, 224), strict) == 0).sum() == 5

    @pytest.mark.filterwarnings("ignore:.* maps are flat")
    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -0.3])
    def test_flat_maps_score_as_in_the_released_code(self, value):
        """All of them but those below 0, which the code does not scale and finds to be below 1."""
        maps, gt_maps = torch.full((1, 7, 7), value), torch.ones(1, 224, 224)
        expected = lvs_ciou(np.full((224, 224), value, dtype=np.float32), gt_maps[0].numpy())
        assert expected == (value >= 0)
        for name in ("lvs", "ssltie"):
            assert metrics.localization_ciou(maps, gt_maps, name).item() == expected
            assert metrics.localization_scores(maps, gt_maps, name).ciou.item() == expected
        for name in ("alignment-vggss", "alignment-vggss-adaptive"):
            assert metrics.localization_ciou(maps, gt_maps, name).item() == 0

    def test_a_hole_in_the_centre(self):
        maps = torch.ones(1, 7, 7)
        maps[0, 3, 3] = 0
        ciou = metrics.localization_ciou(maps, torch.ones(1, 224, 224), "lvs")
        assert ciou.item() == pytest.approx(0.918, abs=5e-4)

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_a_warning_says_how_many_are_flat(self, batch, name):
        maps, gt_maps = batch
        maps[3], maps[7] = 0.1, -0.2
        maps[7] += 1e-9 * torch.arange(30.0).view(5, 6)
        for function in (metrics.localization_ciou, metrics.localization_scores):
            with pytest.warns(UserWarning, match="^2 of 12 maps are flat: ") as warned:
                function(maps, gt_maps, name)
            assert len(warned) == 1
            assert warned[0].filename == __file__


class TestCosines:
    def test_slavc_takes_them_on_its_own_scale(self, batch):
        maps, gt_maps = batch
        scores = metrics.upsample((maps + 1) / 2, gt_maps.shape[1:], "bicubic")
        expected = metrics.consensus_iou(scores, gt_maps, "fixed")
        for name in ("slavc-test-absolute", PROTOCOLS["slavc-test-absolute"]):
            ciou = metrics.localization_ciou(maps, gt_maps, name)
            torch.testing.assert_close(ciou, expected, atol=1e-12, rtol=0)
            scored = metrics.localization_scores(maps, gt_maps, name).ciou
            assert torch.equal(scored, ciou)
        raw = metrics.localization_ciou(maps, gt_maps, Protocol("bicubic", threshold="fixed"))
        assert (raw - ciou).abs().max() > 0.2

    def test_fixed_thresholds_of_one_s_own_take_values_as_they_are(self, batch):
        maps, gt_maps = batch
        own = Protocol(threshold="fixed")
        expected = metrics.consensus_iou(
            metrics.upsample(maps, gt_maps.shape[1:]), gt_maps, "fixed"
        )
        assert torch.equal(metrics.localization_ciou(maps, gt_maps, own), expected)

    @pytest.mark.parametrize("function", [metrics.localization_ciou, metrics.localization_scores])
    def test_other_values_are_refused(self, batch, function):
        maps, gt_maps = batch
        maps[3, 0, 0], maps[5, 2, 2], maps[5, 1, 1] = 1.25, -2, 1.5
        with pytest.raises(
            ValueError,
            match=r"maps must be cosines in \[-1, 1\] for a protocol that takes them, "
            "got values from -2 to 1.5 in 2 of 12 maps",
        ):
            function(maps, gt_maps, "slavc-test-absolute")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_rounding_beyond_one_is_not(self, batch, dtype):
        maps, gt_maps = batch[0].to(dtype), batch[1]
        maps[0, 0, 0] = 1 + 4 * torch.finfo(dtype).eps
        metrics.localization_ciou(maps, gt_maps, "slavc-test-absolute")

    @pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "slavc-test-absolute"])
    def test_other_protocols_see_the_order_alone(self, batch, name):
        maps, gt_maps = batch[0].double(), batch[1]
        expected = metrics.localization_ciou(maps, gt_maps, name)
        assert torch.equal(metrics.localization_ciou(maps / 0.03125, gt_maps, name), expected)


MAPS, GT = torch.rand(2, 7, 7), torch.zeros(2, 16, 16)


@pytest.mark.parametrize("function", [metrics.localization_ciou, metrics.localization_scores])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (MAPS, GT, "ezvsl"),
            ValueError,
            r"protocol must be a Protocol or one of 'ezvsl-test', .*'alignment-vggss-adaptive', "
            "got 'ezvsl'",
        ),
        (
            (MAPS, GT, ("bilinear", True, True, "half")),
            ValueError,
            r"protocol must be a Protocol or one of .*, got \('bilinear', True, True, 'half'\)",
        ),
        (
            (MAPS, GT, Protocol("area")),
            ValueError,
            "mode must be 'bilinear', 'bicubic' or 'nearest', got 'area'",
        ),
        (
            (MAPS, GT, Protocol(object_mode="cubic")),
            ValueError,
            "object_mode must be 'bilinear', 'bicubic' or 'nearest', got 'cubic'",
        ),
        (
            (MAPS, GT, Protocol(threshold=2.0)),
            ValueError,
            r"threshold must be 'half', 'area', 'fixed' or a number .*, got 2\.0",
        ),
        (
            (MAPS, GT, Protocol(inclusive="both")),
            ValueError,
            "inclusive must be True, False or 'maximum', got 'both'",
        ),
        (
            (MAPS, GT, Protocol(values="logit")),
            ValueError,
            "values must be 'any' or 'cosine', got 'logit'",
        ),
        (
            (MAPS[:1], GT),
            ValueError,
            r"maps and gt_maps must hold the same number of samples, "
            r"got shapes \(1, 7, 7\) and \(2, 16, 16\)",
        ),
        (
            (MAPS, GT.to("meta")),
            ValueError,
            "maps and gt_maps must be on the same device, got cpu and meta",
        ),
        (
            (torch.stack([MAPS[0], MAPS[0] / 0]), GT),
            ValueError,
            "maps must be finite, got NaN or infinite values in 1 of 2 maps",
        ),
        (
            (MAPS.int(), GT),
            TypeError,
            r"maps must be a floating-point tensor, got dtype torch\.int32",
        ),
        (
            (MAPS, GT[0]),
            ValueError,
            r"gt_maps must have shape \(n, height, width\), got \(16, 16\)",
        ),
        (
            (MAPS, GT + 2),
            ValueError,
            r"gt_maps must hold weights in \[0, 1\], got values from 2 to 2",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)
