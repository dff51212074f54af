"""Several positives a sample: pairs of one kind that are known, in the forms of the field."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import TOLERANCE, features, gradients, unit
from test_elimination import likely
from test_memory import extra_bytes

from avcontrast import InfoNCE, functional
from avcontrast.distributed import ALONE
from avcontrast.ops import _maps, _positives, blockwise
from avcontrast.ops._settings import Settings

BACKENDS = ("dense", "blockwise")
FORMS = ("outside", "inside", "sum", "mean")
EXACT = TOLERANCE[torch.float64]
GOLDEN = Path(__file__).parent / "golden" / "field_reference.npz"


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 512)


def masks(b, seed=0):
    """Return positives and pairs to ignore, neither symmetric, without overlap."""
    draw = torch.rand(b, b, generator=torch.Generator().manual_seed(seed))
    return draw < 0.3, ((draw > 0.3) & (draw < 0.5)).fill_diagonal_(False)


def row_loss(logits, own, positive, ignored, form):
    """The loss of one row of logits, from lists."""
    inside = [x for k, x in enumerate(logits) if positive[k] or k == own]
    outside = [x for k, x in enumerate(logits) if not (positive[k] or ignored[k] or k == own)]
    everything = sum(x.exp() for x in inside + outside)
    if form == "outside":
        return -sum((x.exp() / everything).log() for x in inside) / len(inside)
    if form == "inside":
        return -(sum(x.exp() for x in inside) / everything).log()
    drawn = sum(inside) / (len(inside) if form == "mean" else 1)
    return (1 + (sum(outside) - drawn).exp()).log()


def loop(logits, positives, ignore, form, symmetric=True):
    b = len(logits)
    loss = 0
    for n in range(b):
        loss = loss + row_loss(list(logits[n]), n, positives[n], ignore[n], form) / b
        if symmetric:
            column = list(logits[:, n])
            loss = loss + row_loss(column, n, positives[:, n], ignore[:, n], form) / b
    return loss


def best_logits(visual, audio, tau):
    maps = [[unit(position) for position in image.flatten(1).T] for image in visual]
    rows = [[torch.stack([v @ unit(a) for v in image]).max() for a in audio] for image in maps]
    return torch.stack([torch.stack(row) for row in rows]) / tau


def assert_same(found, wanted, *inputs):
    torch.testing.assert_close(found, wanted, **EXACT)
    for one, other in zip(gradients(found, *inputs), gradients(wanted, *inputs)):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("tiny_blocks")
def test_info_nce_is_the_loop(form, symmetric, backend):
    visual, audio = features(6, 4, (2, 2))
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    positives, ignore = masks(6)
    criterion = InfoNCE(tau, positive_form=form, symmetric=symmetric, backend=backend)
    loss = criterion(visual, audio, positives=positives, ignore=ignore)
    wanted = loop(best_logits(visual, audio, tau), positives, ignore, form, symmetric)
    assert_same(loss, wanted, visual, audio, tau)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["outside", "inside"])
def test_supcon_with_labels(form, backend):
    """SupCon's inner form is ours and the logarithm of the number of positives."""
    golden = np.load(GOLDEN)
    case = {"outside": "supcon_out", "inside": "supcon_in"}[form]
    scores = torch.from_numpy(golden["pairs/scores"]).requires_grad_()
    positives = torch.from_numpy(golden[f"{case}/positive_mask"])
    tau = golden[f"{case}/temperature"].item()
    options = {"positive_form": form, "normalize": False, "backend": backend}
    loss = InfoNCE(tau, **options)(scores, torch.eye(6, dtype=torch.float64), positives=positives)
    wanted = torch.from_numpy(golden[f"{case}/grad_scores"])
    torch.testing.assert_close(gradients(loss, scores)[0], wanted, **EXACT)
    if form == "inside":
        loss = loss + positives.sum(0).double().log().mean()
        loss = loss + positives.sum(1).double().log().mean()
    torch.testing.assert_close(loss.item(), golden[f"{case}/loss"].item(), **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["outside", "inside"])
def test_with_the_own_pairs_alone_it_is_the_plain_loss(form, backend):
    visual, audio = features(6, 4, (2, 2))
    ignore = masks(6)[1]
    none = torch.zeros(6, 6, dtype=torch.bool)
    criterion = InfoNCE(0.1, positive_form=form, backend=backend)
    loss = criterion(visual, audio, positives=none, ignore=ignore)
    assert_same(loss, criterion(visual, audio, ignore=ignore), visual, audio)
    own = torch.eye(6, dtype=torch.bool)
    assert torch.equal(criterion(visual, audio, positives=own, ignore=ignore), loss)


