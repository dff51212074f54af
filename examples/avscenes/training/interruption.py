"""Ends a run on Ctrl-C, also where the exception does not arrive."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer


class Interruption(Callback):
    """Remembers Ctrl-C, so that a run ends at the next batch at the latest.

    A KeyboardInterrupt can be lost on its way: writing a checkpoint passes through a bare `except`
    of Python's own `copyreg`, for one.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of Ctrl-C, unless the process was started to ignore it."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self.requested:
            raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Stop here if it was asked for."""
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        raise KeyboardInterrupt
