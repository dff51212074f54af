"""What several kernels share."""

import triton
import triton.language as tl

from avcontrast.ops import _settings
from avcontrast.ops.triton import tiles

NORM_EPS = tl.constexpr(_settings.NORM_EPS)
RANGE_EPS = tl.constexpr(_settings.RANGE_EPS)
INTERPRETED = tl.constexpr(tiles.INTERPRETED)
GROUP = tl.constexpr(8)  # rows of tiles at a time, so that what they read stays in the L2 cache
OPERAND_SCALE = tl.constexpr(256.0)  # keeps what fp16 cuts off large enough for a second fp16


@triton.jit
def split(value, dtype: tl.constexpr):
    """Return the 16-bit number nearest to each value, and the one nearest to what is left."""
    high = value.to(dtype)
    return high, (value - high.to(tl.float32)).to(dtype)


@triton.jit
def dot(left, right, sum):
    """Add a product of 16-bit tiles to ``sum``."""
    if INTERPRETED:  # it multiplies the bit patterns of bf16 numbers
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sum)
    return tl.dot(left, right, sum)


@triton.jit
def dot_split(left_high, left_low, right_high, right_low, sum):
    """Add a product of tiles in two parts to ``sum``, the small terms first."""
    sum = dot(left_low, right_high, sum)
    sum = dot(left_high, right_low, sum)
    return dot(left_high, right_high, sum)


@triton.jit
def foreground(own, inside, threshold, SOFT: tl.constexpr):
    """Return how much of each position belongs to the sounding source.  [p]."""
    low = tl.min(tl.where(inside, own, float("inf")), 0)
    high = tl.max(tl.where(inside, own, float("-inf")), 0)
    scaled = tl.div_rn(own - low, high - low + RANGE_EPS)
    share = scaled if SOFT else tl.where(scaled > threshold, 1.0, 0.0)
    return tl.where(inside, share, 0.0)


@triton.jit
def tile_of(program, row_tiles, column_tiles):
    """Return the tile of a program, so that neighbours in time share rows in the L2 cache."""
    width = GROUP * column_tiles
    first = (program // width) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + (program % width) % height, (program % width) // height


@triton.jit
def store_statistics(score, positive, AXIS: tl.constexpr, out, stride, inside):
    """Store the maxima along an axis, and the sums of exponentials without the positives."""
    best = tl.max(score, AXIS)
    shift = tl.where(best > float("-inf"), best, 0.0)
    terms = tl.where(positive, 0.0, tl.exp(score - tl.expand_dims(shift, AXIS)))
    tl.store(out, best, mask=inside)
    tl.store(out + stride, tl.sum(terms, AXIS), mask=inside)


@triton.jit
def likely(score, limits, count, row, column, positive):
    """Return which pairs of a tile lie above the limits of their image and of their audio."""
    of_image = tl.load(limits + row)[:, None]
    of_audio = tl.load(limits + count + column)[None, :]
    return (score > of_image) & (score > of_audio) & (positive == 0)


@triton.jit
def unscale_of(largest, tau):
    """Return what turns a product of operands of the same kind into scores."""
    scale = tl.load(largest) / OPERAND_SCALE
    return scale * scale / tl.load(tau)
