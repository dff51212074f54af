"""Settings of the whole test run."""

from __future__ import annotations

import os
import signal
import tempfile

import torch

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
