"""What the report says, from rows whose answers are known."""

import pytest

from avscenes.files.errors import UserError
from avstudy import effects, tables
from avstudy.plan import QUICK, read_plan
from avstudy.rows import Table, read_table
from avstudy.statistics import mean_interval

PLAN = read_plan(QUICK)
SCORES = {
    "nce": {2: 0.50, 3: 0.54, 4: 0.52},
    "oracle": {2: 0.60, 3: 0.66, 4: 0.60},
    "fnac": {2: 0.55, 3: 0.58, 4: 0.57, 9: 0.99},
}


def row(method, seed, score, stage="evaluation", setting="tiny", condition="plain"):
    return {
        "stage": stage,
        "setting": setting,
        "method": method,
        "condition": condition,
        "seed": str(seed),
        "retrieval": str(score),
        "success_quarter": str(1 - score),
        "train_seconds": str(10 * seed * (1.5 if method == "fnac" else 1)),
        "loss_mb": "2.5",
    }


@pytest.fixture
def runs():
    return Table([row(m, s, v) for m, scores in SCORES.items() for s, v in scores.items()])


def test_an_effect_pairs_the_seeds_that_both_have(runs):
    found = effects.effect(runs, "retrieval", "evaluation", "tiny", "fnac", "nce")
    assert found == pytest.approx(mean_interval([5.0, 4.0, 5.0]))
    assert effects.effect(runs, "retrieval", "evaluation", "tiny", "tne", "nce") is None


def test_the_share_of_the_gap_is_there_where_the_gap_is(runs):
    share = effects.share_of_gap(runs, "retrieval", "evaluation", "tiny", "fnac", PLAN)
    assert share.mean == pytest.approx(100 * 14 / 30)
    assert share.low < share.mean < share.high
    # By the other measure the oracle is the worse one.
    assert effects.share_of_gap(runs, "success_quarter", "evaluation", "tiny", "fnac", PLAN) is None


def test_how_effects_are_written():
    assert effects.written(None) == "-"
    assert effects.written(mean_interval([1.0])) == "+1.0"
    assert effects.written(mean_interval([-1.0, -3.0]), ".0f") == "-2 [-15, 11]"


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_main_table(runs):
    header, _, nce, oracle, fnac = cells(tables.results(PLAN, runs, "tiny"))
    assert header[:4] == ["method", "seeds", "retrieval", "difference, points"]
    assert nce == ["InfoNCE", "3", "52.0", "", "", "48.0", "", ""]
    assert oracle[:3] == ["oracle", "3", "62.0"]
    assert oracle[4] == ""
    assert fnac[3].startswith("+4.7 [")
    assert fnac[4].startswith("47 [")
    assert fnac[7] == "-"


def test_comparisons_and_costs(runs):
    asked = [{"setting": "tiny", "measure": "retrieval", "method": "fnac", "reference": "nce"}]
    found = cells(tables.comparisons(PLAN, runs, asked))[2]
    assert found[:3] == ["tiny: retrieval", "FNAC - InfoNCE", "52.0"]
    assert found[4].startswith("+4.7 [")
    assert cells(tables.costs(PLAN, runs))[-1] == ["FNAC", "1.50", "2.5"]


def test_the_chosen_trial_is_the_best_and_the_first_of_several():
    trials = {"nce": 0.6, "cool": 0.7, "light": 0.7}
    runs = Table([row(m, 0, v, stage="tuning") for m, v in trials.items()])
    assert tables.chosen_trial(runs, "tiny", "retrieval", ["nce", "cool", "light"]) == "cool"
    assert tables.chosen_trial(runs, "tiny", "success_quarter", ["cool", "nce"]) == "nce"
    assert tables.chosen_trial(runs, "other", "retrieval", ["nce"]) is None
    lines = cells(tables.tuning(PLAN, runs))
    assert [line[1] for line in lines[2:]] == ["**70.0**", "**70.0**"]


def test_repeats_are_compared_with_the_plain_run():
    runs = Table(
        [
            row("nce", 0, 0.5, stage="repeats"),
            row("nce", 1, 0.6, stage="repeats"),
            row("nce", 0, 0.5, stage="repeats", condition="again"),
            row("nce", 1, 0.6, stage="repeats", condition="again"),
            row("nce", 0, 0.53, stage="repeats", condition="two-threads"),
            row("nce", 1, 0.59, stage="repeats", condition="two-threads"),
        ]
    )
    _, _, again, threads = cells(tables.repeats(PLAN, runs))
    assert again == ["again", "0.0", "0.0", "0.0", "0.0", "2"]
    assert threads == ["two threads", "3.0", "2.0", "3.0", "2.0", "2"]


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(32, 1, 31), (32, 2, 15), (32, 12, (8 * 3 * 2 + 4 * 2) / 32), (8, 8, 0)],
)
def test_how_many_of_its_class_a_sample_meets(size, count, expected):
    setting = PLAN.settings["tiny"]._replace(batch_size=size, classes_per_batch=count)
    assert tables.partners_per_sample(setting) == expected


def test_no_rows_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*runs\.csv; run the study into this folder"):
        read_table(tmp_path / "runs.csv")
