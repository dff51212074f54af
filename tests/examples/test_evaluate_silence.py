"""Test sets in which some sounds have no source in the image, from files to figures."""

from unittest.mock import Mock

import pytest
import torch
from set_runs import by_hand, cells_of, evaluated, files_of, run, truth_of
from small_sets import write_set

from avcontrast import functional, metrics
from avcontrast.metrics.accumulators import SilenceMetric
from avscenes.pictures import gallery, report
from avscenes.testing.silence import best_confidence, silence_figures


@pytest.mark.parametrize("dataset", ["extended-vggsound", "extended-flickr"])
def test_silent_samples(checkpoint, encoders, tmp_path, capsys, dataset):
    options, names, _ = write_set(dataset, tmp_path)
    found, rows = evaluated(checkpoint, dataset, options)
    visible = torch.tensor(["+" not in name for name in names])
    maps, visual, audio = by_hand(encoders, files_of(dataset, names, tmp_path))
    seen = truth_of(dataset, [name for name in names if "+" not in name], tmp_path)
    truth = torch.cat([seen, torch.zeros(2, 224, 224)])
    metric = SilenceMetric("slavc-test")
    metric.update((maps + 1) / 2, truth, visible)
    expected = metric.compute()
    assert found["protocol"] == "slavc-test"
    for name in ("average_precision", "max_f1", "localization_accuracy"):
        assert 0 < expected[name] < 1
        assert found[f"model_{name}"] == pytest.approx(expected[name].item(), abs=1e-6)
    assert found["model_success_half"] == expected["success"].item()
    assert found["model_auc_half"] == pytest.approx(expected["auc"].item())
    disc = metrics.consensus_iou(metrics.centre_disc(224).expand_as(seen), seen)
    assert found["centre_disc_mean_ciou_half"] == pytest.approx(disc.mean().item())
    assert found["centre_disc_localization_accuracy"] == (disc > 0.5).double().mean().item()
    assert found["silent_samples"] == 2
    recall = metrics.recall_at_k(functional.max_similarity(visual, audio)[visible][:, visible])
    assert found["pair_image_to_sound_r1"] == pytest.approx(recall[1].item())

    upsampled = metrics.upsample((maps + 1) / 2, 224, "bicubic")
    confidence = metrics.map_confidence(upsampled)
    written = torch.tensor([float(row["model_confidence"]) for row in rows]).double()
    torch.testing.assert_close(written, confidence, atol=2e-6, rtol=0)
    assert [row["visible"] for row in rows] == [f"{int(value)}" for value in visible]
    assert rows[-1]["model_ciou_half"] == rows[-1]["gt_area"] == ""
    assert rows[0]["model_ciou_half"] != ""

    printed = capsys.readouterr().out
    assert f": {len(names)} pairs, 2 of them silent, 3 left out\n" in printed
    cells = cells_of(printed)
    chance = found["chance_average_precision"]
    assert chance == pytest.approx(found["model_success_half"] * len(seen) / len(names))
    assert cells["AP"][0] == f"{found['model_average_precision']:.3f}"
    assert cells["AP"][2:] == [f"{found['ceiling_average_precision']:.3f}", f"{chance:.3f}"]
    assert found["ceiling_max_f1"] == 1
    assert found["chance_localization_accuracy"] == found["chance_success_half"]


def test_a_confidence_that_says_nothing_scores_as_chance():
    generator = torch.Generator().manual_seed(1)
    ciou = torch.rand(4_000, generator=generator, dtype=torch.float64)
    visible = torch.rand(4_000, generator=generator) < 0.6
    columns = {f"{who}_ciou_half": ciou for who in ("model", "centre_disc", "ceiling")}
    found = silence_figures(columns, visible, metrics.PROTOCOLS["slavc-test"])
    confidence = torch.rand(20, 4_000, generator=generator, dtype=torch.float64)
    precision = [metrics.average_precision(ciou, row, visible).item() for row in confidence]
    best = [metrics.max_f1(ciou, row, visible).item() for row in confidence]
    assert found["chance_average_precision"] == pytest.approx(sum(precision) / 20, abs=0.02)
    assert found["chance_max_f1"] == pytest.approx(sum(best) / 20, abs=0.002)
    assert found["chance_max_f1"] <= min(best)


