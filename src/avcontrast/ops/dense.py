"""The definition: every term as its equation says, with the whole similarity tensor in memory."""

from __future__ import annotations

import torch
from einops import einsum, reduce
from torch import Tensor

from avcontrast.distributed import ALONE, Peers, gather, highest, total
from avcontrast.ops import _positives, _soft_mask
from avcontrast.ops._elimination import above_limits
from avcontrast.ops._settings import (
    NORM_EPS,
    RANGE_EPS,
    Settings,
    compute_dtype,
    without_autocast,
)


def unit(features: Tensor, dim: int) -> Tensor:
    """Scale to unit length along ``dim``; a vector that counts as zero becomes zero."""
    norm = torch.linalg.vector_norm(features, dim=dim, keepdim=True)
    # The backward pass of a product takes half the steps over the features that a quotient's does.
    return features * torch.where(norm > NORM_EPS, norm, torch.inf).reciprocal()


def inverse_lengths(vectors: Tensor) -> Tensor:
    """Return what scales vectors to unit length, zero for one that counts as zero.  [n, 1]."""
    # Of vector_norm the backward pass takes twice the time, filling in zeros.
    squared = (vectors * vectors).sum(1, keepdim=True)
    return torch.where(squared > NORM_EPS**2, squared, torch.inf).rsqrt()


def vectors(audio: Tensor, normalize: bool) -> Tensor:
    """Return the vectors that are compared, at unit length if asked for.  [m, d]."""
    with without_autocast(audio.device):
        audio = audio.to(compute_dtype(audio, audio))
        return unit(audio, 1) if normalize else audio


def mean_vectors(visual: Tensor, normalize: bool) -> Tensor:
    """Return the mean over the positions, which are at unit length if asked for.  [n, d].

    Its product with a vector is the mean of the products with that vector.
    """
    with without_autocast(visual.device):
        visual = visual.to(compute_dtype(visual, visual))
        maps = visual.flatten(2) if visual.ndim > 2 else visual[:, :, None]
        if not normalize:
            return maps.mean(2)
        length = torch.linalg.vector_norm(maps, dim=1)
        share = 1 / (torch.where(length > NORM_EPS, length, torch.inf) * maps.shape[2])
        return torch.matmul(maps, share[:, :, None]).squeeze(2)


def zero_of(tensor: Tensor) -> Tensor:
    """Return a zero, of any tensor, whose gradient is zero: what it is added to depends on it."""
    return tensor.flatten()[:0].sum()


def max_similarity(visual: Tensor, audio: Tensor, *, normalize: bool) -> Tensor:
    """Return the highest similarity over the positions for every pair.  [n, m]."""
    with without_autocast(visual.device):
        visual, audio = _prepare(visual, audio, normalize)
        return einsum(visual, audio, "n d p, m d -> n m p").max(-1).values


def soft_similarity(
    visual: Tensor, audio: Tensor, soft_mask: tuple[float, float], *, normalize: bool
) -> Tensor:
    """Return the mean similarity under a soft mask for every pair.  [n, m]."""
    with without_autocast(visual.device):
        visual, audio = _prepare(visual, audio, normalize)
        return _soft_mask.pool(einsum(visual, audio, "n d p, m d -> n m p"), *soft_mask)


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    settings: Settings,
    peers: Peers = ALONE,
    ignore: Tensor | None = None,
) -> list[Tensor]:
    """Return the terms that ``settings`` names, one value a sample; adjacency rows are summed."""
    with without_autocast(visual.device):
        few = _scales_products(visual, audio, settings, peers)
        visual, audio = _prepare(visual, audio, settings.normalize and not few)
        tau = temperature.to(visual.dtype)
        all_audio = gather(audio, peers)
        logits = visual.new_empty(0)
        if few:
            images = visual.flatten(1)
            by_row = inverse_lengths(images) / tau
            logits = (images @ all_audio.T) * by_row * inverse_lengths(all_audio).T
        elif settings.needs_logits:
            logits = _logits(visual, all_audio, tau, settings)
        return terms_of(logits, visual, audio, all_audio, tau, settings, peers, ignore)


