"""Runs of the benchmark of the losses."""

import csv

import loss_benchmark
import torch


def run(*arguments):
    """Run its command line, leaving the settings of PyTorch as they were."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        return loss_benchmark.main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def read(path):
    """Return the lines of a file of results."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
