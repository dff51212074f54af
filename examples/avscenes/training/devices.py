"""The device that the command line names, where Lightning does not choose it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from avscenes.files.errors import UserError


def device_option() -> Any:  # noqa: ANN401
    """Return the field of the device."""
    return Field(
        default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu",
        description="as torch names it: cpu, cuda, cuda:1, mps (default: cuda if there is one)",
    )


def check_device(device: str) -> None:
    """Raise `UserError` when torch cannot use a device."""
    try:
        torch.zeros(1, device=device).item()
    # What a name or a build of torch that is not up to it raises.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: cannot use {device}: {reason}") from error
