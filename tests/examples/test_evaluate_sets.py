"""Every test set from its files to its figures, which are made a second time by hand."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from script_runs import change_settings, read_rows
from set_runs import SETS, by_hand, cells_of, evaluated, files_of, run, truth_of
from small_sets import named_files, write_set

from avcontrast import functional, metrics
from avscenes.pictures import report
from avscenes.sets import clips
from avscenes.sets.testsets import KINDS


@pytest.mark.parametrize("dataset", SETS)
def test_broken_files_are_named_and_nothing_is_read_twice(
    checkpoint, tmp_path, capsys, monkeypatch, dataset
):
    options, names, left_out = write_set(dataset, tmp_path)
    decode = Mock(wraps=clips._decode)
    monkeypatch.setattr(clips, "_decode", decode)
    monkeypatch.setattr(report, "draw_gallery", lambda path, *_, **__: path.touch())
    found, rows = evaluated(checkpoint, dataset, options)
    assert [row["id"] for row in rows] == names
    decoded = [call.args[0].name for call in decode.call_args_list]
    assert len(decoded) == len(set(decoded))
    assert found["test_samples"] == len(names)
    assert found["left_out"] == len(left_out)
    printed = capsys.readouterr().out
    assert f", {len(left_out)} left out\n" in printed
    listed = read_rows(checkpoint.parent / "out" / "left_out.csv")
    reasons = {row["clip"]: row["reason"] for row in listed}
    assert reasons.keys() == left_out.keys()
    for name, reason in left_out.items():
        assert reason in reasons[name]
        assert reasons[name]
        assert f"left out: clip {name}: {reasons[name]}\n" in printed


@pytest.mark.parametrize("dataset", ["vggsound", "flickr", "is3"])
def test_boxes(checkpoint, encoders, tmp_path, dataset):
    options, names, _ = write_set(dataset, tmp_path)
    found, rows = evaluated(checkpoint, dataset, options)
    protocol = {"is3": "alignment"}.get(dataset, "ezvsl-test")
    assert found["protocol"] == protocol
    maps, visual, audio = by_hand(encoders, files_of(dataset, names, tmp_path))
    truth = truth_of(dataset, names, tmp_path)
    scores = metrics.localization_scores(maps, truth, protocol)
    assert 0 < metrics.success_rate(scores.ciou) < 1
    for who, ciou in (
        ("model", scores.ciou),
        ("centre_disc", scores.centre_disc_ciou),
        ("ceiling", scores.ceiling),
    ):
        written = torch.tensor([float(row[f"{who}_ciou_half"]) for row in rows])
        torch.testing.assert_close(written, ciou.float(), atol=2e-6, rtol=0)
        assert found[f"{who}_success_half"] == metrics.success_rate(ciou).item()
        assert found[f"{who}_auc_half"] == pytest.approx(metrics.success_auc(ciou).item())
        assert found[f"{who}_mean_ciou_half"] == pytest.approx(ciou.mean().item(), abs=1e-6)
    assert found["model_pointing"] == pytest.approx(scores.pointing.double().mean().item())
    if dataset == "is3":
        assert not any(name.startswith(("class_", "pair_")) for name in found)
        return
    similarity = functional.max_similarity(visual, audio)
    recall = metrics.recall_at_k(similarity, k=(1, 5))
    assert found["pair_image_to_sound_r1"] == pytest.approx(recall[1].item())
    assert found["chance_pair_r1"] == pytest.approx(1 / len(names))
    # The clips of Flickr have no classes.
    assert ("class_image_to_sound_r1" in found) == (dataset == "vggsound")


def test_scenes_count_when_every_sound_is_found(checkpoint, encoders, tmp_path, capsys):
    options, names, _ = write_set("is3", tmp_path)
    found, _ = evaluated(checkpoint, "is3", options, "--protocol", "alignment-adaptive")
    maps, _, _ = by_hand(encoders, files_of("is3", names, tmp_path))
    ciou = metrics.localization_ciou(maps, truth_of("is3", names, tmp_path), "alignment-adaptive")
    # Scene 3 lost a sound and scene 4 has one only.
    rows = [row for row, name in enumerate(names) if name[9] in "012"]
    assert len(rows) == 6
    worst = metrics.group_ciou(ciou[rows], [names[row].rsplit("_", 1)[0] for row in rows])
    assert found["whole_scenes"] == len(worst) == 3
    assert found["model_iiou_area"] == metrics.success_rate(worst).item()
    assert found["model_iauc_area"] == pytest.approx(metrics.success_auc(worst).item())
    assert found["model_mean_ciou_area"] == pytest.approx(ciou.mean().item(), abs=1e-6)
    assert 0 < found["model_iauc_area"] < found["model_auc_area"]
    printed = capsys.readouterr().out
    for label, key in (("IIoU", "iiou"), ("IAUC", "iauc")):
        columns = ("model", "centre_disc", "ceiling", "chance")
        expected = [f"{found[f'{who}_{key}_area']:.3f}" for who in columns]
        assert cells_of(printed)[f"{label}, area of the object"] == expected


def test_a_run_lends_its_lists_to_the_extended_set(checkpoint, tmp_path):
    options, names, _ = write_set("extended-vggsound", tmp_path)
    silent = {"--silent-list": options.pop("--silent-list")}
    files = {name: str(path) for name, path in named_files(options).items()}
    change_settings(checkpoint.parents[1], **files)
    _, rows = evaluated(checkpoint, "extended-vggsound", silent, "--test-size", 1)
    assert [row["id"] for row in rows] == [names[0], names[-2]]


def test_the_two_halves_of_an_open_set(checkpoint, tmp_path, capsys):
    options, names, _ = write_set("vggsound", tmp_path)
    (tmp_path / "dogs.csv").write_text("\n".join(names[::2]))
    (tmp_path / "cats.csv").write_text("\n".join(names[1::2]))
    options["--test-list"] = tmp_path / "dogs.csv"
    assert run(checkpoint, "vggsound", options, "--other-half", tmp_path / "test.csv") == 2
    message = "--other-half: it shares 1 classes with --test-list (first 'dog'); both must be of"
    assert message in capsys.readouterr().err
    _, rows = evaluated(checkpoint, "vggsound", options, "--other-half", tmp_path / "cats.csv")
    assert [row["id"] for row in rows] == names[::2]


@pytest.mark.parametrize("dataset", SETS)
def test_what_a_set_needs_and_what_it_does_not_take(checkpoint, tmp_path, capsys, dataset):
    options, _, _ = write_set(dataset, tmp_path)
    for name in options:
        others = {key: value for key, value in options.items() if key != name}
        assert run(checkpoint, dataset, others) == 2
        error = f"evaluate.py: error: --dataset {dataset} needs {name}\n"
        assert capsys.readouterr().err == error
        assert run(checkpoint, dataset, {**options, name: tmp_path / "none"}) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"evaluate.py: error: {name}: ")
        assert f"{tmp_path / 'none'}" in error
        assert error.count("\n") == 1
    taken = {*options, *(f"--{name.replace('_', '-')}" for name in KINDS[dataset].may_have)}
    every = {"--test-list", "--annotations", "--labels", "--silent-list", "--other-half"}
    for name in every - taken:
        assert run(checkpoint, dataset, {**options, name: tmp_path / "none"}) == 2
        error = f"evaluate.py: error: --dataset {dataset} takes no {name}\n"
        assert capsys.readouterr().err == error
    assert not (checkpoint.parent / "out").exists()


def test_a_folder_of_another_layout(checkpoint, tmp_path, capsys):
    options, _, _ = write_set("is3-masks", tmp_path)
    (tmp_path / "is3" / "gt_segmentation").rename(tmp_path / "is3" / "masks")
    assert run(checkpoint, "is3-masks", options) == 2
    error = f"error: --test-root: there is no folder {tmp_path}/is3/gt_segmentation\n"
    assert error in capsys.readouterr().err
    assert run(checkpoint, "is3", options) == 0


def test_the_documented_table_is_that_of_the_program():
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    text = page.read_text(encoding="utf-8").split("## Test sets")[1]
    table = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in table]
    options = [name.strip("`-").replace("-", "_") for name in head[1:5]]
    found = {row[0].split("`")[1]: row for row in rows}
    assert list(found) == list(KINDS)
    for name, kind in KINDS.items():
        taken = [option for option, cell in zip(options, found[name][1:5], strict=True) if cell]
        assert taken == list(kind.needs)
        assert found[name][5] == f"`{kind.protocol}`"


def test_own_clips_are_ranked_without_boxes_and_localised_with_them(checkpoint, encoders, tmp_path):
    options, names, _ = write_set("clips", tmp_path)
    found, rows = evaluated(checkpoint, "clips", options)
    assert not [name for name in found if "ciou" in name or "success" in name or "class_" in name]
    files = [[tmp_path / "own" / f"{name}.{end}" for end in ("png", "wav")] for name in names]
    _, visual, audio = by_hand(encoders, files)
    similarity = functional.max_similarity(visual, audio)
    assert [int(row["image_to_sound_rank"]) for row in rows] == (
        metrics.retrieval_ranks(similarity).tolist()
    )
    assert found["pair_sound_to_image_r1"] == pytest.approx(
        metrics.recall_at_k(similarity.T, k=(1,))[1].item()
    )
    table = (checkpoint.parent / "out" / "table.txt").read_text()
    assert cells_of(table)[""] == ["model", "ceiling", "chance"]
    assert "no boxes: retrieval alone" in table

    entries = [{"file": name, "bbox": [[0.1, 0.2, 0.8, 0.9]]} for name in names[1:4]]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    (tmp_path / "labels.csv").write_text("own1,dog\nown2.png,cat\nown3,dog\n")
    shutil.rmtree(checkpoint.parent / "out")
    files = {"--annotations": tmp_path / "boxes.json", "--labels": tmp_path / "labels.csv"}
    found, rows = evaluated(checkpoint, "clips", {**options, **files})
    assert [row["id"] for row in rows] == names[1:4]
    assert [row["class"] for row in rows] == ["dog", "cat", "dog"]
    assert "model_success_half" in found
    assert "class_image_to_sound_r1" in found


def test_a_run_on_own_clips_is_tested_on_what_it_held_out(checkpoint, tmp_path, capsys):
    options, names, _ = write_set("clips", tmp_path)
    settings = {"dataset": "clips", "data_root": str(options["--test-root"]), "held_out": 0.2}
    change_settings(checkpoint.parents[1], **settings)
    (checkpoint.parents[1] / "lists").mkdir()
    (checkpoint.parents[1] / "lists" / "test.txt").write_text(f"{names[3]}\n{names[1]}\n")
    _, rows = evaluated(checkpoint, "clips", {})
    assert [row["id"] for row in rows] == [names[3], names[1]]
    shutil.rmtree(checkpoint.parent / "out")
    _, rows = evaluated(checkpoint, "clips", options)
    assert [row["id"] for row in rows] == names
    entries = [{"file": names[0], "bbox": [[0.1, 0.2, 0.8, 0.9]]}]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    # What was trained on is not tested on, boxes or not.
    assert run(checkpoint, "clips", {"--annotations": tmp_path / "boxes.json"}) == 2
    assert "has none of the 2 test clips" in capsys.readouterr().err
