"""The CUDA kernels as backends: by name, compiled, in processes, within the promised memory."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from kernel_cases import DEVICE, error, features
from processes import Cluster, ignored, kernels_step, paired_features
from test_memory import extra_bytes

from avcontrast import FNACLoss, InfoNCE, functional, ops
from avcontrast.distributed import ALONE
from avcontrast.ops._settings import TERMS, Settings
from avcontrast.ops._tested import PassedRun

kernels = pytest.importorskip("avcontrast.ops.triton", reason="needs the package triton")

from avcontrast.ops.triton import (  # noqa: E402
    backward,
    logits,
    loss,
    matrices,
    operands,
    products,
    similarity,
    tiles,
)

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
AUDIO_ANCHOR = {"anchor": "audio", "mask": "soft"}
IGNORE = {"ignore": True, "anchor": "audio"}
ELIMINATE = {"ignore": True, "elimination": "both", "elimination_level": 0.0}
LAUNCHING = (operands, logits, matrices, products, backward)


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
def test_opcheck(store):
    visual, audio = (x.requires_grad_() for x in features(3, 16, (2, 2)))
    tau = torch.tensor(0.1, device=DEVICE, requires_grad=True)
    terms, *options = Settings(TERMS, mask="soft")
    arguments = (visual, audio, tau, None, " ".join(terms), *options, *ALONE, "split", store, True)
    torch.library.opcheck(loss.contrast, arguments)
    torch.library.opcheck(similarity.max_similarity, (visual, audio, True, "split", True))


@pytest.fixture
def any_device(monkeypatch):
    """Let the front door choose the kernels for tensors of the CPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(ops, "_lacking", lambda device: [])


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("backend", ["triton", "triton-stream"])
@pytest.mark.parametrize("loss_class", [FNACLoss, InfoNCE])
def test_losses_by_name(loss_class, backend):
    visual, audio = (x.requires_grad_() for x in features(5))
    found = loss_class(backend=backend)(visual, audio)
    wanted = loss_class(backend="dense")(visual, audio)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    found.backward()
    for x in (visual, audio):
        assert x.grad.isfinite().all()
    best = functional.max_similarity(visual, audio, backend=backend)
    torch.testing.assert_close(best, functional.max_similarity(visual, audio, backend="dense"))
    vectors = InfoNCE(backend=backend)(visual.mean((2, 3)), audio)
    torch.testing.assert_close(vectors, InfoNCE(backend="dense")(visual.mean((2, 3)), audio))


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("backend", ["triton", "triton-stream"])
@pytest.mark.parametrize("b", [1, 2])
def test_every_term_depends_on_every_input_at_a_single_position(b, backend):
    inputs = [*features(b, 16, (1, 1)), torch.tensor(0.1, device=DEVICE)]
    ignore = ~torch.eye(b, dtype=torch.bool, device=DEVICE)
    for needed in ([0], [1], [2], [0, 1, 2]):
        inputs = [x.detach() for x in inputs]
        wanted = [inputs[number].requires_grad_() for number in needed]
        settings = {"ignore": ignore, "detach_adjacency": True, "backend": backend}
        for value in functional.fnac(*inputs, **settings):
            for grad in torch.autograd.grad(value, wanted, retain_graph=True):
                assert grad.isfinite().all()


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("backend", ["triton", "auto"])
def test_compiled_equals_eager(backend, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(ops, "_memory", lambda device: 2**30)
    monkeypatch.setattr(ops, "_tested", lambda device: True)
    monkeypatch.setattr(ops, "SMALL_MAP_ELEMENTS", 0)
    assert ops.select_backend(backend, *features(5)) == "triton"
    criterion = FNACLoss(backend=backend)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (5, 4):
        visual, audio = (x.requires_grad_() for x in features(b))
        found, wanted = compiled(visual, audio), criterion(visual, audio)
        assert torch.equal(found, wanted)
        for left, right in zip(
            torch.autograd.grad(found, (visual, audio)),
            torch.autograd.grad(wanted, (visual, audio)),
        ):
            assert torch.equal(left, right)


def test_reasons():
    visual, audio = torch.zeros(4, 8, 40, 40), torch.zeros(4, 8)
    wanted = [
        "visual is on cpu, it needs a CUDA device",
        "the features are torch.float64, it computes in fp32",
        "the maps have 1600 positions, it takes up to 1024",
    ]
    for backend in ("triton", "triton-stream"):
        assert ops.unsupported_reasons(backend, visual.double(), audio.double()) == wanted
    card = torch.device("cuda:0")
    with pytest.MonkeyPatch.context() as patch:
        old = SimpleNamespace(major=7, minor=5)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: old)
        patch.setattr(ops, "HAS_TRITON", False)
        patch.setattr(ops, "HAS_COMPILER", False)
        assert ops._lacking(card) == [
            "the package triton is not installed",
            "there is no C compiler, neither in CC nor as gcc or clang",
            "cuda:0 has compute capability 7.5, it needs 8.0",
        ]
        patch.setattr(torch.version, "hip", "6.0")
        assert ops._lacking(card) == ["visual is on an AMD GPU, it needs a CUDA device"]


