import json

import pytest
import torch
from script_runs import read_rows
from set_runs import by_hand, evaluated, files_of
from small_sets import named_files, write_set

from avscenes.files.errors import UserError
from avscenes.media.images import load_frame, squeezed
from avscenes.pictures.report import evaluate_features, evaluate_towers
from avscenes.testing.towers import Towers, trained_towers
from avscenes.training.trained import load_trained

ABOUT = ("checkpoint", "epoch", "model")


def figures_of(found):
    return {name: value for name, value in found.items() if name not in ABOUT}


@pytest.mark.parametrize("dataset", ["clips", "vggsound", "avsbench-ms3"])
def test_towers_are_evaluated_as_a_checkpoint_is(checkpoint, tmp_path, dataset):
    options, names, left_out = write_set(dataset, tmp_path)
    expected, rows = evaluated(checkpoint, dataset, options)
    files = named_files(options)
    towers = trained_towers(load_trained(checkpoint, "cpu"))
    output = tmp_path / "results"
    report = evaluate_towers(
        towers, output, dataset, name="mine", batch_size=4, max_missing=0.5, **files
    )
    assert figures_of(report.figures) == pytest.approx(figures_of(expected), abs=1e-3)
    made = {"table.txt", "metrics.json", "samples.csv", "gallery.png", "left_out.csv"}
    assert {path.name for path in output.iterdir()} == made
    assert (output / "table.txt").read_text() == f"{report.text}\n"
    assert report.text.startswith(f"mine, {dataset}: {len(names)} pairs, {len(left_out)} left out")
    with pytest.raises(UserError, match=r"output: .* holds results already; name another place"):
        evaluate_towers(towers, output, dataset, **files)
    written = read_rows(output / "samples.csv")
    assert [row["id"] for row in written] == [row["id"] for row in rows]


def test_a_test_set_that_lacks_files_or_takes_none(checkpoint, tmp_path):
    towers = trained_towers(load_trained(checkpoint, "cpu"))
    with pytest.raises(TypeError, match="vggsound needs test_root, test_list, annotations, and"):
        evaluate_towers(towers, tmp_path / "results", "vggsound", test_root=tmp_path)
    with pytest.raises(TypeError, match="synthetic needs no files and is of no use here"):
        evaluate_towers(towers, tmp_path / "results", "synthetic")


def test_towers_that_make_no_maps_or_no_vectors(tmp_path):
    options, _, _ = write_set("clips", tmp_path)
    files = {name: str(path) for name, path in named_files(options).items()}
    output = str(tmp_path / "results")

    def see(images):
        return torch.rand(len(images), 4, 2, 2)

    def evaluate(see, hear):
        evaluate_towers(Towers(see, hear), output, "clips", max_missing=0.5, **files)

    with pytest.raises(ValueError, match=r"maps \(b, d, h, w\), got \(\d+, 4, 4\); patch tokens"):
        evaluate(lambda images: see(images).flatten(2), lambda waves: torch.rand(len(waves), 4))
    with pytest.raises(ValueError, match=r"vectors \(b, d\), got \(\d+, 4, 7\); a sequence"):
        evaluate(see, lambda waves: torch.rand(len(waves), 4, 7))
    evaluate(see, lambda waves: torch.rand(len(waves), 4))
    assert (tmp_path / "results" / "table.txt").is_file()


def test_unknown_names_are_told_apart_from_known_ones(tmp_path):
    towers = Towers(torch.relu, torch.relu)
    with pytest.raises(ValueError, match=r"dataset must be one of .*clips, .*, got 'clip'"):
        evaluate_towers(towers, tmp_path / "results", "clip", test_root=tmp_path)
    with pytest.raises(ValueError, match=r"protocol must be one of ezvsl-test, .*, got 'ezvsl'"):
        evaluate_towers(towers, tmp_path / "results", protocol="ezvsl", test_root=tmp_path)
    with pytest.raises(ValueError, match=r"protocol must be one of ezvsl-test, .*, got 'ezvsl'"):
        evaluate_features(
            torch.rand(3, 4, 2, 2), torch.rand(3, 4), tmp_path / "results", protocol="ezvsl"
        )


def test_features_are_evaluated_as_a_checkpoint_is(checkpoint, encoders, tmp_path):
    options, names, _ = write_set("vggsound", tmp_path)
    expected, rows = evaluated(checkpoint, "vggsound", options)
    files = files_of("vggsound", names, tmp_path)
    _, visual, audio = by_hand(encoders, files)
    entries = json.loads((tmp_path / "vggss.json").read_text())
    report = evaluate_features(
        visual,
        audio,
        tmp_path / "results",
        names=names,
        classes=[row["class"] for row in rows],
        boxes=[entry["bbox"] for entry in entries[: len(names)]],
        images=[squeezed(load_frame(image)) for image, _ in files],
    )
    other = {"dataset", "left_out"}
    found = {name: value for name, value in figures_of(report.figures).items() if name not in other}
    expected = {name: value for name, value in figures_of(expected).items() if name not in other}
    assert found == pytest.approx(expected, abs=1e-4)
    assert (tmp_path / "results" / "gallery.png").is_file()

    bare = evaluate_features(visual, audio, str(tmp_path / "bare"))
    assert bare.figures["pair_image_to_sound_r1"] == report.figures["pair_image_to_sound_r1"]
    assert not [name for name in bare.figures if "success" in name or "class_" in name]
    assert {path.name for path in (tmp_path / "bare").iterdir()} == {
        *("table.txt", "metrics.json", "samples.csv")
    }


def test_features_and_what_is_known_of_them_are_as_many(tmp_path):
    visual, audio = torch.rand(3, 4, 2, 2), torch.rand(3, 4)
    with pytest.raises(ValueError, match="names must be as many as visual, 3, got 1"):
        evaluate_features(visual, audio, tmp_path / "results", names=["a"])
    with pytest.raises(ValueError, match="audio must be as many as visual, 3, got 2"):
        evaluate_features(visual, audio[:2], tmp_path / "results")
    assert not (tmp_path / "results").exists()
