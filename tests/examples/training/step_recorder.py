"""Runs train_fnac.py, with a short warm start and without pictures.

Beside the run it writes down which process has which rank, and the loss of each step.
"""

import json
import os
import sys

import train_fnac
from lightning.pytorch import Callback


class StepRecorder(Callback):
    def __init__(self, folder):
        self.folder = folder
        self.losses = []

    def on_train_start(self, trainer, pl_module):
        (self.folder / f"pid.{trainer.global_rank}").write_text(str(os.getpid()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer, pl_module):
        losses = json.dumps(self.losses)
        (self.folder / f"losses.{trainer.global_rank}").write_text(losses)


def main(arguments):
    build_trainer = train_fnac.build_trainer

    def with_recorder(settings, output, callbacks):
        return build_trainer(settings, output, [*callbacks, StepRecorder(output.parent)])

    train_fnac.build_trainer = with_recorder
    train_fnac.WARM_START_OBJECTS = 64
    train_fnac.draw_all = lambda *_, **__: None
    return train_fnac.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
