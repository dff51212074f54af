import os
import signal

import pytest
import train_fnac
from lightning.pytorch import Callback
from script_runs import run_script

from avscenes.training.interruption import Interruption


def lose_an_interruption():
    """Do what happens when Ctrl-C meets the bare `except` in Python's copyreg."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("no interruption")
    except BaseException:
        pass


def test_an_interruption_that_is_lost_is_made_up_for():
    interruption = Interruption()
    before = signal.getsignal(signal.SIGINT)
    with interruption.listening():
        interruption.check()
        lose_an_interruption()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_ignores_interruptions_goes_on_to_do_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption = Interruption()
    try:
        with interruption.listening():
            os.kill(os.getpid(), signal.SIGINT)
            interruption.check()
    finally:
        signal.signal(signal.SIGINT, before)


class LosesAnInterruption(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            lose_an_interruption()


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_stops_at_an_interruption_that_was_lost(tmp_path, monkeypatch, capsys, epoch):
    build_trainer = train_fnac.build_trainer

    def with_loss(settings, output, callbacks):
        return build_trainer(settings, output, [*callbacks, LosesAnInterruption(epoch)])

    monkeypatch.setattr(train_fnac, "build_trainer", with_loss)
    output = tmp_path / "run"
    options = [
        *("--train-size", 8, "--validation-size", 8, "--test-size", 12, "--batch-size", 8),
        *("--epochs", 2, "--warm-start-epochs", 0, "--accelerator", "cpu", "--output-dir", output),
    ]
    assert run_script(train_fnac, *options) == 130
    assert f"interrupted; go on with --resume --output-dir {output}" in capsys.readouterr().err
    assert len((output / "metrics.csv").read_text().splitlines()) == 1 + epoch + 1
    assert not (output / "metrics.json").exists()
