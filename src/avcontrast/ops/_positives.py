"""The contrastive term where a sample has several positives, a block of rows at a time.

With the logits of a row, or of a column, and the positives P and negatives N among them, it is

    outside  the mean over P of -log softmax
    inside   -log of the summed softmax of P
    sum      log(1 + exp(sum of N - sum of P))
    mean     log(1 + exp(sum of N - mean of P))

The kinds of all pairs come as one matrix of bytes: negative, ignored or positive. Exponentials are
taken below the maximum of what they are summed over, positives and negatives apart, so that little
is lost where the one kind outweighs the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import ALONE, Peers, all_reduce, highest, total
from avcontrast.ops._adjacency import Matrices, along
from avcontrast.ops._elimination import above
from avcontrast.ops._settings import Settings

NEGATIVE, IGNORED, POSITIVE = range(3)
DIRECTIONS = ("visual_to_audio", "audio_to_visual")

MEASURES = 6
"""How many numbers each sample and direction has, see :func:`measure`."""

OVERLAP = "positives and ignore must not overlap"


def kinds(positives: Tensor, ignore: Tensor | None, first: int) -> Tensor:
    """Return the kind of each pair; own pairs, from column ``first`` on, are positives.  [n, b]."""
    result = positives.to(torch.uint8) * POSITIVE
    if ignore is not None:
        result = result + ignore.to(torch.uint8) * IGNORED
    return result.diagonal_scatter(result.new_full((result.shape[0],), POSITIVE), first)


@torch.library.custom_op("avcontrast::disjoint", mutates_args=())
def disjoint(positives: Tensor, ignore: Tensor) -> Tensor:
    """Raise if a pair is in both; on CUDA the device does, later. Returns a zero to be added."""
    overlap = positives & ignore
    if overlap.device.type == "cuda":
        torch._assert_async(~overlap.any(), OVERLAP)
    elif overlap.any():
        first = overlap.nonzero()[0].tolist()
        raise ValueError(
            f"{OVERLAP}, got {int(overlap.sum())} pairs that are in both, the first is image "
            f"{first[0]} with audio {first[1]}"
        )
    return overlap.new_zeros((), dtype=torch.uint8)


@disjoint.register_fake
def _(positives: Tensor, ignore: Tensor) -> Tensor:
    return positives.new_empty((), dtype=torch.uint8)


def losses(
    logits: Tensor, positive: Tensor, negative: Tensor, direction: str, form: str, peers: Peers
) -> Tensor:
    """Return the term of each own sample, as its equation says.  [n]."""
    by_column = direction == "audio_to_visual"
    dim = 0 if by_column else 1
    sharing = peers if by_column else ALONE
    count = total(positive.sum(dim), sharing)
    inside = total(logits.masked_fill(~positive, 0).sum(dim), sharing)
    if form == "inside":
        kept = _log_sum(logits.masked_fill(~positive, -torch.inf), dim, sharing)
        rows = _log_sum(logits.masked_fill(~(positive | negative), -torch.inf), dim, sharing) - kept
    elif form == "outside":
        rows = _log_sum(logits.masked_fill(~(positive | negative), -torch.inf), dim, sharing)
        rows = rows - inside / count
    else:
        outside = total(logits.masked_fill(~negative, 0).sum(dim), sharing)
        rows = _log_of_one_more(outside - (inside / count if form == "mean" else inside))
    return rows[peers.own(len(logits))] if by_column else rows


def _log_sum(logits: Tensor, dim: int, peers: Peers) -> Tensor:
    """Return log-sum-exp along a dimension that the processes share."""
    if peers.size == 1:
        return logits.logsumexp(dim)
    top = highest(logits.amax(dim), peers)
    return total((logits - top.unsqueeze(dim)).exp().sum(dim), peers).log() + top


def _log_of_one_more(logarithm: Tensor) -> Tensor:
    """Return log(1 + exp(x)) without a threshold, beyond which digits are lost."""
    return torch.logaddexp(logarithm, torch.zeros_like(logarithm))


def forward(matrices: Matrices, settings: Settings) -> Tensor:
    """Return the terms, one value an own sample; fills in the scales.  [terms, n]."""
    values = []
    for direction in settings.terms:
        measures = matrices.scales[DIRECTIONS.index(direction)]
        measure(matrices, settings, measures, by_column=direction == "audio_to_visual")
        values.append(_value(measures[:, matrices.own], settings.positive_form))
    return torch.stack(values)


def measure(matrices: Matrices, settings: Settings, measures: Tensor, *, by_column: bool) -> None:
    """Fill in what each row, or column, needs: maximum and sum of exponentials, and so on.

    These are the maximum of all; of the negatives the sum of exponentials below it, or of the
    logits for the forms that have no exponentials; of the positives their own maximum, the sum of
    exponentials below that, their number and the sum of their logits.  [6, b].
    """
    peers = matrices.peers if by_column else ALONE
    dim = 0 if by_column else 1
    exponential = settings.positive_form in ("outside", "inside")
    tops = torch.full_like(measures[:2], -torch.inf)
    for rows, own in matrices.blocks(4):
        where = slice(None) if by_column else own
        for top, kept in zip(tops, _kept(matrices, rows, own), strict=True):
            found = matrices.logits[rows].masked_fill(~kept, -torch.inf).amax(dim)
            top[where] = torch.maximum(top[where], found)
    tops = all_reduce(tops, peers, highest=True)
    sums = torch.zeros_like(measures[:4])
    for rows, own in matrices.blocks(6):
        where = slice(None) if by_column else own
        logits = matrices.logits[rows]
        positive, negative = _kept(matrices, rows, own)
        if exponential:
            outside = (logits - along(tops.amax(0), own, by_column)).exp_()
            inside = (logits - along(tops[0], own, by_column)).exp_()
            sums[1, where] += inside.masked_fill_(~positive, 0).sum(dim)
        else:
            outside = logits.clone()
        sums[0, where] += outside.masked_fill_(~negative, 0).sum(dim)
        sums[2, where] += positive.sum(dim)
        sums[3, where] += logits.masked_fill(~positive, 0).sum(dim)
    outside, inside, count, logits = all_reduce(sums, peers).unbind()
    measures.copy_(torch.stack((tops.amax(0), outside, tops[0], inside, count, logits)))


def _kept(matrices: Matrices, rows: slice, own: slice) -> tuple[Tensor, Tensor]:
    """Return which pairs of a block of rows are positives, and which are negatives.  [r, b]."""
    assert matrices.ignore is not None
    kind = matrices.ignore[rows]
    negative = kind == NEGATIVE
    if matrices.limits is not None:
        negative &= ~above(matrices.logits[rows], matrices.limits, own)
    return kind == POSITIVE, negative


def _value(measures: Tensor, form: str) -> Tensor:
    top, negatives, top_positive, positives, count, logits = measures.unbind()
    if form == "inside":
        return _log_of_one_more(negatives.log() - positives.log() + (top - top_positive))
    if form == "outside":
        rest = positives * (top_positive - top).exp() - 1
        return (negatives + rest).log1p() - (logits / count - top)
    return _log_of_one_more(negatives - (logits / count if form == "mean" else logits))


def logits_backward(
    grads: dict[str, Tensor], matrices: Matrices, settings: Settings, rows: slice
) -> Tensor:
    """Return the gradient of all terms with respect to a block of rows of the logits.  [r, b]."""
    first = matrices.own.start
    own = slice(first + rows.start, first + rows.stop)
    logits = matrices.logits[rows]
    positive, negative = _kept(matrices, rows, own)
    result = torch.zeros_like(logits)
    for direction in settings.terms:
        by_column = direction == "audio_to_visual"
        measures = matrices.scales[DIRECTIONS.index(direction)]
        slope = _slope(logits, positive, measures, settings.positive_form, own, by_column)
        slope.masked_fill_(~(positive | negative), 0)
        result.addcmul_(slope, along(grads[direction], own, by_column))
    return result


def _slope(
    logits: Tensor, positive: Tensor, measures: Tensor, form: str, own: slice, by_column: bool
) -> Tensor:
    """Return the derivatives of one direction, right where a pair is positive or negative."""
    top, negatives, top_positive, positives, count, sums = measures.unbind()

    def spread(vector: Tensor) -> Tensor:
        return along(vector, own, by_column)

    if form in ("sum", "mean"):
        outweighed = (negatives - (sums / count if form == "mean" else sums)).sigmoid()
        of_positive = -outweighed / (count if form == "mean" else 1)
        return torch.where(positive, spread(of_positive), spread(outweighed))
    everything = negatives + positives * (top_positive - top).exp()
    softmax = (logits - spread(top)).exp_().div_(spread(everything))
    if form == "inside":
        share = (logits - spread(top_positive)).exp_().mul_(spread(negatives / everything))
        return torch.where(positive, share.div_(spread(-positives)), softmax)
    # The only positive of a sample holds almost all of the softmax in the end.
    alone = spread(count == 1)
    of_positive = torch.where(alone, spread(-negatives / everything), softmax - spread(1 / count))
    return torch.where(positive, of_positive, softmax)
