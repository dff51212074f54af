"""The one place that knows about processes."""

from __future__ import annotations

import torch.distributed as dist

from avcontrast._checks import check_flag


def check_gather(gather_distributed: bool, group: dist.ProcessGroup | None) -> None:
    """Raise if the batch would have to be gathered from more than one process.

    With a single process the global batch is the local one and there is nothing to do.
    """
    check_flag("gather_distributed", gather_distributed)
    if not gather_distributed:
        if group is not None:
            raise ValueError("group has no effect without gather_distributed=True")
        return
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        raise ValueError(
            "gather_distributed=True is available for a single process only in this version, "
            f"got a group of {dist.get_world_size(group)}"
        )
