"""The example on several processes, all on the CPU."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import train_fnac
from script_runs import read_metrics, read_rows, wait_for_rows

from avscenes.files.errors import UserError
from avscenes.models.encoders import SharedDropout, build_encoders
from avscenes.scenes.scene import make_scenes
from avscenes.sets.loaders import train_loader, validation_loader
from avscenes.sets.neighbour_lists import write_neighbours
from avscenes.sets.scene_pairs import SceneDataset
from avscenes.sets.testsets import scene_tests
from avscenes.testing.run import Conditions, Networks, run_part, whole_test
from avscenes.training.processes import SameData, average_in_order, check_launcher

RECORDER = Path(__file__).with_name("step_recorder.py")
# Neither the training pairs nor the test pairs divide. In double precision, because rounding is
# what runs on different numbers of processes differ by, and Adam makes it large in its first steps.
OPTIONS = [
    *("--train-size", "44", "--validation-size", "20", "--test-size", "37", "--batch-size", "20"),
    *("--epochs", "4", "--warmup-epochs", "1", "--warm-start-epochs", "1", "--norm", "group"),
    *("--image-dropout", "0.3", "--accelerator", "cpu", "--precision", "64-true"),
]
# Without the variables of another launcher that may have started the tests.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(train_fnac.__file__).parent),
}


def command(output, *options, torchrun=0):
    start = [sys.executable]
    if torchrun:
        # A port of its own, so that runs side by side do not meet.
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(torchrun)]
    return [*start, str(RECORDER), *options, "--output-dir", str(output)]


def complete(output, *options, torchrun=0):
    """Do a whole run and return what it printed."""
    output.parent.mkdir(exist_ok=True)
    result = subprocess.run(
        command(output, *options, torchrun=torchrun),
        capture_output=True,
        text=True,
        timeout=1200,
        env=ENVIRONMENT,
    )
    assert result.returncode == 0, result.stderr
    return result


def losses(output, rank):
    return json.loads((output.parent / f"losses.{rank}").read_text())


def read_table(output):
    """Return the table of a run as numbers."""
    rows = read_rows(output / "metrics.csv")
    return [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "run"
    complete(output, *OPTIONS)
    return output


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    output = tmp_path_factory.mktemp("pair") / "run"
    return output, complete(output, *OPTIONS, "--devices", "2")


def assert_same_run(output, other, processes):
    expected = losses(other, 0)
    assert len(expected) == 8
    for rank in range(processes):
        assert losses(output, rank) == pytest.approx(expected, rel=1e-9)
    for row, expected in zip(read_table(output), read_table(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-9)
    found, expected = read_metrics(output), read_metrics(other)
    assert found["checkpoint"] == "last"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        near = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert found[name] == near, name


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_of_lightning_are_one_run(alone, pair):
    output, result = pair
    assert_same_run(output, alone, 2)
    assert result.stdout.count("2 processes: 10 of 20 pairs each") == 1
    assert result.stdout.count("visual warm start") == 1
    assert result.stdout.count("R@1, own pair, sound to image") == 1
    assert "batch norm" not in result.stdout
    assert "Warning" not in result.stderr
    assert "deprecated" not in result.stderr


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_of_torchrun_are_one_run(alone, tmp_path):
    output = tmp_path / "run"
    complete(output, *OPTIONS, "--devices", "4", torchrun=4)
    assert_same_run(output, alone, 4)


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_that_loses_a_process_goes_on_to_the_same_end(pair, tmp_path):
    whole, _ = pair
    output, printed = tmp_path / "run", tmp_path / "log"
    with printed.open("w") as log:
        process = subprocess.Popen(
            command(output, *OPTIONS, "--devices", "2"), stdout=log, stderr=log, env=ENVIRONMENT
        )
    wait_for_rows(process, output / "metrics.csv", 2, printed)
    os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    assert len(read_rows(output / "metrics.csv")) < 4
    assert not (output / "metrics.json").exists()

    # The number of processes, too, comes from the folder.
    complete(output, "--resume")
    assert (output / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert read_metrics(output) == read_metrics(whole)
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (output, whole)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["lvs", "hardpos", "alignment"])
def test_losses_of_other_methods_are_one_run_on_two_processes(tmp_path, loss):
    options = ["--loss", loss, *OPTIONS, "--epochs", "2"]
    place = options.index("--warmup-epochs")
    del options[place : place + 2]
    if loss != "lvs":
        near = torch.tensor([[(row + step) % 44 for step in (12, 1, 24)] for row in range(44)])
        write_neighbours(tmp_path / "near.npz", list(map(str, range(44))), near, near.flip(1))
        options += ["--neighbours", str(tmp_path / "near.npz")]
    outputs = tmp_path / "alone" / "run", tmp_path / "pair" / "run"
    for output, more in zip(outputs, ([], ["--devices", "2"]), strict=True):
        complete(output, *options, *more)
    expected = losses(outputs[0], 0)
    assert len(expected) == 4
    for rank in range(2):
        assert losses(outputs[1], rank) == pytest.approx(expected, rel=1e-9)
    for row, other in zip(*map(read_table, outputs), strict=True):
        assert row == pytest.approx(other, rel=1e-9)


class Pooled(torch.nn.Module):
    """Stands for both encoders; it rounds the same in batches of any size."""

    def __init__(self):
        super().__init__()
        self.where = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        if inputs.shape[1] == 3:
            return torch.nn.functional.avg_pool2d(inputs, 16)
        return inputs.mean(dim=(1, 2))[:, :3]


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("count", [1, 5, 7, 8])
def test_the_test_set_is_scored_in_parts_and_put_together_once(world, count):
    tests, how, module = scene_tests(count), Conditions("synthetic", "ezvsl-test"), Pooled()

    def tested(world):
        limits = {"batch_size": 2, "workers": 0, "max_missing": 0}
        return [
            run_part(Networks(module, module), tests, how, **limits, rank=rank, world=world)
            for rank in range(world)
        ]

    sizes = [sum(len(batch.rows) for batch in part.batches) for part in tested(world)]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    together, alone = (whole_test(tested(n), tests, how, 0) for n in (world, 1))
    assert together.rows.tolist() == list(range(count))
    pairs = [tests.labelled.pairs[index] for index in range(count)]
    visual, audio = (module(torch.stack(inputs)) for inputs in zip(*pairs))
    assert torch.equal(together.features.visual, visual)
    assert torch.equal(together.features.audio, audio)
    assert together.columns.keys() == alone.columns.keys()
    for name, column in alone.columns.items():
        torch.testing.assert_close(together.columns[name], column)


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_all_processes_are_the_batches_of_one(world):
    pairs = SceneDataset(make_scenes(0, "train", 22), seed=4)

    def batches(load, **own):
        return [torch.cat([part.flatten(1) for part in batch], dim=1) for batch in load(**own)]

    def training(**own):
        return train_loader(pairs, 22, 8, seed=4, workers=0, **own)

    def validation(**own):
        return validation_loader(pairs, 22, 8, workers=0, **own)

    for load in (training, validation):
        whole = batches(load)
        shares = [batches(load, rank=rank, world=world) for rank in range(world)]
        assert len(whole) == 2
        for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
            assert torch.equal(torch.cat(parts), batch)


def test_dropout_does_not_depend_on_the_number_of_processes():
    features = torch.randn(8, 5, 3, 3)
    dropout = SharedDropout(0.4)

    def drop(rank, world):
        torch.manual_seed(1)
        dropout.rank, dropout.world = rank, world
        return dropout(features[rank * 8 // world : (rank + 1) * 8 // world])

    whole = drop(0, 1)
    assert 0 < (whole == 0).float().mean() < 1
    for world in (2, 4):
        assert torch.equal(torch.cat([drop(rank, world) for rank in range(world)]), whole)
    dropout.eval()
    assert torch.equal(drop(1, 2), features[4:])


def test_gradients_are_added_in_the_order_of_the_ranks(monkeypatch):
    gradients = [torch.tensor([1e8, 1.0]), torch.tensor([-1e8, 2.0]), torch.tensor([1.0, 3.0])]

    def all_gather(parts, own):
        for part, gradient in zip(parts, gradients, strict=True):
            part.copy_(gradient)

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    mean = average_in_order(gradients[1]).value()
    # Added in another order, the first would be 0: 1e8 + 1 is 1e8 in fp32.
    assert torch.equal(mean, torch.tensor([1.0, 6.0]) / 3)


def test_group_norm_looks_at_one_sample_at_a_time():
    images, sounds = torch.randn(4, 3, 64, 64), torch.randn(4, 1, 64, 64)
    for encoder, inputs in zip(build_encoders("small", norm="group"), (images, sounds)):
        torch.testing.assert_close(encoder(inputs)[:1], encoder(inputs[:1]))


def test_processes_that_read_other_clips_stop():
    same_data = SameData()
    same_data.digest = "a"
    trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda own: "a"))
    same_data.setup(trainer, None, "fit")
    same_data.digest = "b"
    with pytest.raises(UserError, match="not those of process 0"):
        same_data.setup(trainer, None, "fit")


@pytest.mark.parametrize(
    "started",
    [
        {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"},
    ],
)
def test_a_launcher_that_starts_another_number_of_processes(monkeypatch, started):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    check_launcher(2, 1)
    with pytest.raises(UserError, match=r"^--devices or --num-nodes: .*devices=1"):
        check_launcher(1, 1)