def test_no_confidence_beats_that_of_the_ceiling():
    generator = torch.Generator().manual_seed(2)
    rules = metrics.PROTOCOLS["slavc-test"]
    ciou = torch.rand(190, generator=generator, dtype=torch.float64)
    visible = torch.rand(190, generator=generator) < 0.6
    best = best_confidence({"ceiling_ciou_half": ciou}, visible, rules)
    assert len(best.unique()) == 190
    for metric in (metrics.average_precision, metrics.max_f1):
        ceiling = metric(ciou, best, visible)
        assert 0.6 < ceiling < 1
        for spread in (1.0, 2.0, 10.0):
            noise = torch.rand(190, generator=generator, dtype=torch.float64)
            assert metric(ciou, best + spread * noise, visible) <= ceiling
        # What is absent before what is missed.
        turned = torch.where(visible & (ciou >= 0.5), best, -best)
        assert metric(ciou, turned, visible) < ceiling


@pytest.mark.parametrize(("protocol", "comparable"), [("slavc-test", True), ("lvs", False)])
def test_only_maps_on_one_scale_have_a_confidence(
    checkpoint, tmp_path, object_weights, protocol, comparable
):
    options, _, _ = write_set("extended-flickr", tmp_path)
    more = ["--protocol", protocol, "--object-weights", object_weights]
    found, rows = evaluated(checkpoint, "extended-flickr", options, *more)
    assert "ogl_average_precision" in found
    assert "mix_localization_accuracy" in found
    assert ("mix_average_precision" in found) == comparable
    assert ("mix_confidence" in rows[0]) == comparable
    assert found["object_share"] == (0.1 if comparable else 0.6)


def test_nothing_but_silence(checkpoint, tmp_path, capsys):
    options, names, _ = write_set("extended-flickr", tmp_path)
    for name in names[:5]:
        (tmp_path / "boxes" / f"{name}.xml").write_text("<a><bbox>1 2 3 4</bbox></a>")
        for path in (tmp_path / "test").glob(f"{name}.jpg"):
            path.write_bytes(b"broken")
    assert run(checkpoint, "extended-flickr", options, "--max-missing", 1) == 2
    assert "--test-root: none of the 10 test clips can be used; first " in capsys.readouterr().err


def test_silent_pairs_that_are_all_broken(checkpoint, tmp_path, capsys):
    options, names, _ = write_set("extended-flickr", tmp_path)
    rows = "".join(f"{name},nowhere,non-sounding\n" for name in names[:2])
    options["--silent-list"].write_text("video,audio,label\n" + rows)
    found, rows = evaluated(checkpoint, "extended-flickr", options)
    assert "5 pairs, 0 of them silent, 4 left out\n" in capsys.readouterr().out
    assert found["silent_samples"] == 0
    assert "model_average_precision" in found
    assert {row["visible"] for row in rows} == {"1"}


def test_the_gallery_shows_the_worst_silent_pairs(checkpoint, tmp_path, monkeypatch):
    options, _, _ = write_set("extended-vggsound", tmp_path)
    draw = Mock(wraps=gallery.draw_gallery)
    monkeypatch.setattr(report, "draw_gallery", draw)
    evaluated(checkpoint, "extended-vggsound", options)
    _, tests, tested, _ = draw.call_args_list[0].args
    groups = gallery.groups_of(tested, "model_ciou_half")
    silent = groups.pop("source not in the image")
    assert all("+" in tests.names[tested.rows[place]] for place in silent)
    confidence = tested.columns["model_confidence"][silent]
    assert len(silent) == 2
    assert confidence[0] >= confidence[1]
    places = [place for group in groups.values() for place in group]
    assert tested.visible[places].all()
    best, worst = groups["best"][0], groups["worst"][-1]
    ciou = tested.columns["model_ciou_half"][tested.visible]
    assert tested.columns["model_ciou_half"][best] == ciou.max()
    assert tested.columns["model_ciou_half"][worst] == ciou.min()
