"""The tables of the report, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from avstudy.effects import (
    MEASURES,
    effect,
    label_of,
    mean_of,
    methods_of,
    share_of_gap,
    written,
)
from avstudy.plan import Comparison, Plan, Setting
from avstudy.rows import KEY, Table

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


def tables(plan: Plan, runs: Table) -> dict[str, str]:
    """Return the tables of all stages that were run, by name."""
    stages = {row["stage"] for row in runs.rows}
    found = {}
    if "calibration" in stages:
        found["calibration"] = calibration(plan, runs)
    if "tuning" in stages:
        found["tuning"] = tuning(plan, runs)
    if "evaluation" in stages:
        found["primary"] = comparisons(plan, runs, plan.report["primary"])
        found["gaps"] = comparisons(plan, runs, plan.report["gaps"])
        for role, setting in plan.report["settings"].items():
            found[f"results-{role}"] = results(plan, runs, setting)
        for name, columns in FURTHER.items():
            found[name] = further(plan, runs, columns)
        found["costs"] = costs(plan, runs)
    if "classes" in stages:
        found["classes"] = classes(plan, runs)
    if "repeats" in stages:
        found["repeats"] = repeats(plan, runs)
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def described(setting: Setting, base: Setting) -> str:
    """Return in which fields a setting differs from another one."""
    pairs = zip(setting._asdict().items(), base, strict=True)
    changed = [f"`{name}` {value}" for (name, value), plain in pairs if value != plain]
    return ", ".join(changed) or "as it is"


def calibration(plan: Plan, runs: Table) -> str:
    """Return the gap between oracle and reference in every candidate."""
    reference, ceiling = plan.report["reference"], plan.report["ceiling"]
    base = next(iter(plan.settings.values()))
    header = ["candidate", "seeds"]
    for name in MEASURES.values():
        header += [f"{name}, {label_of(plan, reference)}", "oracle gap, points"]
    rows = []
    for name in dict.fromkeys(row["setting"] for row in runs.chosen(stage="calibration")):
        where = ("calibration", name)
        seeds = runs.by_seed("seed", stage="calibration", setting=name, method=reference)
        line = [f"**{name}**: {described(plan.settings[name], base)}", str(len(seeds))]
        for measure in MEASURES:
            line.append(_mean(runs, measure, *where, reference))
            line.append(written(effect(runs, measure, *where, ceiling, reference)))
        rows.append(line)
    return markdown(header, rows)


def _mean(runs: Table, measure: str, stage: str, setting: str, method: str) -> str:
    mean = mean_of(runs, measure, stage, setting, method)
    return "-" if mean is None else f"{mean.mean:.1f}"


def tuning(plan: Plan, runs: Table) -> str:
    """Return the score of every trial in the measure that decides, the chosen ones in bold."""
    asked = plan.report["tuning"]
    header = ["trial"]
    lines: dict[str, list[str]] = {}
    for number, (setting, tried) in enumerate(asked.items()):
        measure = tried["measure"]
        header.append(f"{label_of(plan, setting)}: {MEASURES[measure]}")
        for trials in (tried["nce"], tried["fnac"]):
            best = chosen_trial(runs, setting, measure, trials)
            for trial in trials:
                line = lines.setdefault(label_of(plan, trial), ["-"] * len(asked))
                score = _mean(runs, measure, "tuning", setting, trial)
                line[number] = f"**{score}**" if trial == best else score
    return markdown(header, [[label, *scores] for label, scores in lines.items()])


def chosen_trial(runs: Table, setting: str, measure: str, trials: Sequence[str]) -> str | None:
    """Return the trial with the highest mean, the first of several; None if none was run."""
    means = {trial: mean_of(runs, measure, "tuning", setting, trial) for trial in trials}
    scores = {trial: mean.mean for trial, mean in means.items() if mean is not None}
    return max(scores, key=scores.__getitem__) if scores else None


def comparisons(plan: Plan, runs: Table, asked: Sequence[Comparison]) -> str:
    """Return paired differences of named pairs of methods."""
    rows = []
    for one in asked:
        ours, theirs = one["method"], one["reference"]
        where = (runs, one["measure"], "evaluation", one["setting"])
        rows.append(
            [
                f"{label_of(plan, one['setting'])}: {MEASURES[one['measure']]}",
                f"{label_of(plan, ours)} - {label_of(plan, theirs)}",
                _mean(*where, theirs),
                _mean(*where, ours),
                written(effect(*where, ours, theirs)),
            ]
        )
    return markdown(["", "compared", "from", "to", "difference, points"], rows)


def results(plan: Plan, runs: Table, setting: str) -> str:
    """Return the main table of a setting."""
    reference, ceiling = plan.report["reference"], plan.report["ceiling"]
    header = ["method", "seeds"]
    for name in MEASURES.values():
        header += [name, "difference, points", "share of the gap, %"]
    rows = []
    for method in methods_of(runs, setting):
        where = ("evaluation", setting, method)
        seeds = runs.by_seed("seed", stage="evaluation", setting=setting, method=method)
        line = [label_of(plan, method), str(len(seeds))]
        for measure in MEASURES:
            line.append(_mean(runs, measure, *where))
            if method == reference:
                line += ["", ""]
                continue
            line.append(written(effect(runs, measure, *where, reference)))
            share = share_of_gap(runs, measure, *where, plan)
            line.append("" if method == ceiling else written(share, ".0f"))
        rows.append(line)
    return markdown(header, rows)


def further(plan: Plan, runs: Table, columns: dict[str, str]) -> str:
    """Return means of further measures, all settings under each other."""
    rows = []
    for setting in dict.fromkeys(plan.report["settings"].values()):
        for method in methods_of(runs, setting):
            asked = {"stage": "evaluation", "setting": setting, "method": method}
            means = [statistics.mean(runs.by_seed(name, **asked).values()) for name in columns]
            line = [f"{label_of(plan, setting)}: {label_of(plan, method)}"]
            rows.append([*line, *(f"{mean:.3f}" for mean in means)])
    return markdown(["setting: method", *columns.values()], rows)


def classes(plan: Plan, runs: Table) -> str:
    """Return what becomes of the methods when batches hold fewer classes."""
    reference = plan.report["reference"]
    names = list(dict.fromkeys(row["setting"] for row in runs.chosen(stage="classes")))
    methods = methods_of(runs, names[0], "classes")
    others = [method for method in methods if method != reference]
    header = ["classes in a batch", "false negatives a sample"]
    for name in MEASURES.values():
        header += [f"{name}, {label_of(plan, method)}" for method in methods]
        header += [f"difference of {label_of(plan, method)}" for method in others]
    rows = []
    for name in names:
        setting, where = plan.settings[name], ("classes", name)
        line = [str(setting.classes_per_batch), f"{partners_per_sample(setting):.1f}"]
        for measure in MEASURES:
            line += [_mean(runs, measure, *where, method) for method in methods]
            line += [written(effect(runs, measure, *where, m, reference)) for m in others]
        rows.append(line)
    return markdown(header, rows)


def partners_per_sample(setting: Setting) -> float:
    """Return how many others of its class a sample meets in a batch that is drawn by classes."""
    size, count = setting.batch_size, setting.classes_per_batch
    shares = [size // count + (place < size % count) for place in range(count)]
    return sum(share * (share - 1) for share in shares) / size


def repeats(plan: Plan, runs: Table) -> str:
    """Return how far the same run differs under other conditions of the machine."""
    chosen = runs.chosen(stage="repeats")
    plain = {_without_condition(row): row for row in chosen if row["condition"] == "plain"}
    header = ["compared with one thread"]
    for name in MEASURES.values():
        header += [f"{name}: largest difference, points", "mean"]
    rows = []
    for condition in dict.fromkeys(row["condition"] for row in chosen):
        pairs = [
            (row, plain[_without_condition(row)])
            for row in chosen
            if row["condition"] == condition != "plain" and _without_condition(row) in plain
        ]
        if pairs:
            line = [label_of(plan, condition)]
            for measure in MEASURES:
                away = [100 * abs(float(a[measure]) - float(b[measure])) for a, b in pairs]
                line += [f"{max(away):.1f}", f"{statistics.mean(away):.1f}"]
            rows.append([*line, str(len(pairs))])
    return markdown([*header, "runs"], rows)


def _without_condition(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY if name != "condition")


def costs(plan: Plan, runs: Table) -> str:
    """Return time and memory of each method, over all settings of the evaluation."""
    reference = plan.report["reference"]
    times: dict[str, list[float]] = {}
    megabytes: dict[str, list[float]] = {}
    for setting in dict.fromkeys(plan.report["settings"].values()):
        for method in methods_of(runs, setting):
            asked = {"stage": "evaluation", "setting": setting, "method": method}
            own, base = runs.paired("train_seconds", asked, {**asked, "method": reference})
            label = label_of(plan, method)
            times.setdefault(label, []).extend(a / b for a, b in zip(own, base, strict=True))
            megabytes.setdefault(label, []).extend(runs.by_seed("loss_mb", **asked).values())
    rows = [
        [
            label,
            f"{statistics.median(times[label]):.2f}",
            f"{statistics.median(megabytes[label]):.1f}",
        ]
        for label in times
    ]
    header = [f"time over that of {label_of(plan, reference)}", "memory of the loss, MB"]
    return markdown(["method", *header], rows)
