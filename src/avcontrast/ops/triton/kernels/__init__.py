"""The CUDA kernels, one file a step. Sizes of tiles come from ``tiles``, never from a search."""
