"""Where the kernels read and write at sizes that no test can hold: the first and last programs.

The launches are those of a whole step on tensors without data. Their corner programs run in the
interpreter, where every load and store is held against the extent of its tensor, so that an offset
that leaves 32 bits, or a mask that is missing, is found.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kernel_cases import DEVICE

from avcontrast.distributed import ALONE
from avcontrast.ops._settings import TERMS, Settings

pytest.importorskip("avcontrast.ops.triton", reason="needs the package triton")

from triton.runtime import interpreter

from avcontrast.ops.triton import (
    backward,
    batch,
    forward,
    logits,
    matrices,
    operands,
    products,
    tiles,
)
from avcontrast.ops.triton.kernels import adjacency, finish, maximum, prepare, softmax
from avcontrast.ops.triton.kernels import products as product_kernels

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="needs the interpreter")
HOSTS = (operands, logits, matrices, products, backward)
KERNELS = (adjacency, finish, maximum, prepare, softmax, product_kernels)
PROCESSORS = 132
FAR = 44
"""Bits of an address within a tensor; those above are the number of the tensor."""

GRID_LIMITS = (2**31 - 1, 2**16 - 1, 2**16 - 1)


class Launch(NamedTuple):
    kernel: object
    grid: tuple
    arguments: tuple
    options: dict


class Recorder:
    """Stands for a kernel; keeps its launches by their constants."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            key = (self.kernel.__name__, *sorted(options.items()))
            one = Launch(self.kernel, grid, arguments, options)
            self.launches.setdefault(key, []).append(one)

        return launch


