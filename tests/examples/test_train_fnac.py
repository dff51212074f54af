import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_fnac
from PIL import Image

from avscenes.testing.retrieval import class_chance

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
    "checkpoints/last.ckpt",
    "checkpoints/best.ckpt",
    "learning_curves.png",
    "localization.png",
    "adjacency.png",
    "similarity.png",
}
# Lightning's own use of a name that torch deprecates; the script silences it, pytest undoes that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


# One thread, because two that share a busy core wait for each other; and the same number for every
# run, because sums depend on it.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*options):
    return [sys.executable, str(SCRIPT), *map(str, options)]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
    assert any(name.startswith("tensorboard/events") for name in present)
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
        expected = float(row["train_info_nce"]) + 100 * terms
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
        for who in ("model", "centre_disc", "ceiling")
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


def test_the_run_ends_with_its_tables_and_complains_of_nothing(finished):
    output, result = finished
    lines = result.stdout.splitlines()
    assert f"tested {output}/checkpoints/last.ckpt (epoch {EPOCHS}) on 36 pairs" in result.stdout
    assert any(
        line.split() == ["localisation", "model", "centre", "disc", "ceiling"] for line in lines
    )
    assert lines[-1].startswith("own pair, sound to image")
    assert len(lines[-1].split()) == 11
    assert "Warning" not in result.stderr
    assert "deprecated" not in result.stderr


def assert_same(one, other):
    """Compare two checkpoints, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path, stop):
    output = tmp_path / "run"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        command(*TINY, "--output-dir", output), stdout=log, stderr=log, env=ENVIRONMENT
    )
    table = output / "metrics.csv"
    deadline = time.monotonic() + 1200
    while not (table.exists() and len(read_rows(table)) >= 3):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(stop)
    status = process.wait(timeout=300)
    log.close()
    assert status == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    assert len(read_rows(table)) < EPOCHS
    assert not (output / "metrics.json").exists()
    if stop == signal.SIGINT:
        assert (
            f"interrupted; go on with --resume --output-dir {output}"
            in (tmp_path / "log").read_text()
        )

    # The settings come from the folder.
    subprocess.run(
        command("--resume", "--output-dir", output), check=True, timeout=1200, env=ENVIRONMENT
    )
    whole, _ = finished
    assert (output / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for name in ("last", "best"):
        one, other = (load(run / "checkpoints" / f"{name}.ckpt") for run in (output, whole))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert_same(one[key], other[key])
    results = [json.loads((run / "metrics.json").read_text()) for run in (output, whole)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def test_a_finished_run_is_tested_again_and_kept_as_it_is(finished, capsys):
    output, _ = finished
    before = (output / "checkpoints" / "last.ckpt").read_bytes()
    table = (output / "metrics.csv").read_text()
    assert train_fnac.main(["--resume", "--output-dir", str(output), "--workers", "0"]) == 0
    assert (output / "checkpoints" / "last.ckpt").read_bytes() == before
    assert (output / "metrics.csv").read_text() == table
    assert "own pair" in capsys.readouterr().out


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
    status = train_fnac.main(["--resume", "--output-dir", str(finished[0]), option, value])
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over(finished, capsys):
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert train_fnac.main([*TINY, "--output-dir", str(output)]) == 2
    assert "holds a run already; go on with it by --resume" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_vggsound_end_to_end_with_resnet_and_a_broken_clip(tmp_path, make_clip, capsys):
    for clip in range(8):
        suffix = "png" if clip % 2 else "jpg"
        rate = (16_000, 22_050, 44_100)[clip % 3]
        make_clip(tmp_path / "train", f"train{clip}", suffix=suffix, rate=rate)
    for clip in range(3):
        make_clip(tmp_path / "test", f"test{clip}", seconds=1.2)
    (tmp_path / "train" / "audio" / "train5.wav").write_bytes(b"RIFF")
    (tmp_path / "train.txt").write_text("\n".join(f"train{clip}" for clip in range(8)))
    (tmp_path / "test.csv").write_text("test0\ntest1\ntest2\n")
    entries = [
        {"file": f"test{clip}", "class": f"class {clip}", "bbox": [[0.1, 0.1, 0.8, 0.7]]}
        for clip in range(3)
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    output = tmp_path / "run"
    status = train_fnac.main(
        [
            *("--dataset", "vggsound", "--loss", "fns", "--accelerator", "cpu"),
            *("--data-root", str(tmp_path / "train"), "--train-list", str(tmp_path / "train.txt")),
            *("--test-root", str(tmp_path / "test"), "--test-list", str(tmp_path / "test.csv")),
            *("--annotations", str(tmp_path / "vggss.json"), "--output-dir", str(output)),
            *("--epochs", "1", "--batch-size", "2", "--validation-size", "3", "--workers", "0"),
            *("--max-missing", "0.5", "--evaluate", "best"),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "clip train5: " in printed.out
    assert [row["clip"] for row in read_rows(output / "skipped.csv")] == ["train5"]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["train_samples"] + metrics["validation_samples"] == 7
    assert metrics["checkpoint"] == "best"
    assert (output / "localization.png").is_file()


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


def test_class_chance_is_the_share_of_hits_of_random_rankings():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    # Classes of 3, 2 and 1 among 5 others: 2, 1 and 0 right answers.
    assert class_chance(labels, 1) == pytest.approx((3 * 2 / 5 + 2 * 1 / 5 + 0) / 6)
    assert class_chance(labels, 5) == pytest.approx(5 / 6)
    assert class_chance(labels, 50) == pytest.approx(5 / 6)


def test_help_names_every_option_and_its_defaults():
    result = subprocess.run(command("--help"), capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0
    for option in (
        *("--dataset", "--data-root", "--train-list", "--test-root", "--test-list"),
        *("--annotations", "--loss", "--temperature", "--fns-audio-weight", "--fns-visual-weight"),
        *("--tne-weight", "--warmup-epochs", "--epochs", "--batch-size", "--train-size"),
        *("--encoder", "--image-weights", "--lr", "--weight-decay", "--image-dropout"),
        *("--precision", "--devices", "--num-nodes", "--workers", "--compile", "--seed"),
        *("--output-dir", "--resume", "--max-missing", "--allow-overlap"),
        *("--recipe", "--transform", "--anchor", "--init-from"),
    ):
        assert f"{option} " in result.stdout, option
    assert "(default: 128 / 256)" in result.stdout
    assert "(default: fnac)" in result.stdout