def test_kernels_are_launched_where_the_tensors_are(monkeypatch):
    entered = []

    @contextmanager
    def device(one):
        entered.append(one)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    other = torch.device("cuda:1")
    with operands.launching_on(SimpleNamespace(device=other)):
        assert entered == [other]
        assert not torch.is_autocast_enabled("cuda")


def test_audio_features_whose_offsets_leave_32_bits_are_refused(monkeypatch):
    monkeypatch.setattr(ops, "_lacking", lambda device: [])
    visual = torch.empty(2**15, 2, 2, 2, device="meta")
    audio = torch.empty(2**15, 1000, device="meta")  # padded to 1024
    assert ops.unsupported_reasons("triton", visual, audio, 63) == []
    reason = "2097152 audio features have 2147483648 numbers, it takes 2147483647"
    assert ops.unsupported_reasons("triton-stream", visual, audio, 64) == [reason]
    assert ops.unsupported_reasons("blockwise", visual, audio, 64) == []
    with pytest.raises(ValueError, match=reason):
        ops.select_backend("triton", visual, audio, 64)


def test_auto_streams_when_the_logits_would_take_half_of_the_memory(monkeypatch):
    monkeypatch.setattr(ops, "_lacking", lambda device: [])
    monkeypatch.setattr(ops, "_tested", lambda device: True)
    visual, audio = torch.zeros(4096, 2, 4, 4), torch.zeros(4096, 2)
    for memory, processes, wanted in (
        (14 * 4096**2, 1, "triton"),
        (14 * 4096**2 - 1, 1, "triton-stream"),
        (14 * 4096**2, 2, "triton-stream"),
    ):
        monkeypatch.setattr(ops, "_memory", lambda device, memory=memory: memory)
        assert ops.select_backend("auto", visual, audio, processes) == wanted


@pytest.mark.parametrize("passed", [(9, 0), (8, 0), None])
def test_auto_takes_the_kernels_where_they_have_passed_their_tests(passed, monkeypatch):
    card = SimpleNamespace(major=9, minor=0, total_memory=2**36)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(ops, "_lacking", lambda device: [])
    runs = [PassedRun(passed, "a card", "2.13", "3.7", "580", "2026-01-31")] if passed else []
    monkeypatch.setattr(ops, "PASSED_RUNS", tuple(runs))
    visual, audio = torch.zeros(512, 16, 7, 7), torch.zeros(512, 16)
    wanted = "triton" if passed == (9, 0) else "blockwise"
    assert ops.select_backend("auto", visual, audio) == wanted
    assert ops.select_backend("triton", visual, audio) == "triton"
    assert ops.unsupported_reasons("triton", visual, audio) == []


@pytest.mark.parametrize(
    ("compiler", "on_path", "found"),
    [
        (None, ["gcc"], True),
        (None, ["clang"], True),
        (None, [], False),
        ("cc", ["cc"], True),
        ("other", ["gcc"], False),
    ],
)
def test_a_c_compiler_is_looked_for_where_triton_does(compiler, on_path, found, tmp_path):
    for name in on_path:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": str(tmp_path)}
    environment.pop("CC", None)
    if compiler is not None:
        environment["CC"] = compiler
    code = "from avcontrast import ops; print(ops.HAS_COMPILER)"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == f"{found}\n"