@pytest.fixture
def launches(monkeypatch):
    """The launches of host code as for a card, whose tables and sizes of blocks it has."""
    found = {}
    for module in HOSTS:
        for name in dir(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Recorder(getattr(module, name), found))
    monkeypatch.setattr(batch, "BLOCK_ROWS", 128)
    monkeypatch.setattr(products, "multiprocessors", lambda device: PROCESSORS)
    for module in (operands, batch, logits):
        monkeypatch.setattr(module, "padded_channels", lambda channels: -(-channels // 64) * 64)
    return found


def use_table(monkeypatch, table):
    def tile_for(kernel, rows, columns, device):
        choices = table[kernel]
        fill = (x for x in choices if -(-rows // x.rows) * -(-columns // x.columns) >= PROCESSORS)
        return next(fill, choices[-1])

    for module in (logits, matrices, products):
        monkeypatch.setattr(module, "tile_for", tile_for)


class Memory:
    """Loads and stores that touch nothing, and say where they would."""

    def __init__(self, monkeypatch):
        self.tensors = []
        builder = interpreter.InterpreterBuilder
        monkeypatch.setattr(builder, "create_masked_load", self.load)
        monkeypatch.setattr(builder, "create_masked_store", self.store)
        monkeypatch.setattr(builder, "create_dot", lambda self, a, b, d, *_: d)
        patch_language = interpreter._patch_lang_core

        def with_short_loops(language, scope):
            patch_language(language, scope)
            scope.set_attr(language, "range", first_and_last)

        monkeypatch.setattr(interpreter, "_patch_lang_core", with_short_loops)
        for module in KERNELS:
            monkeypatch.setattr(module, "range", first_and_last, raising=False)

    def pointer(self, tensor):
        self.tensors.append(tensor)
        return Pointer(len(self.tensors) << FAR, tensor.dtype)

    def load(self, pointers, mask, *_):
        self.check(pointers, mask)
        kind = pointers.get_element_ty()
        ones = np.ones(pointers.data.shape, interpreter._get_np_dtype(kind))
        return interpreter.TensorHandle(ones, kind)

    def store(self, pointers, value, mask, *_):
        self.check(pointers, mask)

    def check(self, pointers, mask):
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data]
        if not addresses.size:
            return
        number = int(addresses.flat[0]) >> FAR
        assert number == int(addresses.min()) >> FAR == int(addresses.max()) >> FAR
        tensor = self.tensors[number - 1]
        extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
        last = (int(addresses.max()) - (number << FAR)) // tensor.itemsize
        assert last < extent * bool(tensor.numel()), f"{last} in a tensor {tuple(tensor.shape)}"


class Pointer:
    def __init__(self, address, dtype):
        self.address, self.dtype = address, dtype

    def data_ptr(self):
        return self.address


def first_and_last(*bounds):
    values = range(*(int(x) for x in bounds))
    return [values[n] for n in sorted({0, len(values) - 1})] if values else []


def run_corners(launch, memory):
    """Run the first and the last program along each axis of a grid."""
    kernel, grid, arguments, options = launch
    named = dict(zip(kernel.arg_names, arguments))
    named |= {name: value for name, value in options.items() if name in kernel.arg_names}
    executor = interpreter.GridExecutor(kernel.rewrite(), kernel.arg_names, grid)
    for name, value in named.items():
        if name not in executor.constexprs:
            value = memory.pointer(value) if isinstance(value, torch.Tensor) else value
            named[name] = interpreter._implicit_cvt(value)
    grid = (*grid, 1, 1)[:3]
    assert all(0 < count <= limit for count, limit in zip(grid, GRID_LIMITS))
    scope = interpreter._patch_lang(kernel.fn)
    try:
        interpreter.interpreter_builder.set_grid_dim(*grid)
        for corner in itertools.product(*({0, count - 1} for count in grid)):
            interpreter.interpreter_builder.set_grid_idx(*corner)
            with np.errstate(all="ignore"):
                executor.fn(**named)
    finally:
        scope.restore()


ALL = Settings(TERMS)
SIZES = {
    "b = 65,536": (65536, 512, (7, 7), "split", ALL, {}),
    "b = 65,536, raw, streaming": (65536, 512, (7, 7), "raw", ALL, {"store": False}),
    "n x positions x channels": (8192, 512, (32, 32), "single", ALL, {"last": True}),
    "vectors": (2**18 + 5, 512, (1, 1), "split", ALL, {"store": False}),
    "vectors by column": (
        *(2**18, 512, (1, 1), "single"),
        Settings(TERMS, anchor="audio", elimination="both"),
        {"store": False, "ignore": True},
    ),
    "pooled": (2**17, 512, (7, 7), "split", Settings(TERMS, pooling="mean"), {}),
    "columns of maps": (
        *(65536, 512, (7, 7), "split"),
        Settings(TERMS, anchor="audio", mask="soft"),
        {"ignore": True},
    ),
    "ragged": (1001, 100, (3, 5), "split", ALL, {}),
    "ragged, raw": (333, 64, (5, 7), "raw", ALL, {"last": True, "ignore": True}),
    "one": (1, 1, (1, 1), "raw", ALL, {}),
}
USUAL = ("b = 65,536", "n x positions x channels", "vectors by column", "ragged")


@pytest.mark.parametrize(
    "arch", [pytest.param(x, marks=[] if x == 90 else [pytest.mark.slow]) for x in tiles.TILES]
)
@pytest.mark.parametrize(
    "size", [pytest.param(x, marks=[] if x in USUAL else [pytest.mark.slow]) for x in SIZES]
)
def test_every_access_is_within_its_tensor(size, arch, launches, monkeypatch):
    b, d, places, precision, settings, options = SIZES[size]
    use_table(monkeypatch, tiles.TILES[arch])
    step(b, d, places, precision, settings, **options)
    memory = Memory(monkeypatch)
    assert len({key[0] for key in launches}) >= 6
    for launch in itertools.chain(*((found[0], found[-1]) for found in launches.values())):
        try:
            run_corners(launch, memory)
        except Exception as error:
            raise AssertionError(f"{launch.kernel.__name__} {launch.options}") from error


@pytest.mark.parametrize("count", [16, 17])
def test_what_is_beyond_a_tensor_is_found(count, monkeypatch):
    parts, positives, *scale = (torch.empty(n, device="meta") for n in (64, 16, 16, 16, 16))
    arguments = (parts, positives, *scale, 2, count)
    launch = Launch(adjacency.combine_kernel, (1,), arguments, {"BLOCK": 16})
    memory = Memory(monkeypatch)
    with pytest.raises(AssertionError, match="in a tensor") if count > 16 else nullcontext():
        run_corners(launch, memory)


@pytest.mark.parametrize(("b", "count"), [(128, 30), (1024, 45), (2048, 69), (4096, 117)])
def test_number_of_launches(b, count, launches, monkeypatch):
    """As the notes of the benchmark count them: they are what small batches take."""
    use_table(monkeypatch, tiles.HOPPER)
    step(b, 512, (7, 7), "raw", ALL)
    assert sum(map(len, launches.values())) == count
    if b == 1024:
        assert len(launches) == 15, sorted(key[0] for key in launches)


def step(b, d, places, precision, settings, *, store=True, last=False, ignore=False):
    """Run the host code of a step on tensors without data."""
    dtype = torch.float16 if precision == "raw" else torch.float32
    layout = torch.channels_last if last else torch.contiguous_format
    with torch.device("meta"):
        visual = torch.empty(b, d, *places, dtype=dtype).to(memory_format=layout)
        audio, tau = torch.empty(b, d, dtype=dtype), torch.empty(())
        left_out = torch.empty(b, b, dtype=torch.bool) if ignore else None
    made = batch.batch_of(visual, audio, tau, settings, ALONE, precision, left_out)
    outputs = forward.empty_outputs(visual, audio, settings, ALONE, left_out, store, True)
    forward.ForwardPass(made, outputs, store=store).run()
    gradients = torch.empty_like(visual), torch.empty_like(audio)
    grad = torch.empty_like(outputs.values)
    backward.BackwardPass(grad, audio, made, outputs, *gradients, store=store).run()
