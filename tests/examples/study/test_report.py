"""What the report says, from rows whose answers are known."""

import math
from unittest import mock

import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

from avcontrast import metrics, plots
from avscenes.files.errors import UserError
from avscenes.scenes.scene import make_scenes
from avstudy import figures, tables
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


def test_a_plan_that_asks_for_no_gap_has_no_shares_of_it(stage):
    plan = PLAN._replace(report={**PLAN.report, "gaps": []})
    header, _, nce, *_ = cells(tables.results(stage._replace(plan=plan), "tiny"))
    assert [title for title in header if "share" in title] == []
    assert nce == ["InfoNCE", "3", "52.0", "", "48.0", ""]


def test_comparisons_and_costs(stage):
    asked = [{"setting": "tiny", "measure": "retrieval", "method": "fnac", "reference": "nce"}]
    found = cells(tables.comparisons(stage, asked))[2]
    assert found[:3] == ["tiny: retrieval", "FNAC - InfoNCE", "52.0"]
    assert found[4].startswith("+4.7 [")
    assert cells(tables.costs(stage))[-1] == ["FNAC", "1.50", "2.5"]


def test_the_chosen_trial_is_the_best_and_the_first_of_several():
    trials = {"nce": 0.6, "cool": 0.7, "light": 0.7}
    stage = stage_of([row(m, 0, v) for m, v in trials.items()])
    assert tables.chosen_trial(stage, "tiny", ["retrieval"], ["nce", "cool", "light"]) == "cool"
    assert tables.chosen_trial(stage, "tiny", ["success_quarter"], ["cool", "nce"]) == "nce"
    assert tables.chosen_trial(stage, "other", ["retrieval"], ["nce"]) is None
    lines = cells(tables.tuning(stage))
    assert [line[1] for line in lines[2:]] == ["**70.0**", "**70.0**"]


def test_repeats_are_compared_with_the_plain_run():
    scores = {"plain": (0.5, 0.6), "again": (0.5, 0.6), "two-threads": (0.53, 0.59)}
    rows = [
        row("nce", seed, score, condition=condition)
        for condition, both in scores.items()
        for seed, score in enumerate(both)
    ]
    _, _, again, threads = cells(tables.repeats(stage_of(rows)))
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


def test_heat_maps_of_methods_lie_under_the_scenes(tmp_path):
    maps = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    key = {"setting": "tiny", "seed": 0}
    rows = [
        {**key, "method": m, "scene": n, **{f"position_{p}": v for p, v in enumerate(values)}}
        for m, one in zip(("nce", "oracle"), maps.tolist())
        for n, values in enumerate(one)
    ]
    path = tmp_path / "maps.png"
    with mock.patch.object(plots, "show_map", wraps=plots.show_map) as drawn:
        figures.heat_maps(path, stage_of(rows), "tiny")
    assert path.read_bytes().startswith(b"\x89PNG")
    test = make_scenes(PLAN.report["matrices"]["seed"], "test", 3, PLAN.settings["tiny"].design)
    expected = metrics.upsample(maps.double().reshape(6, 4, 4), (32, 32))
    for place, call in enumerate(drawn.call_args_list):
        _, picture, heat, cut = call.args
        assert (heat >= cut).double().mean().item() == pytest.approx(0.25, abs=0.01)
        torch.testing.assert_close(heat, expected[place])
        assert (picture * 255).round().tolist() == test.images[place % 3].movedim(0, -1).tolist()
    assert drawn.call_count == 6


def test_what_was_left_out_is_drawn_beside_its_image(tmp_path):
    key = {"setting": "tiny", "method": "elimination", "seed": 0}
    pairs = [(4, 8, 1, 1), (4, 2, 0, 1), (5, 7, 0, 0)]
    names = ("image", "sound", "same_class", "shown")
    rows = [{**key, **dict(zip(names, pair))} for pair in pairs]
    with mock.patch.object(Axes, "set_title") as title:
        figures.left_out(tmp_path / "pairs.png", stage_of(rows), "tiny")
    own = "own sound"
    titles = [call.args[0] for call in title.call_args_list]
    assert titles == [own, "same class", "class of the other", own, "neither"]


def test_what_is_left_out_has_a_table():
    shares = {"left_out": 0.16, "left_out_same_class": 0.4, "left_out_shown": 0.85}
    stage = stage_of(
        [row("nce", 0, 0.5), *({**row("elimination", n, 0.5), **shares} for n in (0, 1))]
    )
    assert cells(tables.left_out(stage))[2:] == [["tiny: elimination", "16", "40", "85"]]


def test_levels_are_beside_each_other_at_each_temperature():
    nce = PLAN.methods["nce"]
    half = nce._replace(elimination="both", elimination_level=0.5)
    methods = {"nce": nce, "half": half, "warm": half._replace(temperature=0.07)}
    stage = Stage(
        PLAN._replace(methods=methods),
        pd.DataFrame([row("nce", 0, 0.5), row("half", 0, 0.75), row("warm", 0, 0.25)]),
    )
    head, _, *lines = cells(tables.levels(stage))
    assert head == ["setting", "temperature", "InfoNCE", "level 0.5"]
    assert lines == [
        ["tiny", "0.03", "50.0 / 50.0", "75.0 / 25.0"],
        ["tiny", "0.07", "-", "25.0 / 75.0"],
    ]


def test_of_several_ceilings_the_better_one_counts(stage):
    several = PLAN._replace(report={**PLAN.report, "ceiling": ["fnac", "oracle"]})
    both = Stage(several, stage.rows[stage.rows.seed < 9])
    assert both.ceiling("retrieval", "tiny") == "oracle"
    assert both.ceiling("success_quarter", "tiny") == "fnac"
    assert both.gap("retrieval", "tiny") == stage.gap("retrieval", "tiny")


def test_trials_may_be_chosen_by_the_mean_of_two_measures():
    stage = stage_of([row("nce", 0, 0.6), {**row("cool", 0, 0.5), "success_quarter": 0.6}])
    both = ["retrieval", "success_quarter"]
    assert tables.chosen_trial(stage, "tiny", both, ["nce", "cool"]) == "cool"
    assert tables.split({"measure": both, "nce": ["nce"]}) == (both, {"nce": ["nce"]})
    assert tables.split({"measure": "retrieval"}) == (["retrieval"], {})


def test_no_rows_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*runs\.csv; run the study into this folder"):
        read_rows(tmp_path / "runs.csv")
