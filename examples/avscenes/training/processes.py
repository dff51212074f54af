"""What the processes of a run have to agree on: who speaks, who reads what, who holds what."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from avscenes.files.errors import UserError
from avscenes.training.settings import Settings

T = TypeVar("T")


def process_rank() -> int:
    """Return the rank of this process; Lightning's trainer corrects it when it is made."""
    return int(getattr(rank_zero_only, "rank", 0))


def first_process() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return process_rank() == 0


def say(line: str) -> None:
    """Print a line, once however many processes there are."""
    if first_process():
        print(line, flush=True)


def check_launcher(devices: int, num_nodes: int) -> None:
    """Raise `UserError` when torchrun or srun has started other processes than the options say.

    Each of them would take itself for a run of its own.
    """
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            try:
                environment().validate_settings(num_devices=devices, num_nodes=num_nodes)
            except (ValueError, RuntimeError) as error:
                raise UserError(f"--devices or --num-nodes: {error}") from error
            return


def describe_processes(settings: Settings, trainer: Trainer) -> None:
    """Say how several processes share the work, and what they do not share."""
    world = trainer.world_size
    if world == 1:
        return
    say(f"{world} processes: {settings.batch_size // world} of {settings.batch_size} pairs each")
    if settings.norm == "batch" and trainer.strategy.root_device.type == "cpu":
        say(
            "batch norm sees the pairs of its own process only: torch synchronises it on GPUs, "
            "not on CPUs; --norm group does not depend on the number of processes"
        )


def rows_of_all(rows: Tensor, world: int) -> Tensor:
    """Return the rows of all processes, in the order of their ranks; each brings as many."""
    if world == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def parts_on_first(part: T, rank: int, world: int) -> list[T] | None:
    """Return what all processes have, in the order of their ranks; None on all but process 0.

    Args:
        part: Of this process, on the CPU.
        rank: Of this process.
        world: Number of processes.
    """
    if world == 1:
        return [part]
    # The group of the training may only know how to send what lies on a GPU.
    group = dist.new_group(backend="gloo")
    parts: list[Any] | None = [None] * world if rank == 0 else None
    dist.gather_object(part, parts, dst=0, group=group)
    return parts


def leave_group() -> None:
    """End the connection to the other processes, whose threads can else crash the exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def average_in_order(own: Tensor) -> torch.futures.Future[Tensor]:
    """Average gradients over the processes, adding them in the order of the ranks.

    The usual sum adds in an order that depends on where a gradient lies in its bucket. DDP moves
    it after the first step, so a resumed run would differ in rounding from one that went through.
    """
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    result: torch.futures.Future[Tensor] = torch.futures.Future()
    result.set_result(sum(parts[1:], start=parts[0]).div_(len(parts)))
    return result


class SameData(Callback):
    """Stops a run before it trains when a process can read other clips than process 0."""

    digest = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the names of the clips with those of process 0."""
        if trainer.strategy.broadcast(self.digest) != self.digest:
            raise UserError(
                "the clips that can be read here are not those of process 0; "
                "every process needs the same lists and files"
            )
