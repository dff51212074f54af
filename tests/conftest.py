"""Settings of the whole test run."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest
import torch

# Without a GPU the kernels run in Triton's interpreter. Triton looks when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Small operations lose more to waiting for each other's threads than they gain, above all where
# other work shares the cores.
torch.set_num_threads(1)

# What a shell starts in the background ignores Ctrl-C, and so would the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def fresh_compiler_cache():
    """Compile anew: the compiler's cache does not notice when a custom operator changes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        yield
