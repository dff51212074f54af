"""Pairs to leave out: made of labels, and that each sample keeps its positive."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import Peers, gather

MESSAGE = "ignore must be False on the diagonal, which holds the positives"


def of_a_kind(labels: Tensor, peers: Peers) -> Tensor:
    """Return which pairs of the own images share a known label, the positives aside.  [n, b]."""
    own = labels.long()
    same = (own[:, None] == gather(own, peers)[None, :]) & (own >= 0)[:, None]
    same.diagonal(peers.own(len(own)).start).fill_(False)
    return same


@torch.library.custom_op("avcontrast::keeps_positives", mutates_args=())
def keeps_positives(diagonal: Tensor) -> Tensor:
    """Raise if a positive is marked; on CUDA the device does, later, and nothing waits for it.

    Returns a zero for the caller to add to something that matters: a compiler may drop an operator
    of which nothing is used, and may not read values between operators.
    """
    if diagonal.device.type == "cuda":
        torch._assert_async(~diagonal.any(), MESSAGE)
    elif diagonal.any():
        marked = diagonal.nonzero().flatten()
        raise ValueError(
            f"{MESSAGE}, got True for {len(marked)} of {len(diagonal)} samples, "
            f"the first is sample {marked[0].item()}"
        )
    return diagonal.new_zeros((), dtype=torch.uint8)


@keeps_positives.register_fake
def _(diagonal: Tensor) -> Tensor:
    return diagonal.new_empty((), dtype=torch.uint8)


@keeps_positives.register_vmap
def _(info: object, in_dims: tuple[int | None], diagonals: Tensor) -> tuple[Tensor, None]:
    return keeps_positives(diagonals.flatten()), None
