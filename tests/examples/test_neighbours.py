import json
from itertools import chain
from pathlib import Path

import neighbours
import numpy as np
import pytest
import torch
from script_runs import change_settings, fault_of, run_script
from set_runs import by_hand
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from avcontrast import metrics
from avscenes.media.augmentation import scale_images
from avscenes.media.images import load_frame, plain_frame
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import enlarged
from avscenes.scenes.scene import make_scenes
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.neighbour_lists import read_neighbours
from avscenes.training import neighbours as parts
from avscenes.training.data import clip_data
from avscenes.training.nearest import best_purity, chance_purity, nearest, purity
from avscenes.training.settings import Settings

SCENES = 30


def run(*options):
    return run_script(neighbours, *options, "--device", "cpu")


def fail(capsys, *options):
    return fault_of(capsys, neighbours, *options, "--device", "cpu")


def tied_features(count, dim=12):
    """Return unit vectors whose products are exact, many of them equal and some of them 0."""
    rng = np.random.default_rng(0)
    features = torch.zeros(count, dim)
    for row in features:
        row[rng.permutation(dim)[:4]] = torch.from_numpy(rng.choice([-0.5, 0.5], 4)).float()
    return features


def dense(features, k):
    """Return the nearest others from all similarities at once, of equal ones the first."""
    similarity = features @ features.T
    similarity.fill_diagonal_(-torch.inf)
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    return order[:, :k]


@pytest.mark.parametrize(("rows", "columns"), [(50, 50), (50, 1), (7, 13), (1, 64)])
@pytest.mark.parametrize("k", [1, 9, 49])
def test_blocks_find_what_all_similarities_at_once_do_ties_included(rows, columns, k):
    features = tied_features(50)
    expected = dense(features, k)
    similarity = features @ features.T
    assert (similarity == 0).any()
    assert len(similarity.unique()) < 12
    found = [
        nearest(features, range(start, min(start + rows, 50)), k, columns=columns)
        for start in range(0, 50, rows)
    ]
    assert torch.equal(torch.cat(found), expected)


def test_similarities_of_any_sign_and_size_keep_their_order():
    features = F.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    found = nearest(features, range(40), 39, columns=11)
    similarity = (features.double() @ features.double().T).gather(1, found)
    assert (similarity.diff(dim=1) <= 1e-6).all()
    assert similarity.min() < -0.9
    assert torch.equal(found.sort(dim=1).values, dense(features, 39).sort(dim=1).values)


