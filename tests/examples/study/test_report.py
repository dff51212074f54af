"""What the report says, from rows whose answers are known."""

import math

import pandas as pd
import pytest
import torch

from avcontrast import functional, metrics
from avscenes.files.errors import UserError
from avscenes.scenes.scene import make_scenes
from avstudy import figures, measures, tables, training
from avstudy.effects import Stage, written
from avstudy.plan import QUICK, read_plan
from avstudy.rows import read_rows
from avstudy.statistics import Interval, mean_interval

PLAN = read_plan(QUICK)
SCORES = {
    "nce": {2: 0.50, 3: 0.54, 4: 0.52},
    "oracle": {2: 0.60, 3: 0.66, 4: 0.60},
    "fnac": {2: 0.55, 3: 0.58, 4: 0.57, 9: 0.99},
}


def row(method, seed, score, setting="tiny", condition="plain"):
    return {
        "stage": "any",
        "setting": setting,
        "method": method,
        "condition": condition,
        "seed": seed,
        "retrieval": score,
        "success_quarter": 1 - score,
        "train_seconds": 10 * seed * (1.5 if method == "fnac" else 1),
        "loss_mb": 2.5,
    }


def stage_of(rows):
    return Stage(PLAN, pd.DataFrame(rows))


@pytest.fixture
def stage():
    return stage_of([row(m, s, v) for m, scores in SCORES.items() for s, v in scores.items()])


def test_an_effect_pairs_the_seeds_that_both_have(stage):
    found = stage.effect("retrieval", "tiny", "fnac", "nce")
    assert found == pytest.approx(mean_interval([5.0, 4.0, 5.0]))
    assert math.isnan(stage.effect("retrieval", "tiny", "tne", "nce").mean)
    assert math.isnan(stage.mean("retrieval", "other", "nce").mean)


def test_the_share_of_the_gap_is_there_where_the_gap_is(stage):
    share = stage.share_of_gap("retrieval", "tiny", "fnac")
    assert share.mean == pytest.approx(100 * 14 / 30)
    assert share.low < share.mean < share.high
    # By the other measure the oracle is the worse one.
    assert math.isnan(stage.share_of_gap("success_quarter", "tiny", "fnac").mean)


def test_how_effects_are_written():
    assert written(Interval(math.nan)) == "-"
    assert written(mean_interval([1.0])) == "+1.0"
    assert written(mean_interval([-1.0, -3.0]), ".0f") == "-2 [-15, 11]"


def test_a_setting_without_runs_has_a_table_without_rows(stage):
    assert len(cells(tables.results(stage, "other"))) == 2


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_main_table(stage):
    header, _, nce, oracle, fnac = cells(tables.results(stage, "tiny"))
    assert header[:4] == ["method", "seeds", "retrieval", "difference, points"]
    assert nce == ["InfoNCE", "3", "52.0", "", "", "48.0", "", ""]
    assert oracle[:3] == ["oracle", "3", "62.0"]
    assert oracle[4] == ""
    assert fnac[3].startswith("+4.7 [")
    assert fnac[4].startswith("47 [")
    assert fnac[7] == "-"


def test_comparisons_and_costs(stage):
    asked = [{"setting": "tiny", "measure": "retrieval", "method": "fnac", "reference": "nce"}]
    found = cells(tables.comparisons(stage, asked))[2]
    assert found[:3] == ["tiny: retrieval", "FNAC - InfoNCE", "52.0"]
    assert found[4].startswith("+4.7 [")
    assert cells(tables.costs(stage))[-1] == ["FNAC", "1.50", "2.5"]


def test_the_chosen_trial_is_the_best_and_the_first_of_several():
    trials = {"nce": 0.6, "cool": 0.7, "light": 0.7}
    stage = stage_of([row(m, 0, v) for m, v in trials.items()])
    assert tables.chosen_trial(stage, "tiny", "retrieval", ["nce", "cool", "light"]) == "cool"
    assert tables.chosen_trial(stage, "tiny", "success_quarter", ["cool", "nce"]) == "nce"
    assert tables.chosen_trial(stage, "other", "retrieval", ["nce"]) is None
    lines = cells(tables.tuning(stage))
    assert [line[1] for line in lines[2:]] == ["**70.0**", "**70.0**"]


def test_repeats_are_compared_with_the_plain_run():
    stage = stage_of(
        [
            row("nce", 0, 0.5),
            row("nce", 1, 0.6),
            row("nce", 0, 0.5, condition="again"),
            row("nce", 1, 0.6, condition="again"),
            row("nce", 0, 0.53, condition="two-threads"),
            row("nce", 1, 0.59, condition="two-threads"),
        ]
    )
    _, _, again, threads = cells(tables.repeats(stage))
    assert again == ["again", "0.0", "0.0", "0.0", "0.0", "2"]
    assert threads == ["two threads", "3.0", "2.0", "3.0", "2.0", "2"]


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(32, 1, 31), (32, 2, 15), (32, 12, (8 * 3 * 2 + 4 * 2) / 32), (8, 8, 0)],
)
def test_how_many_of_its_class_a_sample_meets(size, count, expected):
    setting = PLAN.settings["tiny"]._replace(batch_size=size, classes_per_batch=count)
    assert tables.partners_per_sample(setting) == expected


def test_kinds_of_losses_have_colours_of_their_own():
    nce = PLAN.methods["nce"]
    kinds = [
        nce,
        nce._replace(ignore="same-class"),
        nce._replace(elimination="both"),
        nce._replace(tne_weight=1.0),
        nce._replace(contrast="debiased"),
    ]
    assert len({figures._kind_colour(method) for method in kinds}) == 5


def test_heat_maps_of_two_methods_lie_under_the_scenes(tmp_path, monkeypatch):
    drawn = []
    show_map = figures.plots.show_map

    def shown(axis, picture, heat, cut):
        drawn.append((picture.shape, heat, (heat >= cut).double().mean().item()))
        show_map(axis, picture, heat, cut)

    monkeypatch.setattr(figures.plots, "show_map", shown)
    test = make_scenes(0, "test", 6, PLAN.settings["tiny"].design)
    features = {}
    for method in ("nce", "fnac"):
        run = next(run for run in PLAN.runs if run.method == method)
        encoders = training.build(run, tmp_path)
        scenes = make_scenes(0, "train", 32, run.data.design)
        assert list(training.train(run, encoders, scenes)) == [1, 2]
        features[method] = measures.encode(encoders, test)
    path = tmp_path / "maps.png"
    figures.heat_maps(path, test, features, [4, 0, 5])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [(shape, heat.shape) for shape, heat, _ in drawn] == [((32, 32, 3), (32, 32))] * 6
    assert all(share == pytest.approx(0.25, abs=0.01) for *_, share in drawn)
    visual, audio = features["fnac"]
    own = functional.localization_map(visual, audio)[[4, 0, 5]]
    for found, expected in zip(drawn[3:], metrics.upsample(own, (32, 32))):
        torch.testing.assert_close(found[1], expected)


def test_no_rows_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*runs\.csv; run the study into this folder"):
        read_rows(tmp_path / "runs.csv")
