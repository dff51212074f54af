"""CUDA kernels: the similarity of all pairs only ever exists as tiles in registers.

What they compute, and why in this form, is told in ``ops._maps`` and ``ops._adjacency``. From the
outside in: ``loss`` and ``similarity`` are the operators that PyTorch sees, ``forward`` and
``backward`` put the steps in order, which ``logits``, ``matrices`` and ``products`` launch.
"""

from avcontrast.ops.triton.api import contrast, max_similarity

__all__ = ["contrast", "max_similarity"]
