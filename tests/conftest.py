"""Settings of the whole test run."""

from __future__ import annotations

import torch

# Small operations lose more to waiting for each other's threads than they gain, above all where
# other work shares the cores.
torch.set_num_threads(1)
