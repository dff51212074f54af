"""Runs a benchmark with the CUDA kernels in Triton's interpreter: a rehearsal, no measurement.

python benchmarks/interpreted.py benchmarks/loss_benchmark.py --smoke --implementations triton

What it prints is as slow as the interpreter is.
"""

from __future__ import annotations

import os
import runpy
import sys

from avcontrast import ops


def main() -> None:
    """Run the script of the command line as if the kernels could run on this machine."""
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported
    ops._lacking = lambda device: []
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