@pytest.mark.dist
@pytest.mark.skipif(DEVICE == "cuda", reason="needs gloo and the interpreter")
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        pytest.param("triton", {}, id="triton"),
        pytest.param("triton", AUDIO_ANCHOR, id="triton, audio", marks=pytest.mark.slow),
        pytest.param(
            "triton",
            {"ignore": True, "anchor": "audio"},
            id="triton, ignore, audio",
            marks=pytest.mark.slow,
        ),
        pytest.param("triton", ELIMINATE, id="triton, eliminate", marks=pytest.mark.slow),
        pytest.param("triton-stream", {}, id="triton-stream", marks=pytest.mark.slow),
        pytest.param("triton-stream", AUDIO_ANCHOR, id="triton-stream, audio"),
        pytest.param(
            "triton-stream", {"ignore": True}, id="triton-stream, ignore", marks=pytest.mark.slow
        ),
        pytest.param(
            "triton-stream", ELIMINATE, id="triton-stream, eliminate", marks=pytest.mark.slow
        ),
    ],
)
def test_processes_share_a_batch(cluster, backend, options):
    pairs = 34
    if "ignore" in options:
        ignore = ignored(pairs)
        ignore[:17, 20] = True  # a process has nothing but these of a column
        ignore[17:, 3] = True
        options = {**options, "ignore": ignore}
    found = cluster.run(kernels_step, backend, options, pairs)
    inputs = [x.double().requires_grad_() for x in paired_features(pairs)]
    loss = functional.fnac(*inputs, backend="dense", **options).loss
    wanted = torch.autograd.grad(loss, inputs)
    for value, *_ in found:
        torch.testing.assert_close(value.double(), loss.detach(), rtol=1e-5, atol=0)
    for grads, right in zip(zip(*(grads for _, *grads in found)), wanted):
        assert error(torch.cat(grads), right) <= 5e-6


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(2)
    yield cluster
    cluster.close()


class NoKernel:
    """Stands for a kernel whose results do not matter."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


@pytest.mark.skipif(DEVICE == "cuda", reason="counts allocations on the CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("b", "d", "size", "store"),
    [
        (1024, 512, (7, 7), True),
        (1024, 512, (7, 7), False),
        (3000, 64, (7, 7), True),
        (3000, 64, (7, 7), False),
        (256, 512, (14, 14), True),
    ],
)
def test_memory_contract(monkeypatch, b, d, size, store, dtype):
    """All memory comes from PyTorch: kernels that do nothing allocate as much as real ones."""
    for module in LAUNCHING:
        for name in dir(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, NoKernel())
    for module in (logits, matrices, products):
        monkeypatch.setattr(module, "tile_for", lambda kernel, *_: tiles.HOPPER[kernel][0])
    monkeypatch.setattr(products, "multiprocessors", lambda device: 132)
    visual = torch.zeros(b, d, *size, dtype=dtype, requires_grad=True)
    audio = torch.zeros(b, d, dtype=dtype, requires_grad=True)
    tau = torch.tensor(0.05)

    def step():
        torch.stack(
            kernels.contrast(visual, audio, tau, Settings(TERMS), store=store)
        ).sum().backward()

    highest, _ = extra_bytes(step)
    gradients = (visual.numel() + audio.numel()) * dtype.itemsize
    pairs = 7 * b**2 if store else 2 * b**2
    assert highest - gradients <= 2 * visual.numel() + pairs + 16e6
    if store:
        assert highest - gradients >= 5 * b**2


def test_tables():
    for table in tiles.TILES.values():
        assert table.keys() == tiles.HOPPER.keys()
        for choices in table.values():
            for tile in choices:
                assert 128 % tile.rows == 0
                assert all(size & (size - 1) == 0 for size in tile[:4])
    for positions in (1, 49, 196, 1024):
        padded, block = tiles.map_block(positions)
        assert padded >= positions
        assert padded * block <= 2**14