class Largest(TorchDispatchMode):
    """Notes the size of the largest result of any operation."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return result


def test_no_more_than_a_block_is_held_at_a_time():
    features = tied_features(300, dim=8)
    with Largest() as largest:
        nearest(features, range(100, 110), 20, columns=64)
    assert largest.numbers == 10 * (64 + 20)


def test_a_search_that_was_stopped_goes_on(tmp_path, monkeypatch):
    features = tied_features(50)
    searched = []

    def stopping(features, rows, k):
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(rows.start)
        return nearest(features, rows, k)

    monkeypatch.setattr(parts, "nearest", stopping)
    with pytest.raises(KeyboardInterrupt):
        parts.search(tmp_path, "image", features, 5, rows=8)
    assert searched == [0, 8, 16]
    searched[:] = [0]
    monkeypatch.setattr(
        parts, "nearest", lambda *a, **b: searched.append(a[1].start) or nearest(*a, **b)
    )
    found = parts.search(tmp_path, "image", features, 5, rows=8)
    assert searched == [0, 24, 32, 40, 48]
    assert found.dtype == torch.int64
    assert torch.equal(found, dense(features, 5))


def test_purity_counts_classes_that_are_known():
    features = F.normalize(torch.randn(60, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    labels = torch.arange(60) % 7
    lists = dense(features, 30)
    expected = metrics.neighbour_purity(features, labels, (1, 10, 30))
    found = purity(lists, labels, (1, 10, 30))
    assert found == pytest.approx({k: value.item() for k, value in expected.items()})
    assert purity(lists, torch.zeros_like(labels), (1, 30)) == {1: 1, 30: 1}

    counts = labels.bincount()[labels].double()
    assert chance_purity(labels) == pytest.approx(((counts - 1) / 59).mean().item())
    assert best_purity(labels, (1, 30))[1] == 1
    assert best_purity(labels, (1, 30))[30] == pytest.approx(((counts - 1) / 30).mean().item())

    some = torch.where(torch.arange(60) < 20, -1, labels)
    same, count = 0.0, 0
    for row in range(20, 60):
        known = [n for n in lists[row, :10].tolist() if n >= 20]
        same += sum(labels[n] == labels[row] for n in known) / max(1, len(known))
        count += 1
    assert purity(lists, some, (10,))[10] == pytest.approx(float(same) / count)


@pytest.fixture
def scene_run(checkpoint):
    """The checkpoint of a run on scenes that was never trained."""
    change_settings(checkpoint.parents[1], dataset="synthetic", train_size=SCENES)
    return checkpoint


@torch.no_grad()
def scene_features(encoders):
    scenes = make_scenes(DATA_SEED, "train", SCENES)
    maps = encoders[0](scale_images(scenes.images))
    return F.normalize(maps, dim=1).mean((2, 3)), encoders[1](scenes.spectrograms), scenes.labels


def same_lists(found, features, k):
    """Check lists against features in which nothing is nearly tied, whatever rounding does."""
    units = F.normalize(features.double(), dim=1)
    similarity = (units @ units.T).fill_diagonal_(-2)
    expected = similarity.sort(dim=1, descending=True).values[:, :k]
    torch.testing.assert_close(similarity.gather(1, found), expected, atol=1e-6, rtol=0)
    assert not (found == torch.arange(len(found))[:, None]).any()


def test_lists_of_scenes_are_made_in_one_command(scene_run, encoders, tmp_path, capsys):
    output = tmp_path / "lists"
    assert run("--checkpoint", scene_run, "--k", 12, "--output-dir", output) == 0
    lists = read_neighbours(output / "neighbours.npz")
    assert lists.ids == [str(number) for number in range(SCENES)]
    images, sounds, labels = scene_features(encoders)
    same_lists(lists.image_neighbours, images, 12)
    same_lists(lists.audio_neighbours, sounds, 12)
    assert {path.name for path in output.iterdir()} == {"neighbours.npz", "neighbours.json"}

    about = json.loads((output / "neighbours.json").read_text())
    assert (about["dataset"], about["samples"], about["k"]) == ("synthetic", SCENES, 12)
    for kind, features in (("image", images), ("sound", sounds)):
        expected = metrics.neighbour_purity(features, labels, (1, 10, 12))
        found = about["purity"][kind]
        assert found == pytest.approx({str(k): v.item() for k, v in expected.items()}, abs=1e-3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-3:] == ["1", "10", "12"]
    assert [line.split("  ")[1] for line in lines[1:5]] == [
        *("image", "sound", "best possible", "chance")
    ]
    assert lines[2].split()[-1] == f"{about['purity']['sound']['12']:.3f}"
    assert lines[-1].startswith(f"the 12 nearest of {SCENES} samples written to ")

    again = fail(capsys, "--checkpoint", scene_run, "--k", 12, "--output-dir", output)
    assert again.endswith("lists holds results already; name another place")


def test_a_run_that_was_stopped_goes_on(scene_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "PART", 8)
    options = ["--checkpoint", scene_run, "--k", 3, "--batch-size", 4, "--output-dir"]
    assert run(*options, tmp_path / "whole") == 0
    read = []
    batches = parts.readable_batches

    def stopping(pairs, rows, batch_size, workers):
        read.append(rows)
        if len(read) == 3:
            raise KeyboardInterrupt
        return batches(pairs, rows, batch_size, workers)

    monkeypatch.setattr(parts, "readable_batches", stopping)
    assert run(*options, tmp_path / "lists") == 130
    assert capsys.readouterr().err == ("interrupted; the same command goes on where it stopped\n")
    assert not (tmp_path / "lists" / "neighbours.npz").exists()

    message = fail(
        capsys,
        *("--checkpoint", scene_run, "--k", 4, "--output-dir", tmp_path / "lists"),
        *("--train-size", SCENES - 1),
    )
    folder = tmp_path / "lists" / "parts"
    assert message == (
        f"--output-dir: the parts in {folder} are of other lists, which differ in ids, k; "
        "remove that folder, or name another --output-dir"
    )
    read.append(None)
    assert run(*options, tmp_path / "lists") == 0
    assert read[4:] == [range(16, 24), range(24, 30)]
    whole, lists = (
        read_neighbours(tmp_path / where / "neighbours.npz") for where in ("whole", "lists")
    )
    assert torch.equal(whole.image_neighbours, lists.image_neighbours)
    assert torch.equal(whole.audio_neighbours, lists.audio_neighbours)
    assert not folder.exists()


@pytest.fixture
def folder(tmp_path, make_clip):
    """Twelve clips of three classes, one of them broken, and lists."""
    names = [f"clip{number}" for number in range(12)]
    for name in names:
        make_clip(tmp_path / "data", name)
    (tmp_path / "data" / "frames" / "clip3.jpg").write_bytes(b"broken")
    (tmp_path / "train.txt").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / "labels.csv").write_text(
        "".join(f"{name},{'abc'[number % 3]}\n" for number, name in enumerate(names[:11]))
    )
    return tmp_path


def clip_features(encoders, root, names):
    """Return what the encoders make of files, read without the readers under test."""
    files = [(root / "frames" / f"{name}.jpg", root / "audio" / f"{name}.wav") for name in names]
    _, maps, sounds = by_hand(encoders, files)
    return F.normalize(maps, dim=1).mean((2, 3)), sounds


def test_the_samples_are_those_of_a_training(folder, checkpoint, encoders, tmp_path, capsys):
    options = {
        "--dataset": "vggsound",
        "--data-root": folder / "data",
        "--train-list": folder / "train.txt",
        "--validation-size": 2,
        "--max-missing": 0.2,
        "--workers": 0,
    }
    more = ["--labels", folder / "labels.csv", "--k", 4, "--output-dir", tmp_path / "lists"]
    assert run("--checkpoint", checkpoint, *chain(*options.items()), *more) == 0
    lists = read_neighbours(tmp_path / "lists" / "neighbours.npz")
    boxes = [{"file": "clip0", "class": "a", "bbox": [[0.1, 0.1, 0.5, 0.5]]}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "test.txt").write_text("clip0\n")
    settings = Settings(
        **{name[2:].replace("-", "_"): value for name, value in options.items()},
        test_root=folder / "data",
        test_list=tmp_path / "test.txt",
        annotations=tmp_path / "boxes.json",
        allow_overlap=True,
        batch_size=2,
    )
    data, skipped = clip_data(settings, None)
    assert lists.ids == data.train.clips
    assert len(lists.ids) == 10 - sum(entry.split == "train" for entry in skipped) == 9
    images, sounds = clip_features(encoders, folder / "data", lists.ids)
    same_lists(lists.image_neighbours, images, 4)
    same_lists(lists.audio_neighbours, sounds, 4)
    printed = capsys.readouterr().out
    assert "left out: clip clip3: cannot identify image file" in printed
    assert "of the same class among the first" in printed
    rows = (tmp_path / "lists" / "left_out.csv").read_text().splitlines()
    assert rows[1].startswith("clip3,cannot identify image file")


def test_own_clips_that_are_held_out_are_not_listed(folder, checkpoint, tmp_path, capsys):
    (folder / "data" / "frames" / "clip3.jpg").unlink()
    words = ["--dataset", "clips", "--data-root", folder / "data", "--workers", 0, "--k", 2]
    assert run("--checkpoint", checkpoint, *words, "--output-dir", tmp_path / "lists") == 0
    settings = Settings(dataset="clips", data_root=folder / "data", workers=0, batch_size=2)
    data, _ = clip_data(settings, None)
    assert read_neighbours(tmp_path / "lists" / "neighbours.npz").ids == data.train.clips
    assert len(data.train.clips) < 11
    assert "same class" not in capsys.readouterr().out


def test_weights_of_an_image_network_list_images(
    folder, checkpoint, encoders, object_weights, tmp_path, capsys
):
    (folder / "data" / "frames" / "clip3.jpg").unlink()
    words = ["--image-weights", object_weights, "--dataset", "clips", "--data-root"]
    words += [folder / "data", "--workers", 0, "--k", 3, "--output-dir"]
    assert run(*words, tmp_path / "images") == 0
    assert "encode no sounds, so the lists are by image alone" in capsys.readouterr().out
    with np.load(tmp_path / "images" / "neighbours.npz") as arrays:
        assert set(arrays) == {"ids", "image_neighbours"}
        names = arrays["ids"].tolist()
        alone = torch.from_numpy(arrays["image_neighbours"])
    assert run(*words, tmp_path / "both", "--checkpoint", checkpoint) == 0
    both = read_neighbours(tmp_path / "both" / "neighbours.npz")
    assert both.ids == names
    _, sounds = clip_features(encoders, folder / "data", names)
    network = ResNet18()
    network.load_state_dict(torch.load(object_weights))
    images = [plain_frame(load_frame(folder / "data" / "frames" / f"{n}.jpg")) for n in names]
    with torch.no_grad():
        vectors = network.eval()(enlarged(torch.stack(images))).mean((2, 3))
    for found in (alone, both.image_neighbours):
        same_lists(found, vectors, 3)
    same_lists(both.audio_neighbours, sounds, 3)


def test_what_is_wrong_is_one_line(folder, checkpoint, tmp_path, capsys):
    lists = ["--output-dir", tmp_path / "lists"]
    assert fail(capsys, *lists) == (
        "it needs --checkpoint or --image-weights, to encode the samples with"
    )
    lists += ["--checkpoint", checkpoint, "--workers", 0]
    assert fail(capsys, *lists) == "--dataset vggsound needs --data-root and --train-list"
    assert fail(capsys, *lists, "--dataset", "synthetic").startswith(
        "--dataset synthetic: the checkpoint was trained on vggsound, whose images"
    )
    assert fail(capsys, *lists, "--k", 0) == "--k: must be a whole number of at least 1, got '0'"
    for name in ("held-out", "test-root"):
        more = f"--{name}", "0.5"
        assert fail(capsys, *lists, *more) == f"--dataset vggsound takes no --{name}"
    clips = [*lists, "--dataset", "clips"]
    assert fail(capsys, *clips) == "--dataset clips needs --data-root"
    assert fail(capsys, *clips, "--validation-size", 3) == (
        "--dataset clips takes no --validation-size"
    )
    data = ["--data-root", folder / "data", "--train-list", folder / "train.txt"]
    assert fail(capsys, *lists, *data) == (
        "--validation-size 512 leaves none of the 12 clips of --train-list to train on"
    )
    data += ["--validation-size", 1]
    assert fail(capsys, *lists, *data) == ("--k: must be below the number of samples, 11, got 1000")
    (tmp_path / "few.csv").write_text("clip1,a\nother,b\n")
    few = fail(capsys, *lists, *data, "--labels", tmp_path / "few.csv")
    assert few == f"--labels: {tmp_path / 'few.csv'} has the classes of 1 of the 11 clips"
    assert not (tmp_path / "lists").exists()

    missing = fail(capsys, *lists, *data, "--k", 2)
    listed = tmp_path / "lists" / "left_out.csv"
    assert missing.startswith(
        "--data-root: 1 of 11 clips cannot be used, more than --max-missing 0.05; first clip3: "
    )
    assert missing.endswith(f"; the list: {listed}")
    assert Path(listed).read_text().startswith("clip,reason\nclip3,")
    data += ["--max-missing", 0.5, "--k", 10]
    assert fail(capsys, *lists[2:], "--output-dir", tmp_path / "more", *data) == (
        "--k: must be below the number of samples, 10, got 10"
    )


def test_features_that_are_not_finite_are_refused(scene_run, tmp_path, capsys):
    state = torch.load(scene_run)
    state["state_dict"]["audio.projection.bias"][0] = torch.nan
    torch.save(state, scene_run)
    options = "--checkpoint", scene_run, "--k", 3, "--output-dir", tmp_path / "lists"
    message = fail(capsys, *options)
    assert message == "the sound features are not finite; the encoder is of no use"
    message = fail(capsys, *options, "--labels", tmp_path / "labels.csv")
    assert message == "--dataset synthetic takes no --labels"
