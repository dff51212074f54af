import json
import subprocess
import sys

import pytest
import torch
import train_fnac
from script_runs import fault_of, read_rows

from avscenes.sets.sampling import generator_for
from avscenes.training import data
from avscenes.training.data import DATA_SEED
from avscenes.training.settings import Settings


def fail(capsys, *options):
    return fault_of(capsys, train_fnac, *options)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """Check that a mistake leaves nothing behind: no run folder, no file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "-3"], "--epochs: must be a whole number of at least 1, got '-3'"),
        (["--epochs", "2.5"], "--epochs: must be a whole number of at least 1, got '2.5'"),
        (["--warmup-epochs", "-1"], "--warmup-epochs: must be a whole number of at least 0"),
        (["--batch-size", "0"], "--batch-size: must be a whole number of at least 1, got '0'"),
        (["--temperature", "0"], "--temperature: must be a number above 0, got '0'"),
        (["--temperature", "nan"], "--temperature: must be a number above 0, got 'nan'"),
        (["--tne-weight", "-1"], "--tne-weight: must be a number of at least 0, got '-1'"),
        (["--image-dropout", "1"], "--image-dropout: must be at least 0 and below 1, got '1'"),
        (["--threshold", "1.2"], "--threshold: must be at least 0 and below 1, got '1.2'"),
        (["--lr", "-1"], "--lr: must be a number above 0, got '-1'"),
        (["--lr", "inf"], "--lr: must be a number above 0, got 'inf'"),
        (["--lr", "fast"], "--lr: must be a number above 0, got 'fast'"),
        (["--loss", "clip"], "--loss: must be 'nce', 'fns-audio', "),
        (
            ["--dataset", "imagenet"],
            "--dataset: must be 'synthetic', 'vggsound', 'flickr' or 'clips', got",
        ),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--train-size", "100"], "--batch-size 128 is larger than --train-size 100"),
        (["--batch-size", "513"], "--batch-size 513 is larger than --train-size 512"),
        (
            ["--devices", "3"],
            "--batch-size 128 cannot be split evenly over 3 processes "
            "(--devices 3 x --num-nodes 1)",
        ),
        (["--devices", "4", "--num-nodes", "3"], "--batch-size 128 cannot be split evenly over 12"),
        (
            ["--devices", "2", "--validation-size", "99"],
            "--validation-size 99 cannot be split evenly over 2 processes",
        ),
        (["--norm", "layer"], "--norm: must be 'batch' or 'group', got 'layer'"),
        (
            ["--encoder", "resnet18", "--norm", "group", "--image-weights", "w.pth"],
            "--image-weights needs --norm batch",
        ),
        (["--train-list", "a.txt"], "--train-list needs --dataset vggsound"),
        (
            ["--dataset", "vggsound", "--test-list", "a.txt"],
            "--dataset vggsound needs --data-root, --train-list, --test-root and --annotations",
        ),
        (["--dataset", "clips"], "--dataset clips needs --data-root"),
        (["--dataset", "clips", "--data-root", "no"], "--data-root: there is no folder no"),
        (["--labels", "a.csv"], "--labels needs --dataset clips"),
        (["--held-out", "0.1"], "--held-out needs --dataset clips"),
        (["--image-weights", "w.pth"], "--image-weights needs --encoder resnet18"),
        (["--tri-map-form", "code"], "--loss fnac takes no --tri-map-form"),
        (["--loss", "lvs", "--positive-form", "sum"], "--loss lvs takes no --positive-form"),
        (["--loss", "lvs", "--neighbours", "n.npz"], "--loss lvs takes no --neighbours"),
        (["--loss", "nce", "--neighbours", "n.npz"], "--loss nce takes no --neighbours"),
        (["--loss", "alignment", "--anchor", "audio"], "--loss alignment takes no --anchor"),
        (["--loss", "hardpos", "--tne-weight", "1"], "--loss hardpos takes no --tne-weight"),
        (["--loss", "lvs", "--warmup-epochs", "0"], "--loss lvs takes no --warmup-epochs"),
        (
            ["--loss", "alignment", "--combine-neighbours", "or"],
            "--loss alignment takes no --combine-neighbours",
        ),
        (
            ["--loss", "hardpos", "--combine-neighbours", "or"],
            "--combine-neighbours needs --neighbours",
        ),
        (
            ["--loss", "hardpos", "--positive-form", "max"],
            "--positive-form: must be 'sum', 'mean', 'inside' or 'outside', got 'max'",
        ),
        (["--map-stride", "32"], "--encoder small has a --map-stride of 8 or 16, got 32"),
        (
            ["--encoder", "resnet18", "--map-stride", "8"],
            "--encoder resnet18 has a --map-stride of 16 or 32, got 8",
        ),
        (["--projection", "mlp"], "--projection: must be 'linear' or 'none', got 'mlp'"),
        (["--resume"], "--resume: cannot read runs/synthetic-fnac-seed0/config.json: No such"),
        (["--precision", "8-bit"], "--precision, --accelerator or --devices: "),
        (["--accelerator", "abacus"], "--precision, --accelerator or --devices: "),
    ],
)
def test_mistakes_are_named_in_one_line(capsys, options, message):
    assert message in fail(capsys, *options)


def test_the_script_itself_leaves_with_status_2_and_one_line():
    result = subprocess.run(
        [sys.executable, train_fnac.__file__, "--epochs", "-1"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "train_fnac.py: error: --epochs: must be a whole number of at least 1, got '-1'\n"
    )


def test_image_weights_that_are_none(capsys, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    options = ["--encoder", "resnet18", "--image-weights"]
    message = fail(capsys, *options, tmp_path / "w.pth")
    assert "is not a ResNet-18 with torchvision's names" in message
    assert "cannot read" in fail(capsys, *options, tmp_path / "missing.pth")


def test_a_config_that_is_no_config(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    message = fail(capsys, "--resume", "--output-dir", tmp_path)
    assert message == f"--resume: {tmp_path}/config.json holds no settings of a run"
    settings = {"dataset": "synthetic"}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    message = fail(capsys, "--resume", "--output-dir", tmp_path)
    assert "is from another version; it differs in" in message
    settings = {**Settings().model_dump(mode="json"), "epochs": "24"}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    assert fail(capsys, "--resume", "--output-dir", tmp_path) == (
        f"--resume: {tmp_path}/config.json: epochs: must be a whole number of at least 1, got '24'"
    )


@pytest.fixture
def clips(tmp_path, make_vggsound):
    """A complete VGG-Sound layout, as options; tests take one thing away."""
    return [
        *make_vggsound(train=6, test=2, size=(32, 32)),
        *("--dataset", "vggsound", "--encoder", "small", "--batch-size", 2),
        *("--validation-size", 2, "--workers", 1, "--output-dir", tmp_path / "run"),
    ]


def listed(folder):
    """Return what the list of unusable clips in a folder names."""
    return [(row["split"], row["clip"]) for row in read_rows(folder / "skipped.csv")]


@pytest.mark.parametrize("option", ["--data-root", "--test-root"])
def test_missing_folders(capsys, clips, tmp_path, option):
    message = fail(capsys, *clips, option, tmp_path / "nowhere")
    assert message == f"{option}: there is no folder {tmp_path}/nowhere"
    (tmp_path / "bare" / "frames").mkdir(parents=True)
    message = fail(capsys, *clips, option, tmp_path / "bare")
    assert message == f"{option}: there is no folder {tmp_path}/bare/audio"


@pytest.mark.parametrize("option", ["--train-list", "--test-list"])
def test_missing_and_empty_lists(capsys, clips, tmp_path, option):
    message = fail(capsys, *clips, option, tmp_path / "none.txt")
    assert message == f"{option}: cannot read {tmp_path}/none.txt: No such file or directory"
    (tmp_path / "blank.txt").write_text("\n \n")
    message = fail(capsys, *clips, option, tmp_path / "blank.txt")
    assert message == f"{option}: {tmp_path}/blank.txt holds no ids"
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    message = fail(capsys, *clips, option, tmp_path / "binary.txt")
    assert message.startswith(f"{option}: cannot read {tmp_path}/binary.txt")


DOG, FOUR = '"file": "a", "class": "dog", "bbox"', "must be four numbers x0, y0, x1, y1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "--annotations: cannot read"),
        ("{}", "must hold a list of clips"),
        ("[]", "must hold a list of clips"),
        ('[{"file": "test0", "bbox": []}]', "vggss.json: entry 0: class: is missing"),
        (f"[{{{DOG}: [[0, 0, 1]]}}]", f"entry 0: bbox.0: {FOUR}, got [0, 0, 1]"),
        (f"[{{{DOG}: [[0, 0, 1, NaN]]}}]", f"entry 0: bbox.0: {FOUR}, got [0, 0, 1, nan]"),
        (f'[{{{DOG}: [[0, 0, 1, "1"]]}}]', f"entry 0: bbox.0: {FOUR}, got [0, 0, 1, '1']"),
        ("[3]", "entry 0: must be a valid dictionary"),
    ],
)
def test_unreadable_annotations(capsys, clips, tmp_path, text, message):
    (tmp_path / "vggss.json").write_text(text)
    assert message in fail(capsys, *clips)


def test_boxes_in_pixels(capsys, clips, tmp_path):
    entries = [{"file": f"test{c}", "class": "dog", "bbox": [[20, 30, 90, 80]]} for c in range(2)]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    assert "first test0: boxes must be shares of the image" in fail(capsys, *clips)


def test_ids_without_files_and_without_annotation(capsys, clips, tmp_path):
    (tmp_path / "train" / "frames" / "train1.jpg").unlink()
    message = fail(capsys, *clips)
    assert "1 of " in message
    assert "more than --max-missing 0.05; first train1: no frame" in message
    assert message.endswith(f"; the list: {tmp_path}/run/skipped.csv")
    assert [clip for _, clip in listed(tmp_path / "run")] == ["train1"]
    (tmp_path / "whole.txt").write_text("train0\ntrain2\ntrain3\ntrain4\n")
    (tmp_path / "test.csv").write_text("test0\ntest1\nstranger\n")
    message = fail(capsys, *clips, "--train-list", tmp_path / "whole.txt", "--max-missing", 0.3)
    assert "--test-list: 1 of 3 test clips cannot be used" in message
    assert "first stranger: no entry in --annotations" in message
    assert listed(tmp_path / "run") == [("test", "stranger")]


def test_every_unusable_clip_is_listed_and_the_folder_stays_free(capsys, clips, tmp_path):
    for path in (tmp_path / "train" / "frames").iterdir():
        path.write_bytes(b"broken")
    (tmp_path / "test" / "audio" / "test1.wav").write_bytes(b"broken")
    for _ in range(2):
        assert "the list: " in fail(capsys, *clips)
    entries = listed(tmp_path / "run")
    assert sorted(clip for split, clip in entries if split != "test") == [
        f"train{clip}" for clip in range(6)
    ]
    assert ("test", "test1") in entries
    (tmp_path / "test" / "audio" / "test0.wav").unlink()
    assert "none of the 2 test clips can be used" in fail(capsys, *clips)
    assert listed(tmp_path / "run") == [("test", "test0"), ("test", "test1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--validation-size", 6],
            "--validation-size 6 leaves none of the 6 clips of --train-list",
        ),
        (["--validation-size", 512], "--validation-size 512 leaves none of the 6 clips"),
        (["--validation-size", 5], "--batch-size 2 is larger than the 1 clips of --train-list"),
        (["--batch-size", 5], "--batch-size 5 is larger than the 4 clips of --train-list"),
    ],
)
def test_what_the_length_of_a_list_shows_is_said_before_any_file_is_read(
    capsys, clips, tmp_path, monkeypatch, options, message
):
    for name in ("check_files", "annotated_set"):
        monkeypatch.setattr(data, name, lambda *_, **__: pytest.fail("a file is read"))
    (tmp_path / "vggss.json").write_text("not read either")
    assert fail(capsys, *clips, *options).startswith(message)


def test_a_batch_larger_than_what_can_be_read(capsys, clips, tmp_path):
    for path in (tmp_path / "train" / "frames").iterdir():
        if path.stem not in ("train0", "train1"):
            path.write_bytes(b"broken")
    message = fail(capsys, *clips, "--max-missing", 0.99, "--validation-size", 1)
    assert message == (
        "--batch-size 2 is larger than the 1 readable clips of --train-list; "
        f"the list: {tmp_path}/run/skipped.csv"
    )


def test_held_out_clips_that_cannot_be_shared(capsys, clips, tmp_path):
    whole = "--validation-size 3 cannot be split evenly over 2 processes"
    assert whole in fail(capsys, *clips, "--devices", 2, "--validation-size", 3, "--batch-size", 4)
    held_out = torch.randperm(6, generator=generator_for(DATA_SEED))[0]
    (tmp_path / "train" / "frames" / f"train{held_out}.jpg").write_bytes(b"broken")
    message = fail(capsys, *clips, "--devices", 2, "--max-missing", 0.5)
    assert message == (
        "--validation-size: 1 readable clips cannot be split evenly over 2 processes "
        f"(--devices 2 x --num-nodes 1); the list: {tmp_path}/run/skipped.csv"
    )


def test_an_output_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = fail(
        capsys,
        *["--train-size", 2, "--batch-size", 2, "--test-size", 12],
        *["--validation-size", 2, "--output-dir", tmp_path / "file" / "run"],
    )
    assert message.endswith(f"{tmp_path}/file is no writable folder")