def terms_of(
    logits: Tensor,
    visual: Tensor,
    audio: Tensor,
    all_audio: Tensor,
    tau: Tensor,
    settings: Settings,
    peers: Peers,
    ignore: Tensor | None,
) -> list[Tensor]:
    """Return the terms that ``settings`` names, from what :func:`contrast` has prepared.

    Args:
        logits: of the own images with the audios of all, empty if no term needs them.  [n, b].
        visual: own maps, of unit features if that is asked for, and needed.  [n, d, p].
        audio: own vectors, likewise.  [n, d].
        all_audio: the vectors of all processes.  [b, d].
        tau: the temperature.
        settings: which terms, and how.
        peers: the processes that share the batch.
        ignore: pairs that the cross entropies leave out, or the suppression terms, as ``settings``
            says.  [n, b].
    """
    with without_autocast(audio.device):
        terms, detach = settings.terms, settings.detach_adjacency
        own = peers.own(audio.shape[0]).start
        values: dict[str, Tensor] = {}

        if settings.needs_logits:
            likely = above_limits(logits.detach(), settings, peers) if settings.eliminates else None
            if settings.has_positives:
                return _with_positives(logits, ignore, likely, settings, peers)
            contrasted = logits if ignore is None else logits.masked_fill(ignore, -torch.inf)
            if likely is not None:
                contrasted = contrasted.masked_fill(likely, -torch.inf)
        if "visual_to_audio" in terms:
            values["visual_to_audio"] = -contrasted.log_softmax(1).diagonal(own)
        if "audio_to_visual" in terms:
            values["audio_to_visual"] = -_log_softmax_columns(contrasted, peers).diagonal(own)

        if settings.suppresses:
            by_column = settings.anchor == "audio"
            ignored = ignore if settings.suppression_ignores else None
            compared = logits if ignored is None else contrasted
            match = (
                _log_softmax_columns(compared, peers).exp() if by_column else compared.softmax(1)
            )
        if "fns_audio" in terms:
            of_audio = _adjacency(
                audio, all_audio, tau, peers, ignored, by_column=by_column, detach=detach
            )
            values["fns_audio"] = _distance(of_audio, match, peers, by_column=by_column)
        if "fns_visual" in terms:
            pooled = reduce(visual, "b d p -> b d", "mean")
            all_pooled = gather(pooled, peers)
            of_visual = _adjacency(
                pooled, all_pooled, tau, peers, ignored, by_column=by_column, detach=detach
            )
            values["fns_visual"] = _distance(of_visual, match, peers, by_column=by_column)
        if "tne" in terms:
            sources = _sources(visual, audio, tau, settings)
            of_audio = _adjacency(audio, all_audio, tau, peers, detach=detach)
            of_sources = _adjacency(sources, gather(sources, peers), tau, peers)
            # With a hard mask and a constant adjacency nothing else leads to the audio.
            values["tne"] = _distance(of_audio, of_sources, peers) + zero_of(audio)

        return [values[term] for term in terms]


def _with_positives(
    logits: Tensor, kind: Tensor | None, likely: Tensor | None, settings: Settings, peers: Peers
) -> list[Tensor]:
    """Return the contrastive terms where a sample may have several positives.  [n] each."""
    assert kind is not None
    negative = kind == _positives.NEGATIVE
    if likely is not None:
        negative = negative & ~likely
    positive, form = kind == _positives.POSITIVE, settings.positive_form
    return [
        _positives.losses(logits, positive, negative, direction, form, peers)
        for direction in settings.terms
    ]


def _scales_products(visual: Tensor, audio: Tensor, settings: Settings, peers: Peers) -> bool:
    """Return whether lengths scale the products of vectors, which are then fewer than the numbers.

    Not in a program that is exported for any batch size, which cannot choose.
    """
    rows, channels = audio.shape
    return (
        settings.normalize
        and visual.shape[2:].numel() == 1
        and settings.contrasts_alone
        and isinstance(rows, int)
        and rows * peers.size <= channels
    )


