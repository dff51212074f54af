"""Sounds as sequences of frames: what ``dense`` and ``blockwise`` do with them.

A match is pooled over time, by the mean or the maximum, from what each frame matches best in the
image. All terms follow from these b x b matches, as in ``dense``; where a term needs one vector a
sound, it is the mean of the unit frames. The similarity of all frames at all positions is held as a
whole by ``dense`` only. Streamed, it exists for a few images and a few sounds at a time. For the
way back the positions of the maxima are kept if they are few; otherwise they are found again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import einsum
from torch import Tensor

from avcontrast.distributed import ALONE, Peers, gather
from avcontrast.ops import _maps, dense
from avcontrast.ops._autograd import register_gradient
from avcontrast.ops._settings import Settings, compute_dtype, without_autocast

KEPT_BYTES = 8 * 2**20
"""Positions of the maxima of up to this size are kept for the backward pass."""


def max_similarity(
    visual: Tensor, audio: Tensor, *, normalize: bool, audio_pooling: str, streamed: bool
) -> Tensor:
    """Return the highest similarity over the positions, then pooled over time, [n, m]."""
    with without_autocast(visual.device):
        frames = _unit_frames(visual, audio, normalize)
        return _match(visual, frames, normalize, audio_pooling, streamed)


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    settings: Settings,
    peers: Peers = ALONE,
    ignore: Tensor | None = None,
    *,
    audio_pooling: str,
    streamed: bool,
) -> list[Tensor]:
    """Return the terms that ``settings`` names, one value a sample; adjacency rows are summed."""
    with without_autocast(visual.device):
        normalize = settings.normalize
        frames = _unit_frames(visual, audio, normalize)
        all_frames = gather(frames, peers)
        tau = temperature.to(frames.dtype)
        maps = visual
        if not streamed or settings.needs_pooled or "tne" in settings.terms:
            # Whatever needs the maps takes these, so that 16-bit gradients are not added up.
            maps = dense.prepared_maps(visual, frames.dtype, normalize)
            visual, normalize = maps[:, :, None], False
        logits = frames.new_empty(0)
        if settings.pools_mean:
            # The mean over the positions is a map of one position, whose feature is as it is.
            pooled = maps.mean(2)[:, :, None, None]
            if audio_pooling == "mean":
                logits = pooled[:, :, 0, 0] @ all_frames.mean(1).T / tau
            else:
                logits = _match(pooled, all_frames, False, audio_pooling, streamed) / tau
        elif settings.needs_index:
            logits = _match(visual, all_frames, normalize, audio_pooling, streamed) / tau
        own, everyone = frames.mean(1), all_frames.mean(1)
        return dense.terms_of(logits, maps, own, everyone, tau, settings, peers, ignore)


def _unit_frames(visual: Tensor, audio: Tensor, normalize: bool) -> Tensor:
    """Return the frames of each sound, at unit length if asked for.  [m, t, d]."""
    audio = audio.to(compute_dtype(visual, audio)).transpose(1, 2).contiguous()
    return dense.unit(audio, 2) if normalize else audio


def _match(
    visual: Tensor, frames: Tensor, normalize: bool, audio_pooling: str, streamed: bool
) -> Tensor:
    """Return the maximum over the positions, pooled over time, of every pair.  [n, m]."""
    if streamed:
        with_index = torch.is_grad_enabled() and (visual.requires_grad or frames.requires_grad)
        match: Tensor = _pooled(visual, frames, normalize, audio_pooling, with_index)[0]
        return match
    maps = dense.prepared_maps(visual, frames.dtype, normalize)
    best = einsum(maps, frames, "n d p, m t d -> n m t p").max(-1).values
    return best.mean(-1) if audio_pooling == "mean" else best.max(-1).values


@torch.library.custom_op("avcontrast::sequence_similarity", mutates_args=())
def _pooled(
    visual: Tensor, frames: Tensor, normalize: bool, audio_pooling: str, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(visual.device):
        time = frames.shape[1]
        match, index, chosen = _empty_outputs(visual, frames, audio_pooling, with_index)
        for images in _image_blocks(visual, frames):
            maps = _maps.maps_of(visual, images, frames.dtype)
            scaling = _maps.scaling_of(maps, normalize)
            for sounds in _sound_blocks(visual, maps, frames):
                columns = _maps.columns_of(frames[sounds].flatten(0, 1))
                similarity = _maps.similarity(maps, scaling, columns)
                best, where = _maps.best_positions(similarity, len(index) > 0)
                best = best.reshape(len(best), -1, time)
                if audio_pooling == "mean":
                    match[images, sounds] = best.mean(2)
                    if where is not None:
                        index[images, _frames_of(sounds, time)] = where
                    continue
                match[images, sounds], when = best.max(2)
                if where is not None:
                    where = where.reshape(best.shape).gather(2, when[:, :, None])
                    index[images, sounds], chosen[images, sounds] = where[:, :, 0], when
        return match, index, chosen


@_pooled.register_fake
def _(
    visual: Tensor, frames: Tensor, normalize: bool, audio_pooling: str, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(visual, frames, audio_pooling, with_index)


@torch.library.custom_op("avcontrast::sequence_similarity_backward", mutates_args=())
def _pooled_backward(
    grad: Tensor,
    visual: Tensor,
    frames: Tensor,
    index: Tensor,
    chosen: Tensor,
    normalize: bool,
    audio_pooling: str,
    need_visual: bool,
    need_frames: bool,
) -> tuple[Tensor, Tensor]:
    with without_autocast(visual.device):
        time = frames.shape[1]
        grad_visual, grad_frames = _empty_gradients(visual, frames, need_visual, need_frames)
        grad_frames.zero_()
        for images in _image_blocks(visual, frames):
            maps = _maps.maps_of(visual, images, frames.dtype)
            scaling = _maps.scaling_of(maps, normalize)
            grad_maps = torch.zeros_like(maps)
            for sounds in _sound_blocks(visual, maps, frames):
                vectors = frames[sounds].flatten(0, 1)
                each = (-1, -1, time)
                weights = grad[images, sounds, None]
                if audio_pooling == "max":
                    when = chosen[images, sounds, None].long()
                    weights = torch.zeros_like(weights).expand(each).scatter(2, when, weights)
                    where = index[images, sounds, None].expand(each).flatten(1)
                else:
                    weights = (weights / time).expand(each)
                    if len(index):
                        where = index[images, _frames_of(sounds, time)]
                    else:
                        similarity = _maps.similarity(maps, scaling, _maps.columns_of(vectors))
                        where = _maps.first_best(similarity)
                weights = weights.flatten(1) * scaling.gather(1, where.long())
                if need_frames:
                    found = _maps.to_vectors(weights, where, maps)
                    grad_frames[sounds] += found.view(-1, *frames.shape[1:])
                if need_visual:
                    grad_maps += _maps.to_maps(weights, where, vectors, maps.shape[2])
            if need_visual:
                along = (maps * grad_maps).sum(1)
                _maps.store(grad_maps, along, maps, scaling, normalize, grad_visual[images])
        return grad_visual, grad_frames


@_pooled_backward.register_fake
def _(
    grad: Tensor,
    visual: Tensor,
    frames: Tensor,
    index: Tensor,
    chosen: Tensor,
    normalize: bool,
    audio_pooling: str,
    need_visual: bool,
    need_frames: bool,
) -> tuple[Tensor, Tensor]:
    return _empty_gradients(visual, frames, need_visual, need_frames)


register_gradient(_pooled, _pooled_backward, tensors=2, differentiable=2, name="blockwise")


def _empty_outputs(
    visual: Tensor, frames: Tensor, audio_pooling: str, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for the match, the positions of the maxima and, of a maximum, its frame."""
    sounds, time, _ = frames.shape
    match = frames.new_empty(visual.shape[0], sounds)
    if audio_pooling == "max":
        index = _maps.empty_index(visual, sounds, with_index)
        return match, index, torch.empty_like(index, dtype=torch.int32)
    kept = _maps.empty_index(visual, sounds * time, False)
    if with_index and visual.shape[0] * sounds * time * kept.element_size() <= KEPT_BYTES:
        kept = _maps.empty_index(visual, sounds * time, True)
    return match, kept, torch.empty_like(kept[:0], dtype=torch.int32)


