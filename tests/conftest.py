"""Settings of the whole test run."""

from __future__ import annotations

import os
import signal
import tempfile

import torch
from xdist.scheduler import LoadScopeScheduling

# Which tests go to the same worker: those that share what takes long to make, and, one after the
# other, those that start several processes. All others go one by one to whichever worker is free.
TOGETHER = {
    "tests/test_distributed.py": "processes",
    "tests/test_distributed_benchmark.py": "processes",
    "tests/test_metrics_accumulators.py": "processes",
    "tests/test_triton_use.py": "processes",
    "tests/examples/training/test_processes.py": "processes",
    "tests/examples/study/test_runs.py": "study",
    "tests/examples/test_evaluate.py": "evaluation",
    "tests/examples/test_train_fnac.py": "training",
    "tests/test_docs.py": "pages",
}

# Without a GPU the kernels run in Triton's interpreter. Triton looks when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Small operations lose more to waiting for each other's threads than they gain, above all where
# other work shares the cores.
torch.set_num_threads(1)

# Nor do helpers of its own pay that each compiling process would start beside it.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

# What a shell starts in the background ignores Ctrl-C, and so would the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Compile anew: the compiler's cache does not notice when a custom operator changes."""
    if not hasattr(config, "workerinput"):  # the processes of one run share a cache
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


class Scheduling(LoadScopeScheduling):
    """Hands out what is in `TOGETHER` first, the groups with most tests before the others."""

    def _split_scope(self, nodeid):
        return TOGETHER.get(nodeid.partition("::")[0], nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
