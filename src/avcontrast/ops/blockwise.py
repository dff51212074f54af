"""Row-block streaming in PyTorch: any device, any dtype, never the b x b x p similarity.

Three operators with their gradients. What they compute is in ``_maps`` and ``_soft_mask`` (between
the feature maps and the logits), ``_sources`` and ``_adjacency`` (after the pooling); this file
puts the pieces in order and tells PyTorch about them. Kept for the backward pass are the logits (4
bytes a pair in fp32), the position of each maximum (1 byte), the length at each position and a few
numbers a row. A soft mask is made again from the similarity of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast.distributed import ALONE, Peers, all_gather, reduce_scatter
from avcontrast.ops import _adjacency, _elimination, _maps, _positives, _soft_mask, _sources
from avcontrast.ops._autograd import register_gradient
from avcontrast.ops._settings import (
    Settings,
    compute_dtype,
    packed,
    unpacked,
    with_options,
    without_autocast,
)


def max_similarity(visual: Tensor, audio: Tensor, *, normalize: bool) -> Tensor:
    """Return the highest similarity over the positions for every pair.  [n, m]."""
    with_index = torch.is_grad_enabled() and (visual.requires_grad or audio.requires_grad)
    best: Tensor = _max_similarity(visual, audio, normalize, with_index)[0]
    return best


def soft_similarity(
    visual: Tensor, audio: Tensor, soft_mask: tuple[float, float], *, normalize: bool
) -> Tensor:
    """Return the mean similarity under a soft mask for every pair.  [n, m]."""
    with_backward = torch.is_grad_enabled() and (visual.requires_grad or audio.requires_grad)
    pooled: Tensor = _soft_similarity(visual, audio, normalize, *soft_mask, with_backward)
    return pooled


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    settings: Settings,
    peers: Peers = ALONE,
    ignore: Tensor | None = None,
) -> list[Tensor]:
    """Return the terms that ``settings`` names, one value a sample; adjacency rows are summed."""
    with_backward = torch.is_grad_enabled() and (visual.requires_grad or audio.requires_grad)
    options = packed(settings, peers)
    values, *_ = _contrast(visual, audio, temperature, ignore, *options, with_backward)
    return list(values.unbind())


@torch.library.custom_op("avcontrast::max_similarity", mutates_args=())
def _max_similarity(
    visual: Tensor, audio: Tensor, normalize: bool, with_index: bool
) -> tuple[Tensor, Tensor]:
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        vectors, _ = _maps.unit_vectors(audio, dtype, normalize)
        columns = _maps.columns_of(vectors)
        best = vectors.new_empty(visual.shape[0], audio.shape[0])
        index = _maps.empty_index(visual, audio.shape[0], with_index)
        for block in _maps.forward_blocks(visual, vectors):
            maps = _maps.maps_of(visual, block, dtype)
            similarity = _maps.similarity(maps, _maps.scaling_of(maps, normalize), columns)
            best[block], where = _maps.best_positions(similarity, with_index)
            if where is not None:
                index[block] = where
        return best, index


@_max_similarity.register_fake
def _(visual: Tensor, audio: Tensor, normalize: bool, with_index: bool) -> tuple[Tensor, Tensor]:
    pairs = (visual.shape[0], audio.shape[0])
    best = visual.new_empty(pairs, dtype=compute_dtype(visual, audio))
    return best, _maps.empty_index(visual, audio.shape[0], with_index)


@torch.library.custom_op("avcontrast::max_similarity_backward", mutates_args=())
def _max_similarity_backward(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    best: Tensor,
    index: Tensor,
    normalize: bool,
    need_visual: bool,
    need_audio: bool,
) -> tuple[Tensor, Tensor]:
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        vectors, vector_lengths = _maps.unit_vectors(audio, dtype, normalize)
        grad_visual = _empty_maps_if(need_visual, visual)
        grad_vectors = torch.zeros_like(vectors)
        for block in _maps.backward_blocks(visual, vectors):
            maps, where = _maps.maps_of(visual, block, dtype), index[block]
            positions = maps.shape[2]
            scaling = _maps.scaling_of(maps, normalize)
            weights = grad[block] * scaling.gather(1, where.long())
            if need_audio:
                grad_vectors += _maps.to_vectors(weights, where, maps)
            if need_visual:
                grad_maps = _maps.to_maps(weights, where, vectors, positions)
                along = _maps.to_positions(grad[block] * best[block], where, positions)
                _maps.store(grad_maps, along, maps, scaling, normalize, grad_visual[block])
        grad_vectors = _maps.unit_vectors_backward(grad_vectors, vectors, vector_lengths, normalize)
        return grad_visual, grad_vectors.to(audio.dtype) if need_audio else audio.new_empty(0)


@_max_similarity_backward.register_fake
def _(grad: Tensor, visual: Tensor, audio: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    need_visual, need_audio = others[-2:]
    return _empty_maps_if(need_visual, visual), _empty_like_if(need_audio, audio)


register_gradient(
    _max_similarity,
    _max_similarity_backward,
    tensors=2,
    differentiable=2,
    name="blockwise",
    keep_result=True,
)


@torch.library.custom_op("avcontrast::soft_similarity", mutates_args=())
def _soft_similarity(
    visual: Tensor,
    audio: Tensor,
    normalize: bool,
    threshold: float,
    temperature: float,
    with_backward: bool,
) -> Tensor:
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        vectors, _ = _maps.unit_vectors(audio, dtype, normalize)
        pooled = vectors.new_empty(visual.shape[0], audio.shape[0])
        for block in _maps.forward_blocks(visual, vectors):
            maps = _maps.maps_of(visual, block, dtype)
            rows = _maps.unit_rows(maps, _maps.scaling_of(maps, normalize))
            similarity = _soft_mask.similarity(rows, vectors)
            pooled[block] = _soft_mask.pool_pairs(similarity, (threshold, temperature))
        return pooled


@_soft_similarity.register_fake
def _(visual: Tensor, audio: Tensor, *others: Any) -> Tensor:
    pairs = (visual.shape[0], audio.shape[0])
    return visual.new_empty(pairs, dtype=compute_dtype(visual, audio))


@torch.library.custom_op("avcontrast::soft_similarity_backward", mutates_args=())
def _soft_similarity_backward(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    normalize: bool,
    threshold: float,
    temperature: float,
    need_visual: bool,
    need_audio: bool,
) -> tuple[Tensor, Tensor]:
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        vectors, vector_lengths = _maps.unit_vectors(audio, dtype, normalize)
        grad_visual = _empty_maps_if(need_visual, visual)
        grad_vectors = torch.zeros_like(vectors)
        for block in _maps.backward_blocks(visual, vectors, again=True):
            maps = _maps.maps_of(visual, block, dtype)
            scaling = _maps.scaling_of(maps, normalize)
            rows = _maps.unit_rows(maps, scaling)
            similarity = _soft_mask.similarity(rows, vectors)
            mask = (threshold, temperature)
            grad_similarity = _soft_mask.backward(grad[block], similarity, mask).flatten(1)
            if need_audio:
                grad_vectors.addmm_(grad_similarity, rows.flatten(0, 1))
            if need_visual:
                grad_rows = (grad_similarity.T @ vectors).view_as(rows)
                along = torch.linalg.vecdot(rows, grad_rows)
                grad_maps = grad_rows.mul_(scaling[:, :, None]).transpose(1, 2)
                _maps.store(grad_maps, along, maps, scaling, normalize, grad_visual[block])
        grad_vectors = _maps.unit_vectors_backward(grad_vectors, vectors, vector_lengths, normalize)
        return grad_visual, grad_vectors.to(audio.dtype) if need_audio else audio.new_empty(0)


@_soft_similarity_backward.register_fake
def _(grad: Tensor, visual: Tensor, audio: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    need_visual, need_audio = others[-2:]
    return _empty_maps_if(need_visual, visual), _empty_like_if(need_audio, audio)


register_gradient(
    _soft_similarity, _soft_similarity_backward, tensors=2, differentiable=2, name="blockwise"
)


@torch.library.custom_op("avcontrast::contrast", mutates_args=())
@with_options(11, with_backward=bool)
def _contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    settings, peers, (with_backward,) = unpacked(options)
    normalize = settings.normalize
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        tau = temperature.to(dtype)
        own_vectors, _ = _maps.unit_vectors(audio, dtype, normalize)
        vectors = all_gather(own_vectors, peers)
        columns = _maps.columns_of(vectors)
        outputs = _empty_outputs(visual, audio, ignore, settings, peers, with_backward)
        values, logits, index, scales, sums, limits, pooled, scaling, own_map, sources, _ = outputs
        matrices = _adjacency.Matrices(
            logits,
            {"audio": vectors, "pooled": pooled, "sources": sources},
            scales,
            tau,
            settings.anchor,
            peers,
            ignore,
            limits if settings.eliminates else None,
            settings.suppression_ignores,
        )
        first = matrices.own.start
        for block in _maps.forward_blocks(visual, vectors):
            own = slice(first + block.start, first + block.stop)
            maps = _maps.maps_of(visual, block, dtype)
            scaling[block] = scale = _maps.scaling_of(maps, normalize)
            if settings.needs_pooled:
                pooled[own] = _maps.weighed(maps, scale / maps.shape[2])
            if settings.pools_softly:
                similarity = _soft_mask.similarity(_maps.unit_rows(maps, scale), vectors)
                logits[block] = _soft_mask.pool_pairs(similarity, settings.soft_mask).div_(tau)
            elif settings.needs_index:
                similarity = _maps.similarity(maps, scale, columns)
                if "tne" in settings.terms:
                    own_map[block] = similarity[..., own].diagonal(dim1=0, dim2=2).T
                best, where = _maps.best_positions(similarity, with_backward)
                logits[block] = best.div_(tau)
                if where is not None:
                    index[block] = where
            elif settings.needs_logits:
                logits[block] = (pooled[own] @ vectors.T).div_(tau)
            if "tne" in settings.terms:
                if not settings.needs_index:
                    own_map[block] = _maps.products(maps, vectors[own]).mul_(scale)
                own_map[block].div_(tau)
                sources[own] = _sources.forward(maps, scale, own_map[block], settings)

        if "fns_visual" in settings.terms:
            pooled.copy_(all_gather(pooled[matrices.own], peers))
        if "tne" in settings.terms:
            sources.copy_(all_gather(sources[matrices.own], peers))
        if settings.eliminates:
            limits.copy_(_elimination.limits_of(logits, settings, peers))
        if settings.has_positives:
            values.copy_(_positives.forward(matrices, settings))
            sums.zero_()
        else:
            _adjacency.measure_logits(matrices, settings)
            adjacency, sums[:] = _adjacency.forward(matrices, settings)
            for row, term in enumerate(settings.terms):
                values[row] = adjacency[term] if term in adjacency else matrices.cross_entropy(term)
        return *outputs[:-1], vectors if peers.size > 1 else outputs[-1]


@_contrast.register_fake
def _(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    settings, peers, (with_backward,) = unpacked(options)
    return _empty_outputs(visual, audio, ignore, settings, peers, with_backward)


@torch.library.custom_op("avcontrast::contrast_backward", mutates_args=())
@with_options(3, need_visual=bool, need_audio=bool, need_temperature=bool)
def _contrast_backward(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    logits: Tensor,
    index: Tensor,
    scales: Tensor,
    sums: Tensor,
    limits: Tensor,
    pooled: Tensor,
    scaling: Tensor,
    own_map: Tensor,
    sources: Tensor,
    vectors: Tensor,
    *options: Any,
) -> tuple[Tensor, ...]:
    settings, peers, (need_visual, need_audio, need_temperature) = unpacked(options)
    normalize = settings.normalize
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        tau = temperature.to(dtype)
        own_vectors, vector_lengths = _maps.unit_vectors(audio, dtype, normalize)
        vectors = vectors if peers.size > 1 else own_vectors
        grads = dict(zip(settings.terms, all_gather(grad.T, peers).T.unbind(), strict=True))
        features = {"audio": vectors, "pooled": pooled, "sources": sources}
        matrices = _adjacency.Matrices(
            logits,
            features,
            scales,
            tau,
            settings.anchor,
            peers,
            ignore,
            limits if settings.eliminates else None,
            settings.suppression_ignores,
        )
        sources_matter = "tne" in settings.terms and (need_visual or settings.mask == "soft")
        wanted = ("audio",) * need_audio + ("pooled",) * need_visual + ("sources",) * sources_matter
        adjacency = _adjacency.backward(grads, matrices, sums, settings, wanted, need_temperature)
        grad_vectors, grad_pooled, grad_sources = adjacency.features.values()
        if "pooled" in wanted and "fns_visual" in settings.terms:
            grad_pooled = reduce_scatter(grad_pooled, peers)
        else:
            grad_pooled = grad_pooled[matrices.own]
        if sources_matter:
            grad_sources = reduce_scatter(grad_sources, peers)
        grad_tau = adjacency.temperature / tau
        grad_visual = _empty_maps_if(need_visual, visual)
        first = matrices.own.start

        for block in _maps.backward_blocks(visual, vectors, settings.pools_softly):
            own = slice(first + block.start, first + block.stop)
            maps, scale = _maps.maps_of(visual, block, dtype), scaling[block]
            if settings.needs_logits:
                if settings.has_positives:
                    grad_logits = _positives.logits_backward(grads, matrices, settings, block)
                else:
                    grad_logits = _adjacency.logits_backward(
                        grads, matrices, sums, adjacency.signs, block
                    )
                if need_temperature:
                    grad_tau += (grad_logits * logits[block]).sum() / tau
            grad_maps: Tensor | None = None
            along = torch.zeros_like(scale)
            if settings.needs_index and (need_visual or need_audio):
                where = index[block]
                weights = scale.gather(1, where.long()).mul_(grad_logits).div_(tau)
                if need_audio:
                    grad_vectors += _maps.to_vectors(weights, where, maps)
                if need_visual:
                    grad_maps = _maps.to_maps(weights, where, vectors, maps.shape[2])
                    along = _maps.to_positions(grad_logits * logits[block], where, maps.shape[2])
            elif settings.pools_softly:
                rows = _maps.unit_rows(maps, scale)
                grad_similarity = _soft_mask.backward(
                    grad_logits.div_(tau), _soft_mask.similarity(rows, vectors), settings.soft_mask
                ).flatten(1)
                if need_visual:
                    grad_rows = (grad_similarity.T @ vectors).view_as(rows)
                    along = torch.linalg.vecdot(rows, grad_rows)
                    grad_maps = grad_rows.mul_(scale[:, :, None]).transpose(1, 2)
                if need_audio:
                    grad_vectors.addmm_(grad_similarity, rows.flatten(0, 1))
            elif settings.pools_mean:
                grad_logits.div_(tau)
                if need_visual:
                    grad_pooled[block] += grad_logits @ vectors
                if need_audio:
                    grad_vectors.addmm_(grad_logits.T, pooled[own])
            if grad_maps is None:
                grad_maps = torch.zeros_like(maps)
            if sources_matter:
                grad_own_vectors, grad_own_tau = _sources.backward(
                    grad_sources[block],
                    maps,
                    scale,
                    vectors[own],
                    own_map[block],
                    tau,
                    settings,
                    grad_maps,
                    along,
                )
                grad_vectors[own] += grad_own_vectors
                grad_tau += grad_own_tau
            if need_visual:
                if settings.needs_pooled:
                    each = grad_pooled[block] / maps.shape[2]
                    grad_maps.addcmul_(each[:, :, None], scale[:, None])
                    along.addcmul_(_maps.products(maps, each), scale)
                _maps.store(grad_maps, along, maps, scale, normalize, grad_visual[block])

        grad_audio = audio.new_empty(0)
        if need_audio:
            grad_audio = _maps.unit_vectors_backward(
                reduce_scatter(grad_vectors, peers), own_vectors, vector_lengths, normalize
            ).to(audio.dtype)
        return (
            grad_visual,
            grad_audio,
            (-grad_tau).to(temperature.dtype) if need_temperature else temperature.new_empty(0),
        )


@_contrast_backward.register_fake
def _(
    grad: Tensor, visual: Tensor, audio: Tensor, temperature: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    need_visual, need_audio, need_temperature = others[-3:]
    return (
        _empty_maps_if(need_visual, visual),
        _empty_like_if(need_audio, audio),
        _empty_like_if(need_temperature, temperature),
    )


register_gradient(_contrast, _contrast_backward, tensors=4, differentiable=3, name="blockwise")


def _empty_maps_if(needed: bool, visual: Tensor) -> Tensor:
    return _maps.empty_maps(visual) if needed else visual.new_empty(0)


def _empty_like_if(needed: bool, tensor: Tensor) -> Tensor:
    layout = torch.contiguous_format
    return torch.empty_like(tensor, memory_format=layout) if needed else tensor.new_empty(0)


def _empty_outputs(
    visual: Tensor,
    audio: Tensor,
    ignore: Tensor | None,
    settings: Settings,
    peers: Peers,
    with_backward: bool,
) -> tuple[Tensor, ...]:
    n, d = audio.shape
    b = n * peers.size
    positions = visual.shape[2] * visual.shape[3]
    dtype = compute_dtype(visual, audio)
    scales: tuple[int, ...] = (_adjacency.number_of_softmaxes(ignore, settings), 3, b)
    if settings.has_positives:
        scales = (len(_positives.DIRECTIONS), _positives.MEASURES, b)

    def empty(*shape: int, needed: bool = True) -> Tensor:
        return audio.new_empty(shape if needed else 0, dtype=dtype)

    return (
        empty(len(settings.terms), n),
        empty(n, b, needed=settings.needs_logits),
        _maps.empty_index(visual, b, with_backward and settings.needs_index),
        empty(*scales).zero_(),
        empty(len(_adjacency.SIDES), 2, b),
        empty(2, b, needed=settings.eliminates),
        empty(b, d, needed=settings.needs_pooled),
        empty(n, positions),
        empty(n, positions, needed="tne" in settings.terms),
        empty(b, d, needed="tne" in settings.terms),
        empty(b, d, needed=peers.size > 1),
    )