@pytest.mark.parametrize("backend", BACKENDS)
def test_positives_are_never_eliminated(backend):
    visual, audio = features(6, 4, (2, 2), aligned=0.6)
    found = likely(functional.max_similarity(visual, audio).tolist(), 0.2, "both")
    positives = masks(6)[0]
    assert (found & positives).any()
    assert (found & ~positives).any()
    criterion = InfoNCE(0.3, elimination="both", elimination_level=0.2, backend=backend)
    loss = criterion(visual, audio, positives=positives)
    plain = InfoNCE(0.3, backend=backend)
    wanted = plain(visual, audio, positives=positives, ignore=found & ~positives)
    assert_same(loss, wanted, visual, audio)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_negatives(form, backend):
    visual, audio = features(4, 3, (2, 2))
    everyone = torch.ones(4, 4, dtype=torch.bool)
    options = {"positive_form": form, "backend": backend}
    loss = InfoNCE(0.3, **options)(visual, audio, positives=everyone)
    assert_same(
        loss, loop(best_logits(visual, audio, 0.3), everyone, ~everyone, form), visual, audio
    )
    if form == "inside":
        assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_saturated_rows_keep_their_digits(form):
    """In fp32, where some positives outweigh all the rest and others vanish beside negatives."""
    visual, audio = features(8, 16, (2, 2), dtype=torch.float32, aligned=3.0)
    positives = torch.zeros(8, 8, dtype=torch.bool)
    positives[:3, :3] = True
    exact = [x.detach().double().requires_grad_() for x in (visual, audio)]
    options = {"positive_form": form}
    wanted = InfoNCE(0.03, backend="dense", **options)(*exact, positives=positives)
    loss = InfoNCE(0.03, backend="blockwise", **options)(visual, audio, positives=positives)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    for found, truth in zip(gradients(loss, visual, audio), gradients(wanted, *exact)):
        assert (found - truth).norm() < 1e-4 * truth.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    visual, audio = features(4, 3, (2, 2))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    positives, ignore = masks(4)

    def losses(visual, audio, tau):
        return tuple(
            InfoNCE(tau, positive_form=form, pooling="soft-mask", backend=backend)(
                visual, audio, positives=positives, ignore=ignore
            )
            for form in FORMS
        )

    assert torch.autograd.gradcheck(losses, (visual, audio, tau))


@pytest.mark.parametrize("form", ["inside", "sum"])
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck(form):
    visual, audio = features(5, 4, (2, 3))
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    positives, ignore = masks(5)
    kinds = _positives.kinds(positives, ignore, 0)
    terms, *options = Settings(
        ("visual_to_audio", "audio_to_visual"), positive_form=form, has_positives=True
    )
    arguments = (visual, audio, tau, kinds, " ".join(terms), *options, *ALONE, True)
    torch.library.opcheck(blockwise._contrast, arguments)
    torch.library.opcheck(_positives.disjoint, (positives, ignore))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_in_one_graph(backend):
    visual, audio = features(6, 4, (2, 2), dtype=torch.float32)
    positives, ignore = masks(6)
    criterion = InfoNCE(0.1, backend=backend)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    found, wanted = (
        run(visual, audio, positives=positives, ignore=ignore) for run in (compiled, criterion)
    )
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, visual, audio), gradients(wanted, visual, audio))
    with pytest.raises(ValueError, match="positives and ignore must not overlap"):
        compiled(visual, audio, positives=positives, ignore=positives.fill_diagonal_(False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    visual, audio = features(6, 4, (2, 2), dtype=torch.bfloat16)
    positives = masks(6)[0]
    criterion = InfoNCE(backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(visual, audio, positives=positives)
    expected = criterion(visual.float(), audio.float(), positives=positives)
    torch.testing.assert_close(loss, expected)


def test_memory_stays_within_the_contract():
    b, d, size = 512, 16, (4, 4)
    visual, audio = features(b, d, size, dtype=torch.float32)
    positives, ignore = masks(b)
    criterion = InfoNCE(backend="blockwise")

    def step():
        criterion(visual, audio, positives=positives, ignore=ignore).backward()

    kept = 4 * (visual.numel() + audio.numel())
    assert extra_bytes(step)[0] - kept <= 2 * visual.numel() + 7 * b**2 + 16e6


OVERLAPPING = torch.zeros(4, 4, dtype=torch.bool)
OVERLAPPING[1, 2] = OVERLAPPING[3, 0] = True
MISTAKES = {
    "no tensor": (
        {"positives": [[True]]},
        TypeError,
        "positives must be a torch.Tensor or None, got list",
    ),
    "dtype": (
        {"positives": torch.zeros(4, 4)},
        TypeError,
        "positives must be torch.bool, got torch.float32",
    ),
    "shape": (
        {"positives": torch.zeros(4, 3, dtype=torch.bool)},
        ValueError,
        "positives must be (b, b), here (4, 4), with a row for each image of this process and a "
        "column for each audio of the whole batch, got (4, 3)",
    ),
    "overlap": (
        {"positives": OVERLAPPING, "ignore": OVERLAPPING},
        ValueError,
        "positives and ignore must not overlap, got 2 pairs that are in both, the first is image "
        "1 with audio 2",
    ),
    "own pairs ignored": (
        {"positives": OVERLAPPING, "ignore": torch.eye(4, dtype=torch.bool)},
        ValueError,
        "ignore must be False on the diagonal, which holds the positives, got True for 4 of 4 "
        "samples, the first is sample 0",
    ),
    "form": (
        {"positives": OVERLAPPING, "positive_form": "all"},
        ValueError,
        "positive_form must be one of 'outside', 'inside', 'sum', 'mean', got 'all'",
    ),
    "kernels": (
        {"positives": OVERLAPPING, "backend": "triton"},
        ValueError,
        "it has no kernel for several positives",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    call, error, message = MISTAKES[case]
    visual, audio = (x.detach() for x in features(4, 3, (2, 2)))
    with pytest.raises(error, match=re.escape(message)):
        functional.info_nce(visual, audio, **call)