def _logits(visual: Tensor, audio: Tensor, tau: Tensor, settings: Settings) -> Tensor:
    """Return the similarity, pooled over the positions, over tau.  [n, m]."""
    if visual.shape[2] == 1:
        # Of vectors, to divide the product takes a good part of the time of the loss.
        return (visual.flatten(1) * tau.reciprocal()) @ audio.T
    similarity = einsum(visual, audio, "n d p, m d -> n m p")
    if settings.pooling == "soft-mask":
        return _soft_mask.pool(similarity, *settings.soft_mask) / tau
    return (similarity.max(-1).values if settings.needs_index else similarity.mean(-1)) / tau


def _prepare(visual: Tensor, audio: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(visual, audio)
    audio = audio.to(dtype)
    return prepared_maps(visual, dtype, normalize), unit(audio, 1) if normalize else audio


def prepared_maps(visual: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    """Return maps with a single axis of positions, of unit features if asked for.  [n, d, p]."""
    visual = visual.flatten(2).to(dtype)
    if not normalize:
        return visual
    if visual.shape[2] == 1:  # a sum over the last dimension is the faster one
        return unit(visual.flatten(1), 1)[:, :, None]
    return unit(visual, 1)


def _adjacency(
    own: Tensor,
    everyone: Tensor,
    tau: Tensor,
    peers: Peers,
    ignored: Tensor | None = None,
    *,
    by_column: bool = False,
    detach: bool = False,
) -> Tensor:
    """Return the own rows of an adjacency, or its own columns, transposed.  [n, b].

    The similarities are symmetric, so that a column is a row of which each entry is divided by
    another sum; but for what is ignored.
    """
    similarities = einsum(own, everyone, "i d, j d -> i j") / tau
    if ignored is not None:
        similarities = similarities.masked_fill(ignored, -torch.inf)
    if not by_column:
        matrix = similarities.softmax(1)
    elif peers.size == 1:
        matrix = similarities.softmax(0)
    elif ignored is not None:
        matrix = _log_softmax_columns(similarities, peers).exp()
    else:
        matrix = (similarities - gather(similarities.logsumexp(1), peers)).exp()
    return matrix.detach() if detach else matrix


def _log_softmax_columns(logits: Tensor, peers: Peers) -> Tensor:
    """Return the logarithm of the softmax over columns, each process having a part.  [n, b]."""
    if peers.size == 1:
        return logits.log_softmax(0)
    shifted = logits - highest(logits.amax(0), peers)
    return shifted - total(shifted.exp().sum(0), peers).log()


def _distance(left: Tensor, right: Tensor, peers: Peers, *, by_column: bool = False) -> Tensor:
    """Return the sum over each own row of what two matrices differ by.  [n]."""
    if not by_column:
        return (left - right).abs().sum(1)
    return total((left - right).abs().sum(0), peers)[peers.own(left.shape[0])]


def _sources(visual: Tensor, audio: Tensor, tau: Tensor, settings: Settings) -> Tensor:
    if visual.shape[2] == 1:
        # Nothing stands out from a single position. The general form is zero here as well, but
        # Inductor of torch 2.13 gets its gradient wrong, and that of a product with zero.
        vectors = visual.flatten(1)
        return torch.where(vectors.isfinite(), torch.zeros_like(vectors), vectors)
    own_map = einsum(visual, audio, "b d p, b d -> b p") / tau
    mask = foreground(own_map, settings.threshold, settings.mask)
    return reduce(visual * mask[:, None], "b d p -> b d", "mean")


def foreground(own_map: Tensor, threshold: float, mask: str) -> Tensor:
    """Return which positions, or how much of each, belong to the sounding source.  [b, p]."""
    low, high = own_map.min(1, keepdim=True).values, own_map.max(1, keepdim=True).values
    scaled = (own_map - low) / (high - low + RANGE_EPS)
    return scaled if mask == "soft" else (scaled > threshold).to(own_map.dtype)
