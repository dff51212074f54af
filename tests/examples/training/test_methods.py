"""The losses of other methods in the example."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import train_fnac
from script_runs import fault_of, read_rows, run_script
from torch.nn import functional as F

from avcontrast import AlignmentLoss, HardPositiveLoss, TriMapLoss
from avscenes.options.training import parse
from avscenes.sets.neighbour_lists import write_neighbours
from avscenes.training.data import synthetic_data
from avscenes.training.trained import load_trained

SIZE = 16
TINY = [
    *("--train-size", str(SIZE), "--validation-size", "8", "--test-size", "12"),
    *("--batch-size", "8", "--epochs", "2", "--warm-start-epochs", "0", "--accelerator", "cpu"),
]
TERMS = {
    "lvs": {"loss"},
    "hardpos": {"loss"},
    "alignment": {"loss", "localization", "alignment"},
}
NEAR = torch.tensor([[(row + step) % SIZE for step in (4, 8, 1)] for row in range(SIZE)])
HEARD = torch.tensor([[(row + step) % SIZE for step in (4, 2, 12)] for row in range(SIZE)])


@pytest.fixture
def near(tmp_path):
    """Options with lists of neighbours for the tiny training set."""
    write_neighbours(tmp_path / "near.npz", list(map(str, range(SIZE))), NEAR, HEARD)
    return ["--neighbours", str(tmp_path / "near.npz")]


def module_of(*options):
    module = train_fnac.build_module(parse([*TINY, *options]))
    module._trainer = SimpleNamespace(world_size=1)
    return module.train()


def batch_of(module, rows):
    """Return a batch of the first epoch as the loader makes it."""
    train = synthetic_data(module.settings).train
    return torch.utils.data.default_collate([train[0, row] for row in rows])


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ([], TriMapLoss, {"form": "code", "temperature": 0.07}),
        (["--tri-map-form", "paper"], TriMapLoss, {"form": "paper", "temperature": 1.0}),
        (["--temperature", "0.2"], TriMapLoss, {"temperature": 0.2}),
        (["--loss", "hardpos"], HardPositiveLoss, {"positive_form": "sum", "temperature": 1.0}),
        (
            ["--loss", "hardpos", "--positive-form", "inside"],
            HardPositiveLoss,
            {"positive_form": "inside", "temperature": 0.07, "gather_distributed": True},
        ),
    ],
)
def test_the_options_reach_the_loss(options, kind, expected):
    criterion = module_of("--loss", "lvs", *options).criterion
    assert isinstance(criterion, kind)
    assert {name: getattr(criterion, name) for name in expected} == expected


def test_only_these_methods_have_fine_maps_and_unprojected_features():
    for loss, stride, projection in (
        ("nce", 32, "linear"),
        ("fnac", 32, "linear"),
        ("lvs", 16, "none"),
        ("hardpos", 16, "none"),
        ("alignment", 16, "none"),
    ):
        settings = parse(["--encoder", "resnet18", "--loss", loss])
        assert (settings.map_stride, settings.projection) == (stride, projection)
        settings = parse(["--loss", loss])
        assert (settings.map_stride, settings.projection) == (8, projection)
    assert parse(["--loss", "nce", "--encoder", "resnet18", "--map-stride", "16"]).map_stride == 16


def test_hard_positives_are_the_neighbours_by_image_and_by_sound(near):
    rows = [0, 4, 8, 12, 1, 2]
    for combine, wanted in (("and", {4}), ("or", {4, 8, 1, 2, 12})):
        module = module_of("--loss", "hardpos", *near, "--combine-neighbours", combine)
        batch = batch_of(module, rows)
        positives = module._positives(*batch[2:])
        assert {rows[place] for place in positives[0].nonzero().flatten()} == wanted | {0}
        # Batch normalisation counts the steps, but does not change what a step computes.
        visual, audio = module.visual(batch[0]), module.audio(batch[1])
        expected = module.criterion(visual, audio, positives=positives)
        assert module._terms(batch, 1.0)["loss"] == expected
        assert module.criterion(visual, audio) != expected


def test_without_lists_the_own_pairs_are_the_only_positives(capsys):
    module = module_of("--loss", "hardpos")
    batch = batch_of(module, range(6))
    assert len(batch) == 2
    expected = module.criterion(module.visual(batch[0]), module.audio(batch[1]))
    assert module._terms(batch, 1.0)["loss"] == expected
    train_fnac.describe_recipe(module.settings)
    assert "without --neighbours the own pairs are the only positives" in capsys.readouterr().out


@pytest.mark.parametrize("views", [2, 3])
def test_alignment_contrasts_all_views_and_projects_their_vectors(near, views):
    module = module_of("--loss", "alignment", *(near if views == 3 else []))
    images, sounds = batch_of(module, range(6))
    assert len(images) == len(sounds) == views
    visual = [module.visual(view) for view in images]
    audio = [module.audio(view) for view in sounds]
    heads = module.criterion
    expected = AlignmentLoss(0.07).components(
        visual,
        audio,
        [heads.visual(F.normalize(view, dim=1).mean((2, 3))) for view in visual],
        [heads.audio(F.normalize(view, dim=1)) for view in audio],
    )
    found = module._terms((images, sounds), 1.0)
    for name, value in expected._asdict().items():
        torch.testing.assert_close(found[name], value)
    found["loss"].backward()
    parameters = [*heads.parameters(), *module.visual.parameters(), *module.audio.parameters()]
    assert all(parameter.grad is not None for parameter in parameters)
    assert heads.visual.weight.grad.abs().sum() > 0


def complete(output, *options):
    assert train_fnac.main([*TINY, *options, "--output-dir", str(output)]) == 0


@pytest.mark.parametrize("loss", TERMS)
def test_a_run_logs_the_terms_of_its_loss_and_is_read_again(tmp_path, monkeypatch, near, loss):
    monkeypatch.setattr(train_fnac, "draw_all", lambda *_, **__: None)
    output = tmp_path / "run"
    options = ["--loss", loss, *([] if loss == "lvs" else near), "--map-stride", "16"]
    complete(output, *options)
    rows = read_rows(output / "metrics.csv")
    logged = {f"{stage}_{name}" for stage in ("train", "validation") for name in TERMS[loss]}
    others = {"epoch", "learning_rate", "validation_pair_recall_5"}
    assert {*rows[0]} == logged | others
    values = [float(row["validation_loss"]) for row in rows]
    best = torch.load(output / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == values.index(min(values))
    settings = json.loads((output / "config.json").read_text())["settings"]
    assert (settings["loss"], settings["map_stride"], settings["projection"]) == (loss, 16, "none")
    assert settings["neighbours"] == (None if loss == "lvs" else near[1])
    trained = load_trained(output / "checkpoints" / "last.ckpt", "cpu")
    assert trained.visual(torch.randn(2, 3, 64, 64)).shape == (2, 64, 4, 4)
    state = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    heads = {name for name in state if name.startswith("criterion.")}
    assert bool(heads) == (loss == "alignment")


def test_lists_of_other_samples_are_refused_by_name(tmp_path, near, capsys):
    options = [*TINY, "--output-dir", tmp_path / "run", "--loss", "alignment", *near]
    fault = fault_of(capsys, train_fnac, *options, "--train-size", SIZE + 2)
    assert fault == f"--neighbours: {near[1]}: has no neighbours of {SIZE}, which is trained on"
    fault = fault_of(capsys, train_fnac, *options, "--train-size", SIZE - 1)
    assert f"has {SIZE - 1}, which is not trained on" in fault
    missing = tmp_path / "none.npz"
    options += ["--loss", "hardpos", "--neighbours", missing]
    fault = fault_of(capsys, train_fnac, *options)
    assert f"--neighbours: cannot read {missing}: No such file" in fault


@pytest.mark.slow
@pytest.mark.parametrize("loss", TERMS)
def test_a_run_that_goes_on_is_the_run_that_went_through(tmp_path, monkeypatch, near, loss):
    monkeypatch.setattr(train_fnac, "draw_all", lambda *_, **__: None)
    options = ["--loss", loss, *([] if loss == "lvs" else near), "--schedule", "constant"]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    complete(whole, *options, "--epochs", "3")
    complete(parts, *options, "--epochs", "1")
    assert run_script(train_fnac, "--resume", "--output-dir", parts, "--epochs", 3) == 0
    assert read_rows(parts / "metrics.csv") == read_rows(whole / "metrics.csv")
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (parts, whole)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("loss", TERMS)
def test_the_script_trains_tests_and_draws_with_each_loss(tmp_path, near, loss):
    output = tmp_path / "run"
    options = ["--loss", loss, *([] if loss == "lvs" else near), "--output-dir", str(output)]
    result = subprocess.run(
        [sys.executable, train_fnac.__file__, *TINY, *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "R@1, own pair, sound to image" in result.stdout
    assert (output / "learning_curves.png").stat().st_size > 1_000
