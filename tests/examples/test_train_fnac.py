import json
import math
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import train_fnac
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from script_runs import fault_of, read_metrics, read_rows, run_script, wait_for_rows

from avscenes.files.whole_files import write_whole
from avscenes.options.training import parse
from avscenes.testing.retrieval import class_chance
from avscenes.training import records
from avscenes.training.settings import Settings

SCRIPT = Path(train_fnac.__file__)
EPOCHS = 5
TINY = [
    *("--train-size", "64"),
    *("--validation-size", "32"),
    *("--test-size", "36"),
    *("--batch-size", "32"),
    *("--epochs", str(EPOCHS)),
    *("--warmup-epochs", "2"),
    *("--warm-start-epochs", "0"),
    *("--image-dropout", "0.3"),
    *("--accelerator", "cpu"),
]
FILES = {
    "config.json",
    "metrics.csv",
    "metrics.json",
    "samples.csv",
    "table.txt",
    "checkpoints/last.ckpt",
    "checkpoints/best.ckpt",
    "learning_curves.png",
    "localization.png",
    "adjacency.png",
    "similarity.png",
    "gallery.png",
}


# One thread, because two that share a busy core wait for each other; and the same number for every
# run, because sums depend on it.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*options):
    return [sys.executable, str(SCRIPT), *map(str, options)]


