"""The equations written out as loops over samples, in float64: what every backend must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}
"""How far a result may be from the float64 reference, by the dtype it was computed in."""

PUBLISHED = {
    "fns_audio_weight": 100.0,
    "fns_visual_weight": 100.0,
    "tne_weight": 100.0,
    "adjacency_reduction": "mean",
}
"""The weights of the released code, and what they are the weights of."""


def unit(vector: Tensor) -> Tensor:
    length = vector.pow(2).sum().sqrt()
    return vector / length if length > 1e-12 else vector * 0


def softmax(row: list[Tensor], kept: list[bool] | None = None) -> list[Tensor]:
    kept = kept or [True] * len(row)
    largest = max(value.item() for value, keep in zip(row, kept) if keep)
    weights = [(value - largest).exp() if keep else value * 0 for value, keep in zip(row, kept)]
    return [weight / sum(weights) for weight in weights]


def rows_of(
    features: list[Tensor], tau: Tensor | float, kept: list[list[bool]] | None = None
) -> list[list[Tensor]]:
    return [
        softmax([left @ right / tau for right in features], kept and kept[i])
        for i, left in enumerate(features)
    ]


def distance(left: list[list[Tensor]], right: list[list[Tensor]]) -> Tensor:
    """Mean over rows of the summed absolute differences."""
    total = sum((a - b).abs() for row, other in zip(left, right) for a, b in zip(row, other))
    return total / len(left)


def fnac_terms(
    visual: Tensor,
    audio: Tensor,
    tau: Tensor | float,
    *,
    normalize: bool = True,
    pooling: str = "max",
    audio_pooling: str = "mean",
    threshold: float = 0.6,
    mask: str = "hard",
    anchor: str = "visual",
    symmetric: bool = True,
    ignore: Tensor | None = None,
    suppression_ignores: bool = False,
) -> dict[str, Tensor]:
    """Return info_nce and the three adjacency terms with rows summed ("batchmean").

    The channels are the second axis of both; what comes after are positions, or frames of sound.
    """
    b = len(visual)
    scale = unit if normalize else (lambda vector: vector)
    maps = [[scale(position) for position in image.reshape(len(image), -1).T] for image in visual]
    sounds = [[scale(frame) for frame in sound.reshape(len(sound), -1).T] for sound in audio]
    vectors = [sum(sound) / len(sound) for sound in sounds]

    def pooled(similarities: list[Tensor], how: str) -> Tensor:
        if how == "mean":
            return sum(similarities) / len(similarities)
        return max(similarities, key=lambda value: value.item())

    def match(image: list[Tensor], sound: list[Tensor]) -> Tensor:
        return pooled([pooled([v @ a for v in image], pooling) for a in sound], audio_pooling)

    logits = [[match(image, sound) / tau for sound in sounds] for image in maps]
    columns = [[logits[n][m] for n in range(b)] for m in range(b)]
    info_nce = 0
    for n in range(b):
        negatives = [m for m in range(b) if m != n and not (ignore is not None and ignore[n, m])]
        info_nce -= softmax([logits[n][m] for m in (n, *negatives)])[0].log() / b
        if symmetric:
            negatives = [
                m for m in range(b) if m != n and not (ignore is not None and ignore[m, n])
            ]
            info_nce -= softmax([logits[m][n] for m in (n, *negatives)])[0].log() / b

    kept = None
    if suppression_ignores:
        kept = (~(ignore if anchor == "visual" else ignore.T)).tolist()
    rows = logits if anchor == "visual" else columns
    matches = [softmax(row, kept and kept[i]) for i, row in enumerate(rows)]
    audio_adjacency = rows_of(vectors, tau)
    of_audio = rows_of(vectors, tau, kept)
    of_visual = rows_of([sum(image) / len(image) for image in maps], tau, kept)

    sources = []
    for image, vector in zip(maps, vectors):
        own = [position @ vector / tau for position in image]
        low = min(own, key=lambda value: value.item())
        high = max(own, key=lambda value: value.item())
        share = [(value - low) / (high - low + 1e-5) for value in own]
        if mask == "hard":
            share = [1.0 if value > threshold else 0.0 for value in share]
        sources.append(sum(s * position for s, position in zip(share, image)) / len(image))

    return {
        "info_nce": info_nce,
        "fns_audio": distance(of_audio, matches),
        "fns_visual": distance(of_visual, matches),
        "tne": distance(audio_adjacency, rows_of(sources, tau)),
    }


def features(
    b: int,
    d: int,
    size: tuple[int, ...] = (7, 7),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    aligned: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return random features as leaves; ``aligned`` draws the positives together."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(b, d, generator=generator, dtype=torch.float64)
    visual = torch.randn(b, d, math.prod(size), generator=generator, dtype=torch.float64)
    visual[:, :, 0] += aligned * audio
    visual = visual.view(b, d, *size)
    return visual.to(dtype).requires_grad_(), audio.to(dtype).requires_grad_()


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the gradients; zero for an input that the loss does not depend on."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [
        torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found)
    ]
