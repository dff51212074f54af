"""The tables of the report, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from avscenes.files.markdown import markdown_table
from avstudy.effects import MEASURES, Stage, written
from avstudy.plan import Comparison, DigitSetting, Setting, Trials
from avstudy.rows import KEY
from avstudy.statistics import Interval

FURTHER = {
    "further": {
        "image_to_sound_precision": "image to sound",
        "sound_to_image_precision": "sound to image",
        "region_precision": "region to sound",
        "class_r1": "class R@1",
        "pair_r1": "own pair R@1",
        "mean_ciou_quarter": "mean cIoU",
        "success_half": "success, half",
        "pointing": "pointing",
    },
    "similarities": {
        "different_minmax": "TN, min-max",
        "same_minmax": "FN, min-max",
        "different_cosine": "TN, cosine",
        "same_cosine": "FN, cosine",
        "audio_adjacency_purity": "audio adjacency",
        "visual_adjacency_purity": "visual adjacency",
        "audio_neighbour_purity": "nearest sound",
        "visual_neighbour_purity": "nearest image",
    },
}


def _mean(stage: Stage, measure: str, setting: str, method: str) -> str:
    return written(Interval(stage.mean(measure, setting, method).mean), ".1f")


def _seeds(stage: Stage, setting: str, method: str) -> str:
    return str(len(stage.paired("seed", setting, method)))


def calibration(stage: Stage) -> str:
    """Return the gap between oracle and reference in every candidate."""
    settings, reference = stage.plan.settings, stage.plan.report["reference"]
    base = settings[next(iter(settings))]._asdict()
    lines = [["candidate", "seeds"]]
    for title in MEASURES.values():
        lines[0] += [f"{title}, {stage.label(reference)}", "oracle gap, points"]
    for name in stage.settings():
        fields = settings[name]._asdict().items()
        changed = ", ".join(f"`{field}` {value}" for field, value in fields if value != base[field])
        candidate = f"**{name}**: {changed or 'as it is'}"
        lines.append([candidate, _seeds(stage, name, reference)])
        for measure in MEASURES:
            gap = written(stage.gap(measure, name))
            lines[-1] += [_mean(stage, measure, name, reference), gap]
    return markdown_table(lines)


def tuning(stage: Stage) -> str:
    """Return the score of every trial in the measure that decides, the chosen ones in bold."""
    scores: dict[str, dict[str, str]] = {}
    for setting, tried in stage.plan.report["tuning"].items():
        measures, trials = split(tried)
        titles = " and ".join(MEASURES[measure] for measure in measures)
        column = scores.setdefault(f"{stage.label(setting)}: {titles}", {})
        for names in trials.values():
            best = chosen_trial(stage, setting, measures, names)
            for trial in names:
                score = " / ".join(_mean(stage, measure, setting, trial) for measure in measures)
                column[stage.label(trial)] = f"**{score}**" if trial == best else score
    return markdown_table([["trial", *scores], *pd.DataFrame(scores).fillna("-").itertuples()])


def split(tried: Trials) -> tuple[list[str], dict[str, list[str]]]:
    """Return the measures that decide between trials, and the trials of each kind of method."""
    lists = {key: [found] if isinstance(found, str) else found for key, found in tried.items()}
    return lists.pop("measure"), lists


def chosen_trial(
    stage: Stage, setting: str, measures: Sequence[str], trials: Sequence[str]
) -> str | None:
    """Return the trial with the highest mean, the first of several; None if none was run."""
    means = pd.Series(
        {
            trial: sum(stage.mean(measure, setting, trial).mean for measure in measures)
            for trial in trials
        }
    )
    return None if means.isna().all() else str(means.idxmax())


def comparisons(stage: Stage, asked: Sequence[Comparison]) -> str:
    """Return paired differences of named pairs of methods."""
    lines = [["", "compared", "from", "to", "difference, points"]]
    for one in asked:
        setting, measure = one["setting"], one["measure"]
        ours, theirs = one["method"], one["reference"]
        lines.append(
            [
                f"{stage.label(setting)}: {MEASURES[measure]}",
                f"{stage.label(ours)} - {stage.label(theirs)}",
                _mean(stage, measure, setting, theirs),
                _mean(stage, measure, setting, ours),
                written(stage.effect(measure, setting, ours, theirs)),
            ]
        )
    return markdown_table(lines)


def results(stage: Stage, setting: str) -> str:
    """Return the main table of a setting; with shares of a gap if the plan asks for gaps."""
    plan, ceilings = stage.plan, stage.ceilings()
    reference, gaps = plan.report["reference"], plan.report["gaps"]
    lines = [["method", "seeds"]]
    if plan.tuned:
        lines[0] += ["temperature, rate"]
    for title in MEASURES.values():
        lines[0] += [title, "difference, points"]
        if gaps:
            lines[0].append("share of the gap, %")
    for method in stage.methods(setting):
        lines.append([stage.label(method), _seeds(stage, setting, method)])
        if plan.tuned:
            chosen = plan.method(setting, method)
            lines[-1] += [f"{chosen.temperature:g}, {chosen.learning_rate:g}"]
        for measure in MEASURES:
            effect = share = ""
            if method != reference:
                effect = written(stage.effect(measure, setting, method, reference))
            if method not in (reference, *ceilings):
                share = written(stage.share_of_gap(measure, setting, method), ".0f")
            lines[-1] += [_mean(stage, measure, setting, method), effect]
            if gaps:
                lines[-1].append(share)
    return markdown_table(lines)


def further(stage: Stage, columns: dict[str, str]) -> str:
    """Return means of further measures, all settings under each other."""
    settings = dict.fromkeys(stage.plan.report["settings"].values())
    rows = pd.concat([stage.rows[stage.rows.setting == setting] for setting in settings])
    return _means(stage, rows, columns, "{:.3f}".format)


def left_out(stage: Stage) -> str:
    """Return how much elimination leaves out at the end of the training, and how much rightly."""
    columns = {
        "left_out": "left out, % of the pairs",
        "left_out_same_class": "of these: same class, %",
        "left_out_shown": "of these: shown, %",
    }
    rows = stage.rows[stage.rows.left_out.notna()]
    return _means(stage, rows, columns, lambda mean: f"{100 * mean:.0f}")


def _means(
    stage: Stage, rows: pd.DataFrame, columns: dict[str, str], form: Callable[[float], str]
) -> str:
    """Return means of columns by setting and method, in the order of the rows."""
    lines = [["setting: method", *columns.values()]]
    groups = rows.groupby(["setting", "method"], sort=False)
    for (setting, method), means in groups[[*columns]].mean().iterrows():
        label = f"{stage.label(setting)}: {stage.label(method)}"
        lines.append([label, *map(form, means)])
    return markdown_table(lines)


def levels(stage: Stage) -> str:
    """Return both measures by temperature and level of elimination; no level is InfoNCE."""
    found: dict[tuple[str, float], dict[str, str]] = {}
    for setting in stage.settings():
        for name in stage.methods(setting):
            method = stage.plan.method(setting, name)
            level = f"level {method.elimination_level:g}"
            column = "InfoNCE" if method.elimination == "none" else level
            scores = [_mean(stage, measure, setting, name) for measure in MEASURES]
            found.setdefault((setting, method.temperature), {})[column] = " / ".join(scores)
    columns = list(dict.fromkeys(column for cells in found.values() for column in cells))
    lines = [["setting", "temperature", *columns]]
    for (setting, temperature), cells in found.items():
        scores = [cells.get(column, "-") for column in columns]
        lines.append([stage.label(setting), f"{temperature:g}", *scores])
    return markdown_table(lines)


def classes(stage: Stage) -> str:
    """Return what becomes of the methods when batches hold fewer classes."""
    reference, settings = stage.plan.report["reference"], stage.plan.settings
    methods = stage.methods(stage.settings()[0])
    others = [method for method in methods if method != reference]
    lines = [["classes in a batch", "false negatives a sample"]]
    for title in MEASURES.values():
        lines[0] += [f"{title}, {stage.label(method)}" for method in methods]
        lines[0] += [f"difference of {stage.label(method)}" for method in others]
    for name in stage.settings():
        count, partners = settings[name].classes_per_batch, partners_per_sample(settings[name])
        lines.append([str(count), f"{partners:.1f}"])
        for measure in MEASURES:
            effects = [stage.effect(measure, name, method, reference) for method in others]
            lines[-1] += [_mean(stage, measure, name, method) for method in methods]
            lines[-1] += map(written, effects)
    return markdown_table(lines)


def partners_per_sample(setting: Setting | DigitSetting) -> float:
    """Return how many others of its class a sample meets in a batch that is drawn by classes."""
    size, count = setting.batch_size, setting.classes_per_batch
    shares = [size // count + (place < size % count) for place in range(count)]
    return sum(share * (share - 1) for share in shares) / size


def repeats(stage: Stage) -> str:
    """Return how far the same run differs under other conditions of the machine."""
    key = [name for name in KEY if name != "condition"]
    plain = stage.rows.condition == "plain"
    pairs = stage.rows[~plain].merge(stage.rows[plain], on=key, suffixes=("", "_plain"))
    lines = [["compared with one thread"]]
    for title in MEASURES.values():
        lines[0] += [f"{title}: largest difference, points", "mean"]
    lines[0].append("runs")
    for condition, rows in pairs.groupby("condition", sort=False):
        lines.append([stage.label(condition)])
        for measure in MEASURES:
            away = 100 * (rows[measure] - rows[f"{measure}_plain"]).abs()
            lines[-1] += [f"{away.max():.1f}", f"{away.mean():.1f}"]
        lines[-1].append(str(len(rows)))
    return markdown_table(lines)


def costs(stage: Stage) -> str:
    """Return time and memory of each method, over all settings of the evaluation."""
    reference = stage.plan.report["reference"]
    rows = stage.rows[stage.rows.setting.isin(stage.plan.report["settings"].values())]
    base = rows.loc[rows.method == reference, ["setting", "seed", "train_seconds"]]
    rows = rows.merge(base, on=["setting", "seed"], suffixes=("", "_base"))
    rows["ratio"] = rows.train_seconds / rows.train_seconds_base
    medians = rows.groupby(rows.method.map(stage.label), sort=False)[["ratio", "loss_mb"]].median()
    lines = [["method", f"time over that of {stage.label(reference)}", "memory of the loss, MB"]]
    lines += [[label, f"{time:.2f}", f"{size:.1f}"] for label, time, size in medians.itertuples()]
    return markdown_table(lines)