def load(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run, as a person starts it, and what it printed."""
    output = tmp_path_factory.mktemp("finished") / "run"
    result = subprocess.run(
        command(*TINY, "--output-dir", output),
        capture_output=True,
        text=True,
        timeout=1200,
        env=ENVIRONMENT,
    )
    assert result.returncode == 0, result.stderr
    return output, result


def test_every_file_is_there_and_whole(finished):
    output, _ = finished
    present = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert present >= FILES
    written = any(name.startswith("tensorboard/events") for name in present)
    assert written == (find_spec("tensorboard") is not None)
    assert not any("partial" in name for name in present)
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(output / name) as image:
                image.load()
                assert min(image.size) > 300


def test_the_table_has_a_row_for_each_epoch_with_every_term(finished):
    rows = read_rows(finished[0] / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    assert [float(row["regularization"]) for row in rows] == [0, 0, 1, 1, 1]
    for stage in ("train", "validation"):
        for term in ("loss", "info_nce", "fns_audio", "fns_visual", "tne"):
            values = [float(row[f"{stage}_{term}"]) for row in rows]
            assert all(math.isfinite(value) and value > 0 for value in values)
    for row in rows[:2]:
        assert float(row["train_loss"]) == pytest.approx(float(row["train_info_nce"]))
    for row in rows[2:]:
        terms = sum(float(row[f"train_{name}"]) for name in ("fns_audio", "fns_visual", "tne"))
        expected = float(row["train_info_nce"]) + 100 / 128 * terms
        assert float(row["train_loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_best_checkpoint_is_that_of_the_lowest_held_out_contrast(finished):
    output, _ = finished
    values = [float(row["validation_info_nce"]) for row in read_rows(output / "metrics.csv")]
    best = load(output / "checkpoints" / "best.ckpt")
    assert best["epoch"] == values.index(min(values))
    last = load(output / "checkpoints" / "last.ckpt")
    assert last["epoch"] == EPOCHS - 1
    assert last["callbacks"]["LastAndBest"]["best_epoch"] == best["epoch"]


def test_the_final_metrics_stand_beside_baseline_ceiling_and_chance(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    shares = {
        f"{who}_{what}"
        for who in ("model", "centre_disc", "ceiling", "chance")
        for what in ("success_half", "success_quarter", "auc_half", "auc_quarter", "pointing")
    }
    shares |= {
        f"{kind}_{direction}_r{k}"
        for kind in ("class", "pair")
        for direction in ("image_to_sound", "sound_to_image")
        for k in (1, 5, 10)
    }
    shares |= {f"class_region_to_sound_r{k}" for k in (1, 5, 10)}
    shares |= {f"chance_{kind}_r{k}" for kind in ("class", "pair") for k in (1, 5, 10)}
    assert metrics.keys() >= shares
    assert all(0 <= metrics[name] <= 1 for name in shares)
    assert metrics["ceiling_success_quarter"] == 1
    assert metrics["ceiling_pointing"] == 1
    assert metrics["chance_class_r1"] == pytest.approx(2 / 35)
    assert metrics["chance_pair_r10"] == pytest.approx(10 / 36)
    assert metrics["checkpoint"] == "last"
    assert metrics["epoch"] == EPOCHS
    assert metrics["test_samples"] == 36


def test_the_run_ends_with_its_table_and_complains_of_nothing(finished):
    output, result = finished
    table = (output / "table.txt").read_text()
    assert result.stdout.endswith(f"\n\n{table}\nwritten to {output}\n")
    assert "each image shows a silent object too" in result.stdout
    title, protocol, _, heading, *lines = table.splitlines()
    assert title == f"{output}/checkpoints/last.ckpt (epoch {EPOCHS}), synthetic: 36 pairs"
    assert protocol.startswith("ezvsl-test (")
    assert heading.split() == ["model", "centre", "disc", "ceiling", "chance"]
    assert lines[-1].startswith("own pair, pooled")
    assert len(read_rows(output / "samples.csv")) == 36
    assert "Warning" not in result.stderr
    assert "deprecated" not in result.stderr


def assert_same(one, other):
    """Compare states of two runs, tensors bit for bit."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def resume(output, *options):
    return run_script(train_fnac, "--resume", "--output-dir", output, *options)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path, stop):
    output, printed = tmp_path / "run", tmp_path / "log"
    table = output / "metrics.csv"
    with printed.open("w") as log:
        process = subprocess.Popen(
            command(*TINY, "--output-dir", output), stdout=log, stderr=log, env=ENVIRONMENT
        )
    wait_for_rows(process, table, 3, printed)
    process.send_signal(stop)
    status = process.wait(timeout=300)
    assert status == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    assert len(read_rows(table)) < EPOCHS
    assert not (output / "metrics.json").exists()
    if stop == signal.SIGINT:
        advice = f"interrupted; go on with --resume --output-dir {output}"
        assert advice in printed.read_text()

    # The settings come from the folder.
    subprocess.run(
        command("--resume", "--output-dir", output), check=True, timeout=1200, env=ENVIRONMENT
    )
    whole, _ = finished
    assert (output / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for name in ("last", "best"):
        one, other = (load(run / "checkpoints" / f"{name}.ckpt") for run in (output, whole))
        for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
            assert_same(one[key], other[key])
        assert one["lr_schedulers"] == other["lr_schedulers"]
    assert read_metrics(output) == read_metrics(whole)


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run in a folder that may be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run whose best checkpoint is that of its first epoch."""
    output = tmp_path_factory.mktemp("early") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_fnac, "monitor_of", lambda _: "regularization")
        assert train_fnac.main([*TINY, "--output-dir", str(output)]) == 0
    assert load(output / "checkpoints" / "best.ckpt")["epoch"] == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 5_000, None])
def test_a_run_whose_last_checkpoint_is_lost_goes_on_from_the_best(early, tmp_path, capsys, left):
    output = shutil.copytree(early, tmp_path / "run")
    last = output / "checkpoints" / "last.ckpt"
    if left is None:
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:left])
    assert resume(output) == 0
    said = capsys.readouterr().out
    assert f"cannot read {last}: " in said
    assert "; what came after best.ckpt is trained again\n" in said
    assert f"going on after epoch 1 of {EPOCHS}\n" in said
    assert (output / "metrics.csv").read_text() == (early / "metrics.csv").read_text()
    assert_same(load(last)["state_dict"], load(early / "checkpoints" / "last.ckpt")["state_dict"])


@pytest.mark.slow
def test_a_lost_last_checkpoint_is_made_of_a_best_one_that_is_as_new(copied, capsys):
    last = copied / "checkpoints" / "last.ckpt"
    shutil.copy(last, last.with_name("best.ckpt"))
    last.write_bytes(b"")
    assert resume(copied) == 0
    assert f"going on after epoch {EPOCHS} of {EPOCHS}\n" in capsys.readouterr().out
    assert load(last)["epoch"] == EPOCHS - 1


@pytest.mark.slow
def test_a_run_without_a_readable_checkpoint_says_so(copied, capsys):
    for name in ("last", "best"):
        (copied / "checkpoints" / f"{name}.ckpt").write_bytes(b"")
    fault = fault_of(capsys, train_fnac, "--resume", "--output-dir", copied)
    assert fault.startswith(f"--output-dir: cannot read {copied}")
    assert fault.endswith("nor can best.ckpt be read: start a new run in another folder")


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_anew(finished, tmp_path, capsys):
    whole, _ = finished
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(whole / "config.json", output)
    assert resume(output) == 0
    assert "there is no checkpoint yet: starting anew\n" in capsys.readouterr().out
    assert load(output / "checkpoints" / "last.ckpt")["epoch"] == EPOCHS - 1


@pytest.mark.slow
def test_a_torn_checkpoint_is_not_tested(copied, capsys):
    best = copied / "checkpoints" / "best.ckpt"
    best.write_bytes(b"")
    options = ["--resume", "--output-dir", copied, "--evaluate", "best"]
    assert f"--output-dir: cannot read {best}: " in fault_of(capsys, train_fnac, *options)


def test_a_finished_run_is_tested_again_and_kept_as_it_is(finished, capsys):
    output, _ = finished
    before = (output / "checkpoints" / "last.ckpt").read_bytes()
    table = (output / "metrics.csv").read_text()
    assert resume(output, "--workers", 0) == 0
    assert (output / "checkpoints" / "last.ckpt").read_bytes() == before
    assert (output / "metrics.csv").read_text() == table
    assert "own pair" in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_run_that_gets_longer_is_a_longer_run(tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    constant = [*TINY, "--schedule", "constant", "--lr", "1e-3"]
    for options in (
        [*constant, "--output-dir", short, "--epochs", 3],
        ["--resume", "--output-dir", short, "--epochs", EPOCHS],
        [*constant, "--output-dir", long],
    ):
        subprocess.run(command(*options), check=True, timeout=300, env=ENVIRONMENT)
    assert (short / "metrics.csv").read_text() == (long / "metrics.csv").read_text()
    settings = [json.loads((run / "config.json").read_text())["settings"] for run in (short, long)]
    assert settings[0] == {**settings[1], "output_dir": str(short)}
    assert read_metrics(short) == read_metrics(long)
    for name in ("last", "best"):
        one, other = (load(run / "checkpoints" / f"{name}.ckpt") for run in (short, long))
        for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
            assert_same(one[key], other[key])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "0.5", "--lr is 0.5 but the run was started with 0.003; leave the option out"),
        ("--epochs", "9", f"--epochs is 9 but the run was started with {EPOCHS}"),
        ("--loss", "nce", "--loss is nce but the run was started with fnac"),
        ("--seed", "3", "--seed is 3 but the run was started with 0"),
    ],
)
def test_resuming_with_other_settings_is_refused(finished, capsys, option, value, message):
    assert resume(finished[0], option, value) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over(finished, capsys):
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert train_fnac.main([*TINY, "--output-dir", str(output)]) == 2
    assert "holds results already; go on with them by --resume" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_vggsound_end_to_end_with_resnet_and_a_broken_clip(
    tmp_path, make_clip, make_vggsound, capsys
):
    for clip in range(8):
        suffix = "png" if clip % 2 else "jpg"
        rate = (16_000, 22_050, 44_100)[clip % 3]
        make_clip(tmp_path / "train", f"train{clip}", suffix=suffix, rate=rate)
    (tmp_path / "train" / "audio" / "train5.wav").write_bytes(b"RIFF")
    (tmp_path / "train.txt").write_text("\n".join(f"train{clip}" for clip in range(8)))
    output = tmp_path / "run"
    status = run_script(
        train_fnac,
        *("--dataset", "vggsound", "--loss", "fns", "--accelerator", "cpu"),
        *("--data-root", tmp_path / "train", "--train-list", tmp_path / "train.txt"),
        *(*make_vggsound(test=3, seconds=1.2), "--output-dir", output),
        *("--epochs", 1, "--batch-size", 2, "--validation-size", 3, "--workers", 0),
        *("--max-missing", 0.5, "--evaluate", "best"),
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "clip train5: " in printed.out
    assert [row["clip"] for row in read_rows(output / "skipped.csv")] == ["train5"]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["train_samples"] + metrics["validation_samples"] == 7
    assert metrics["checkpoint"] == "best"
    assert (output / "localization.png").is_file()


def test_own_clips_need_a_folder_alone(tmp_path, make_clip, capsys):
    for clip in range(9):
        make_clip(tmp_path / "own", f"clip{clip}", size=(48, 32), seconds=1)
    (tmp_path / "own" / "audio" / "clip3.wav").unlink()
    status = run_script(
        train_fnac,
        *("--dataset", "clips", "--data-root", tmp_path / "own", "--encoder", "small"),
        *("--epochs", 1, "--workers", 0, "--accelerator", "cpu"),
        *("--output-dir", tmp_path / "run"),
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "left out: unpaired clip clip3: no sound\n" in printed.out
    assert "4 pairs to train on in batches of 2, 2 to choose a checkpoint by, 2 to test on\n" in (
        printed.out
    )
    assert "R@1, own pair, image to sound" in printed.out
    assert "success" not in printed.out
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (found["train_samples"], found["validation_samples"], found["test_samples"]) == (4, 2, 2)
    made = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert {"gallery.png", "localization.png", "learning_curves.png"} <= made
    listed = [path.read_text().split() for path in (tmp_path / "run" / "lists").iterdir()]
    names = [f"clip{clip}" for clip in range(9) if clip != 3]
    assert sorted(name for part in listed for name in part) == names


@pytest.fixture
def breaking(tmp_path, make_vggsound, monkeypatch):
    """The options of a run on eight clips, one of which breaks between training and test."""
    data = make_vggsound(train=4, test=4, size=(64, 48), seconds=1)
    train = train_fnac.train

    def train_and_break(*everything):
        train(*everything)
        (tmp_path / "test" / "frames" / "test1.jpg").write_bytes(b"")

    monkeypatch.setattr(train_fnac, "train", train_and_break)
    return [
        *(*data, "--dataset", "vggsound", "--encoder", "small", "--accelerator", "cpu"),
        *("--epochs", "1", "--batch-size", "2", "--validation-size", "2", "--workers", "0"),
        *("--output-dir", str(tmp_path / "run")),
    ]


@pytest.mark.slow
def test_a_test_clip_that_breaks_during_the_training_is_left_out(breaking, tmp_path, capsys):
    output = tmp_path / "run"
    status = train_fnac.main([*breaking, "--max-missing", "0.25"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "left out: test clip test1: " in printed.out
    assert "vggsound: 3 pairs, 1 left out" in printed.out
    assert [row["id"] for row in read_rows(output / "samples.csv")] == ["test0", "test2", "test3"]
    assert [row["clip"] for row in read_rows(output / "left_out.csv")] == ["test1"]
    assert read_rows(output / "skipped.csv") == []
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["test_samples"], metrics["left_out"]) == (3, 1)


@pytest.mark.slow
def test_test_clips_that_break_during_the_training_are_listed(breaking, tmp_path, capsys):
    assert train_fnac.main([*breaking, "--max-missing", "0"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 4 test clips cannot be used, more than --max-missing 0; first test1: " in message
    assert message.endswith(f"; the list: {tmp_path}/run/left_out.csv")
    assert [row["clip"] for row in read_rows(tmp_path / "run" / "left_out.csv")] == ["test1"]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "epochs"), [("nce", 0), ("fnac", 2), ("elimination", 2)])
def test_a_warm_up_is_drawn_where_a_term_joins(tmp_path, monkeypatch, loss, epochs):
    drawn = []
    monkeypatch.setattr(train_fnac, "draw_all", lambda *_, **named: drawn.append(named))
    options = ["--loss", loss, "--epochs", "1", "--output-dir", str(tmp_path / "run")]
    assert train_fnac.main([*TINY, *options]) == 0
    assert [named["warmup_epochs"] for named in drawn] == [epochs]


@pytest.mark.slow
def test_likely_false_negatives_are_left_out_after_the_warm_up(tmp_path):
    rows = {}
    for loss in ("nce", "elimination"):
        folder = tmp_path / loss
        options = [*TINY, "--epochs", "3", "--elimination-level", "0.2", "--loss", loss]
        assert train_fnac.main([*options, "--output-dir", str(folder)]) == 0
        rows[loss] = read_rows(folder / "metrics.csv")
    for plain, ours in zip(rows["nce"][:2], rows["elimination"][:2], strict=True):
        assert ours["train_info_nce"] == plain["train_info_nce"]
    assert float(rows["elimination"][2]["train_info_nce"]) < float(rows["nce"][2]["train_info_nce"])
    assert [row["regularization"] for row in rows["elimination"]] == ["0.0", "0.0", "1.0"]


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(path, content):
        if path.suffix == ".ckpt":
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(records, "write_whole", full)
    output = tmp_path / "run"
    assert train_fnac.main([*TINY, "--output-dir", str(output)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"train_fnac.py: error: cannot write to {output}: No space left on device; "
        f"make room, then --resume --output-dir {output}"
    )


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_no_broken_checkpoint(tmp_path, capsys):
    status = train_fnac.main([*TINY, "--lr", "1e30", "--output-dir", str(tmp_path / "run")])
    assert status == 2
    assert "the training diverged; start a new run with a lower --lr" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_the_default_run_learns_to_localise(tmp_path):
    """One seed with every default; seeds differ by about 0.1, and the bounds leave room for it."""
    subprocess.run(command("--output-dir", tmp_path), check=True, capture_output=True)
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["centre_disc_success_quarter"] < 0.05
    assert results["model_success_quarter"] > 0.6
    assert results["model_pointing"] > results["centre_disc_pointing"] + 0.1
    assert results["chance_class_r1"] < 0.09
    assert results["class_region_to_sound_r1"] > 0.8
    # Each image shows a silent object too, which is found half of the time. From sound to image few
    # images lead for all sounds of a class: twelve classes decide, not the 504 queries.
    assert results["class_image_to_sound_r1"] > 0.35
    assert results["class_sound_to_image_r1"] > 0.15


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_written_for_where_it_is_installed(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(train_fnac, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(train_fnac, "TensorBoardLogger", lambda *_, **__: DummyLogger())
    settings = parse(["--accelerator", "cpu", "--output-dir", str(tmp_path)])
    assert len(train_fnac.build_trainer(settings, tmp_path, []).loggers) == installed


def test_class_chance_is_the_share_of_hits_of_random_rankings():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    # Classes of 3, 2 and 1 among 5 others: 2, 1 and 0 right answers.
    assert class_chance(labels, 1) == pytest.approx((3 * 2 / 5 + 2 * 1 / 5 + 0) / 6)
    assert class_chance(labels, 5) == pytest.approx(5 / 6)
    assert class_chance(labels, 50) == pytest.approx(5 / 6)


def test_help_names_every_option_and_its_defaults():
    result = subprocess.run(command("--help"), capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in result.stdout, name
    assert "(default: 128 / 256)" in result.stdout
    assert "(default: fnac)" in result.stdout
