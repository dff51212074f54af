"""Test sets with masks, from files to figures."""

import pytest
import torch
from matplotlib.figure import Figure
from set_runs import MASKS, by_hand, cells_of, evaluated, files_of, truth_of
from small_sets import read_set, write_set

from avcontrast import metrics
from avscenes.pictures.overlays import draw_truth
from avscenes.testing.scoring import chance_f_score, score


@pytest.mark.parametrize("dataset", MASKS)
def test_masks(checkpoint, encoders, tmp_path, capsys, dataset):
    options, names, _ = write_set(dataset, tmp_path)
    found, rows = evaluated(checkpoint, dataset, options, "--protocol", "ezvsl-test")
    maps, _, _ = by_hand(encoders, files_of(dataset, names, tmp_path))
    truth = truth_of(dataset, names, tmp_path)
    heat = metrics.upsample(maps, 224)
    disc = metrics.centre_disc(224).expand_as(truth)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    for who, values in (("model", (heat - low) / (high - low)), ("centre_disc", disc)):
        for name, threshold in (("half", "half"), ("quarter", 0.75), ("area", "area")):
            iou = metrics.mask_iou(values, truth, threshold, inclusive=True)
            assert found[f"{who}_miou_{name}"] == pytest.approx(iou.mean().item(), abs=1e-4)
        assert found[f"{who}_f_score"] == pytest.approx(
            metrics.mask_f_score(values, truth).item(), abs=1e-4
        )
    assert found["ceiling_f_score"] == 1
    assert found["model_f_score"] >= found["chance_f_score"] - 1e-9
    assert found["centre_disc_miou_half"] <= found["ceiling_miou_half"] + 1e-3
    assert not any("ciou" in name for name in rows[0])
    if dataset == "avsbench-ms3":
        assert float(rows[0]["gt_area"]) == 0
        # Nothing sounds, half of the image is predicted: the other half is right.
        assert float(rows[0]["ceiling_iou_half"]) == pytest.approx(0.5, abs=1e-4)
        assert float(rows[0]["model_iou_half"]) == pytest.approx(0.5, abs=0.05)
    assert ("model_iiou_half" in found) == (dataset == "is3-masks")
    printed = capsys.readouterr().out
    cells = cells_of(printed)
    names = ("model_miou_half", "centre_disc_miou_half", "ceiling_miou_half", "chance_miou_half")
    assert cells["mIoU, half of the image"] == [f"{found[name]:.3f}" for name in names]
    assert cells["F-score"][3] == f"{found['chance_f_score']:.3f}"


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("threshold", ["half", "quarter", "area"])
def test_random_pixels_score_as_chance(threshold, masks):
    truth = torch.zeros(4, 224, 224)
    truth[0, :100, :80] = 1
    truth[1, 20:60, 100:] = 1
    truth[2, :200] = 1
    if not masks:
        truth[:2, 40:90] += 0.5  # of one annotator
        truth.clamp_(max=1)
    area = (truth > 0).flatten(1).double().mean(dim=1)
    noise = torch.rand(8, 4, 224, 224, generator=torch.Generator().manual_seed(5))
    rules = metrics.PROTOCOLS["ezvsl-test"]
    scored = [score({"model": maps}, truth, rules, masks=masks) for maps in noise]
    name = f"{'iou' if masks else 'ciou'}_{threshold}"
    drawn = torch.stack([columns[f"model_{name}"] for columns in scored]).mean(dim=0)
    torch.testing.assert_close(
        scored[0][f"chance_{name}"], drawn, atol=2e-3, rtol=0, check_dtype=False
    )
    torch.testing.assert_close(scored[0]["chance_pointing"], area)


def test_predicting_everything_is_the_chance_of_an_f_score():
    truth = torch.zeros(3, 10, 10)
    truth[0, :4] = truth[1, 2:5, 3:] = 1
    area = truth.flatten(1).mean(dim=1).double()
    everything = torch.ones_like(truth)
    f_score = metrics.mask_f_score(everything, truth).item()
    assert chance_f_score(area) == pytest.approx(f_score)


def test_a_fixed_threshold(checkpoint, tmp_path):
    options, _, _ = write_set("avsbench-ms3", tmp_path)
    more = ["--protocol", "slavc-test-absolute", "--workers", 1]
    found, _ = evaluated(checkpoint, "avsbench-ms3", options, *more)
    assert found["ceiling_miou_fixed"] == 1
    assert "chance_miou_fixed" not in found


def test_a_fixed_threshold_takes_maps_that_overshoot():
    heat = torch.tensor([[[1.2, 0.7], [0.4, -0.1]]])
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    rules = metrics.PROTOCOLS["slavc-test-absolute"]
    assert score({"model": heat}, truth, rules, masks=True)["model_iou_fixed"].item() == 0.5


@pytest.mark.parametrize("dataset", ["flickr", "avsbench-ms3", "extended-vggsound"])
def test_the_true_place_is_outlined(dataset, tmp_path):
    test = read_set(dataset, tmp_path)[0].labelled

    def outlines(row):
        axis = Figure().add_subplot()
        draw_truth(axis, test, row, 96, 72)
        return axis

    if dataset == "avsbench-ms3":
        # Of the first frame the mask is empty, in the last one it has two parts.
        assert not outlines(0).collections
        light = outlines(-1).collections[1]
        corners = light.get_paths()[0].vertices
        for wide, high in (((20, 90), (20, 120)), ((120, 200), (60, 220))):
            inside = (corners[:, 0] * 224 / 96 > wide[0] - 4) & (
                corners[:, 0] * 224 / 96 < wide[1] + 4
            )
            rows = corners[inside, 1] * 224 / 72
            assert rows.min() == pytest.approx(high[0], abs=4)
            assert rows.max() == pytest.approx(high[1], abs=4)
    else:
        assert len(outlines(0).patches) == 2 * len(test.boxes[0])
    if test.silent:
        assert not outlines(max(test.silent)).patches