def _empty_gradients(
    visual: Tensor, frames: Tensor, need_visual: bool, need_frames: bool
) -> tuple[Tensor, Tensor]:
    layout = torch.contiguous_format
    return (
        _maps.empty_maps(visual) if need_visual else visual.new_empty(0),
        torch.empty_like(frames, memory_format=layout) if need_frames else frames.new_empty(0),
    )


def _image_blocks(visual: Tensor, frames: Tensor) -> Iterator[slice]:
    """Cut the images so that their rows, with a gradient, take half of what a block may."""
    bytes_each = 3 * visual.shape[1:].numel() * frames.element_size()
    return _maps.blocks(visual.shape[0], bytes_each, _maps.block_bytes(visual) // 2)


def _sound_blocks(visual: Tensor, maps: Tensor, frames: Tensor) -> Iterator[slice]:
    """Cut the sounds so that their similarity with some images takes the other half."""
    images, _, positions = maps.shape
    # Beside the similarity, indices of 8 bytes and sorted ones for each frame and image.
    bytes_each = frames.shape[1] * images * (positions * frames.element_size() + 40)
    return _maps.blocks(frames.shape[0], bytes_each, _maps.block_bytes(visual) // 2)


def _frames_of(sounds: slice, time: int) -> slice:
    return slice(sounds.start * time, sounds.stop * time)
