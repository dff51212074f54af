"""The processes that share a batch, and what they exchange.

Nothing else in the package knows about :mod:`torch.distributed`. Each exchange is an operator with
its exact gradient: seen from above, all processes together are one function of all their inputs.
In a single process every one of them returns its argument.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Peers(NamedTuple):
    """The processes that share a batch: how many, which of them this is, and their group's name."""

    size: int = 1
    rank: int = 0
    group: str = ""

    def own(self, count: int) -> slice:
        """Return where the ``count`` samples of this process lie in the global batch."""
        return slice(self.rank * count, (self.rank + 1) * count)


ALONE = Peers()

UNEQUAL_TEMPERATURES = "temperature must have the same value on every process"

DESCRIPTION_BYTES = 1024
"""Room for what the processes tell each other about a call."""


def find_peers(gather_distributed: bool, group: dist.ProcessGroup | None) -> Peers:
    """Return the processes whose batches make up the global one.

    Raises:
        ValueError: if this process is not one of ``group``.
    """
    if not (gather_distributed and dist.is_available() and dist.is_initialized()):
        return ALONE
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise ValueError("group must be one that this process belongs to")
    name = (group or dist.group.WORLD).group_name  # type: ignore[union-attr]
    return ALONE if size == 1 else Peers(size, rank, name)


def all_gather(tensor: Tensor, peers: Peers) -> Tensor:
    """Return the rows of all processes, in the order of their ranks."""
    if peers.size == 1:
        return tensor
    result = tensor.new_empty(peers.size * tensor.shape[0], *tensor.shape[1:])
    _collective("all_gather_single", "all_gather_into_tensor")(
        result, tensor.contiguous(), group=_group(peers)
    )
    return result


