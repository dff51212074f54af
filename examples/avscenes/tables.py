"""The table of an evaluation: for each metric the model, what it is to be compared with, chance."""

from __future__ import annotations

from avcontrast import metrics
from avscenes.evaluation import RECALL_AT
from avscenes.scoring import PREDICTORS, thresholds

_HEADINGS = {
    "model": "model",
    "ogl": "OGL",
    "mix": "mix",
    "centre_disc": "centre disc",
    "ceiling": "ceiling",
}
_THRESHOLDS = {
    "half": "half of the image",
    "quarter": "top quarter",
    "area": "area of the object",
    "fixed": "above 0.5",
}
_RETRIEVAL = {
    "class_image_to_sound": "same class, image to sound",
    "class_sound_to_image": "same class, sound to image",
    "class_region_to_sound": "same class, region to sound",
    "pair_image_to_sound": "own pair, image to sound",
    "pair_sound_to_image": "own pair, sound to image",
}


def table(results: dict[str, float], protocol: str) -> str:
    """Return aligned lines, `-` where a column has no such figure."""
    shown = [who for who in PREDICTORS if f"{who}_pointing" in results]
    own, *others = thresholds(metrics.PROTOCOLS[protocol])
    localisation = {
        f"success@0.5, {_THRESHOLDS[own]}": f"success_{own}",
        f"mean cIoU, {_THRESHOLDS[own]}": f"mean_ciou_{own}",
        f"AUC, {_THRESHOLDS[own]}": f"auc_{own}",
        **{f"success@0.5, {_THRESHOLDS[name]}": f"success_{name}" for name in others},
        "pointing": "pointing",
    }
    lines = [["", *(_HEADINGS[who] for who in shown), "chance"]]
    for label, key in localisation.items():
        lines.append([label, *(f"{results[f'{who}_{key}']:.3f}" for who in shown), "-"])
    for key, label in _RETRIEVAL.items():
        for k in RECALL_AT:
            if f"{key}_r{k}" not in results:
                continue
            chance = results[f"chance_{key.split('_')[0]}_r{k}"]
            found = [f"{results[f'{key}_r{k}']:.3f}", *["-"] * (len(shown) - 1), f"{chance:.3f}"]
            lines.append([f"R@{k}, {label}", *found])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def describe(protocol: str) -> str:
    """Return the name of a protocol and what it does."""
    rules = metrics.PROTOCOLS[protocol]
    corners = "corners aligned" if rules.align_corners else "corners not aligned"
    sign = ">=" if rules.inclusive else ">"
    return f"{protocol} ({rules.mode}, {corners}, {sign}, {_THRESHOLDS[str(rules.threshold)]})"
