"""The table of an evaluation: for each metric the model, what it is to be compared with, chance."""

from __future__ import annotations

from avcontrast import metrics
from avscenes.testing.retrieval import RECALL_AT
from avscenes.testing.scoring import PREDICTORS, thresholds

_HEADINGS = {
    "model": "model",
    "ogl": "OGL",
    "mix": "mix",
    "centre_disc": "centre disc",
    "ceiling": "ceiling",
    "chance": "chance",
}
_THRESHOLDS = {
    "half": "half of the image",
    "quarter": "top quarter",
    "area": "area of the object",
    "fixed": "above 0.5",
}
_VECTORS = ("pooled", "projected")
_WAYS = {"image_to_sound": "image to sound", "sound_to_image": "sound to image"}
_RETRIEVAL = {
    "class_image_to_sound": "same class, image to sound",
    "class_sound_to_image": "same class, sound to image",
    "class_region_to_sound": "same class, region to sound",
    "pair_image_to_sound": "own pair, image to sound",
    "pair_sound_to_image": "own pair, sound to image",
}


def _localisation(protocol: str) -> dict[str, str]:
    """Return the name of each figure by its line, in order, whether a test set has it or not."""
    own, *others = thresholds(metrics.PROTOCOLS[protocol])
    both = [own, "area"] if own != "area" else [own]
    return {
        "AP": "average_precision",
        "max F1": "max_f1",
        f"LocAcc, {_THRESHOLDS[own]}": "localization_accuracy",
        f"success@0.5, {_THRESHOLDS[own]}": f"success_{own}",
        f"mean cIoU, {_THRESHOLDS[own]}": f"mean_ciou_{own}",
        f"AUC, {_THRESHOLDS[own]}": f"auc_{own}",
        **{f"success@0.5, {_THRESHOLDS[name]}": f"success_{name}" for name in others},
        **({f"AUC, {_THRESHOLDS['area']}": "auc_area"} if "area" in others else {}),
        **{f"mIoU, {_THRESHOLDS[name]}": f"miou_{name}" for name in (own, *others)},
        "F-score": "f_score",
        **{f"IIoU, {_THRESHOLDS[name]}": f"iiou_{name}" for name in both},
        **{f"IAUC, {_THRESHOLDS[name]}": f"iauc_{name}" for name in both},
        "pointing": "pointing",
    }


def table(results: dict[str, float], protocol: str) -> str:
    """Return aligned lines, `-` where a column has no such figure; then those of one vector."""
    shown = [who for who in PREDICTORS if f"{who}_pointing" in results]
    shown = shown or ["model", "ceiling", "chance"]  # of retrieval alone
    lines = [["", *(_HEADINGS[who] for who in shown)]]
    for label, key in _localisation(protocol).items():
        if f"model_{key}" in results:
            lines.append([label, *(_cell(results, f"{who}_{key}") for who in shown)])
    for key, label in _RETRIEVAL.items():
        kind = key.split("_")[0]
        # The others are maps without features.
        names = {"model": key, "ceiling": f"ceiling_{kind}", "chance": f"chance_{kind}"}
        for k in RECALL_AT:
            if f"{key}_r{k}" in results:
                cells = [_cell(results, f"{names.get(who)}_r{k}") for who in shown]
                lines.append([f"R@{k}, {label}", *cells])
    vectors = _vector_lines(results)
    return _aligned(lines) + (f"\n\n{_aligned(vectors)}" if vectors else "")


def _vector_lines(results: dict[str, float]) -> list[list[str]]:
    """Return the lines of retrieval by one vector an image, all of recall at 1, 5 and 10."""
    heading = f"{' '.join(f'R@{k}' for k in RECALL_AT)} of one vector"
    lines = [[heading, *_WAYS.values(), "chance"]]
    for vector in _VECTORS:
        for kind, label in (("hit", "same class or own pair"), ("pair", "own pair")):
            names = [f"{kind}_{way}_{vector}" for way in _WAYS]
            if f"{names[0]}_r1" in results:
                cells = [
                    " ".join(_cell(results, f"{name}_r{k}") for k in RECALL_AT)
                    for name in (*names, f"chance_{kind}")
                ]
                lines.append([f"{label}, {vector}", *cells])
    return lines if len(lines) > 1 else []


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _cell(results: dict[str, float], name: str) -> str:
    return f"{results[name]:.3f}" if name in results else "-"


def describe(protocol: str) -> str:
    """Return the name of a protocol and what it does."""
    rules = metrics.PROTOCOLS[protocol]
    corners = "corners aligned" if rules.align_corners else "corners not aligned"
    sign = {True: ">=", False: ">", "maximum": "> or the maximum"}[rules.inclusive]
    return f"{protocol} ({rules.mode}, {corners}, {sign}, {_THRESHOLDS[str(rules.threshold)]})"