def reduce_scatter(tensor: Tensor, peers: Peers) -> Tensor:
    """Return this process's rows of the sum over all processes."""
    if peers.size == 1:
        return tensor
    result = tensor.new_empty(tensor.shape[0] // peers.size, *tensor.shape[1:])
    _collective("reduce_scatter_single", "reduce_scatter_tensor")(
        result, tensor.contiguous(), group=_group(peers)
    )
    return result


def all_reduce(tensor: Tensor, peers: Peers, *, highest: bool = False) -> Tensor:
    """Return the sum over all processes, or the maximum."""
    if peers.size == 1:
        return tensor
    result = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(
        result, dist.ReduceOp.MAX if highest else dist.ReduceOp.SUM, group=_group(peers)
    )
    return result


def gather(tensor: Tensor, peers: Peers) -> Tensor:
    """Return the rows of all processes; each gets back the sum of what its rows contribute."""
    if peers.size == 1:
        return tensor
    gathered: Tensor = _gather(tensor, *peers)
    return gathered


def total(tensor: Tensor, peers: Peers) -> Tensor:
    """Return the sum over all processes, whose gradient is the sum of all their gradients."""
    if peers.size == 1:
        return tensor
    summed: Tensor = _total(tensor, *peers)
    return summed


def highest(tensor: Tensor, peers: Peers) -> Tensor:
    """Return the maximum over all processes, as a constant."""
    if peers.size == 1:
        return tensor
    maximum: Tensor = _highest(tensor.detach(), *peers)
    return maximum


def shared_sum(tensor: Tensor, peers: Peers, gradient_reduction: str) -> Tensor:
    """Return the sum over all processes, of which each is going to start a backward pass.

    All of them together then differentiate as many copies of the sum as there are processes. That
    is what averaging parameter gradients undoes; for ``"sum"`` it is undone here.
    """
    result: Tensor = total(tensor, peers)
    if peers.size > 1 and gradient_reduction == "sum":
        kept = result.detach()
        result = kept + (result - kept) / peers.size
    return result


def replicated(tensor: Tensor, peers: Peers) -> Tensor:
    """Return a tensor that all processes hold alike, with the mean of their gradients."""
    if peers.size == 1 or not tensor.requires_grad:
        return tensor
    copy: Tensor = _replicated(tensor, *peers)
    return copy


def check_agreement(
    visual: Tensor,
    audio: Tensor,
    peers: Peers,
    settings: dict[str, Any],
    temperature: Tensor | None = None,
) -> Tensor:
    """Return ``audio``, once all processes are known to bring the same sizes, dtypes and settings.

    The value of a ``temperature`` on a device is compared there, and no process waits for it.

    Raises:
        ValueError: on every process if they differ, with the values and the ranks that have them.
    """
    if peers.size == 1:
        return audio
    told = "\n".join(f"{name}={value}" for name, value in settings.items())
    grad = torch.is_grad_enabled()
    told += f"\nvisual needs a gradient={grad and visual.requires_grad}"
    told += f"\naudio needs a gradient={grad and audio.requires_grad}"
    if temperature is not None:
        temperature = temperature.detach()
    agreed: Tensor = _agreed(audio, visual, temperature, told, *peers)
    return agreed


def _group(peers: Peers) -> Any:
    # The name travels through the operators, which take no process group.
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return resolve(peers.group)


def _collective(name: str, old_name: str) -> Any:
    """Return a function of torch.distributed by its name, or the one it had before torch 2.13."""
    return getattr(dist, name if hasattr(dist, name) else old_name)


@torch.library.custom_op("avcontrast::gather", mutates_args=())
def _gather(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return all_gather(tensor, Peers(size, rank, group))


@_gather.register_fake
def _(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return tensor.new_empty(size * tensor.shape[0], *tensor.shape[1:])


@torch.library.custom_op("avcontrast::scatter_sum", mutates_args=())
def _scatter_sum(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return reduce_scatter(tensor, Peers(size, rank, group))


@_scatter_sum.register_fake
def _(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return tensor.new_empty(tensor.shape[0] // size, *tensor.shape[1:])


@torch.library.custom_op("avcontrast::total", mutates_args=())
def _total(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return all_reduce(tensor, Peers(size, rank, group))


@_total.register_fake
def _(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


@torch.library.custom_op("avcontrast::highest", mutates_args=())
def _highest(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return all_reduce(tensor, Peers(size, rank, group), highest=True)


@_highest.register_fake
def _(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


@torch.library.custom_op("avcontrast::replicated", mutates_args=())
def _replicated(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return tensor.clone()


@_replicated.register_fake
def _(tensor: Tensor, size: int, rank: int, group: str) -> Tensor:
    return torch.empty_like(tensor)


@torch.library.custom_op("avcontrast::agreed", mutates_args=())
def _agreed(
    audio: Tensor,
    visual: Tensor,
    temperature: Tensor | None,
    settings: str,
    size: int,
    rank: int,
    group: str,
) -> Tensor:
    peers = Peers(size, rank, group)
    pairs, channels = audio.shape[:2]
    told = f"pairs={pairs}\nchannels={channels}\nframes={audio.shape[2:].numel()}\n"
    told += f"visual dtype={visual.dtype}\naudio dtype={audio.dtype}\n"
    place = _meeting_place(peers, audio.device)
    if temperature is not None and _is_at_hand(temperature, place):
        told += f"value of the temperature={temperature.item():.9g}\n"
    _raise_unless_equal(_exchange(told + settings, place, peers))
    if temperature is not None and not _is_at_hand(temperature, place):
        values = all_gather(temperature.reshape(1), peers)
        torch._assert_async((values == temperature).all(), UNEQUAL_TEMPERATURES)
    return audio.clone()


@_agreed.register_fake
def _(audio: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(audio)


def _is_at_hand(tensor: Tensor, place: torch.device) -> bool:
    """Return whether a tensor can be read without a wait, or where there is one anyway."""
    return tensor.device.type == "cpu" or tensor.device == place


def _meeting_place(peers: Peers, device: torch.device) -> torch.device:
    """Prefer the CPU, if the group reaches it: reading from an accelerator would wait for it."""
    if "cpu:" in dist.get_backend_config(_group(peers)):
        return torch.device("cpu")
    return device


def _exchange(text: str, device: torch.device, peers: Peers) -> list[str]:
    """Return what every process has to say."""
    padded = text.encode()[:DESCRIPTION_BYTES].ljust(DESCRIPTION_BYTES)
    said = torch.frombuffer(bytearray(padded), dtype=torch.uint8).to(device)
    heard = all_gather(said, peers).cpu().view(peers.size, -1)
    return [row.numpy().tobytes().decode().rstrip() for row in heard.unbind()]


def _raise_unless_equal(told: list[str]) -> None:
    if len(set(told)) == 1:
        return
    described = [dict(line.split("=", 1) for line in text.splitlines()) for text in told]
    differences = []
    for name in dict.fromkeys(name for values in described for name in values):
        ranks: dict[str, list[int]] = {}
        for rank, values in enumerate(described):
            ranks.setdefault(values.get(name, "nothing"), []).append(rank)
        if len(ranks) > 1:
            found = ", ".join(f"{value} on {_name(who)}" for value, who in ranks.items())
            differences.append(f"{name}: {found}")
    raise ValueError(
        "with gather_distributed=True every process must bring equally many pairs, of one kind "
        f"and with the same settings, got {'; '.join(differences)}"
    )


def _name(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.peers = Peers(*inputs[-3:])


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _scatter_sum(grad, *ctx.peers), None, None, None


def _scatter_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _gather(grad, *ctx.peers), None, None, None


def _total_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _total(grad, *ctx.peers), None, None, None


def _replicated_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _total(grad, *ctx.peers) / ctx.peers.size, None, None, None


def _agreed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad, None, None, None, None, None, None


_gather.register_autograd(_gather_backward, setup_context=_setup)
_scatter_sum.register_autograd(_scatter_sum_backward, setup_context=_setup)
_total.register_autograd(_total_backward, setup_context=_setup)
_replicated.register_autograd(_replicated_backward, setup_context=_setup)
_agreed.register_autograd(_agreed_backward, setup_context=_setup)
