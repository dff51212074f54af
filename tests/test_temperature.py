"""Temperatures: one that is learned stays positive, and one that is given is looked at."""

from __future__ import annotations

import copy
import math
import pickle
import re

import pytest
import torch
from reference import features, gradients
from torch import nn

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
)
from avcontrast.ops import _temperature

LOSSES = (InfoNCE, FalseNegativeSuppression, TrueNegativeEnhancement, FNACLoss)
BACKENDS = ("dense", "blockwise")
COMPILERS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.filterwarnings("ignore::FutureWarning"),
            pytest.mark.filterwarnings("ignore::DeprecationWarning"),
            pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning"),  # of torch 2.6
        ],
    ),
]


def easy_pairs():
    """Return pairs that match so well that every step lowers the temperature."""
    vectors = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    return vectors[:, :, None, None].expand(-1, -1, 2, 2), vectors


def hard_pairs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 16, 2, 2, generator=generator), torch.randn(32, 16, generator=generator)


def train(criterion, optimizer, pairs, steps):
    """Return the temperature after each step."""
    temperatures = []
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(*pairs).backward()
        optimizer.step()
        temperatures.append(criterion.temperature.item())
    return temperatures


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_learning_starts_at_the_given_number_with_the_gradient_of_its_logarithm(loss, backend):
    visual, audio = features(6, 5, (3, 3))
    criterion = loss(0.1, learn_temperature=True, backend=backend).double()
    log = criterion.log_temperature
    assert criterion.temperature.item() == pytest.approx(0.1, rel=1e-6)
    tau = log.detach().exp().requires_grad_()
    given = loss(tau, backend=backend)(visual, audio)
    learned = criterion(visual, audio)
    torch.testing.assert_close(learned, given)
    (expected,) = gradients(given, tau)
    torch.testing.assert_close(gradients(learned, log)[0], tau.detach() * expected)


def test_a_learned_temperature_stays_positive_where_a_parameter_does_not():
    pairs = easy_pairs()
    given = InfoNCE(nn.Parameter(torch.tensor(0.03)))
    with pytest.raises(ValueError, match="temperature must be positive and finite, got -"):
        train(given, torch.optim.Adam(given.parameters(), lr=5e-3), pairs, 50)
    learned = InfoNCE(0.03, learn_temperature=True)
    temperatures = train(learned, torch.optim.Adam(learned.parameters(), lr=5e-3), pairs, 50)
    assert min(temperatures) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_positive_whatever_the_optimiser_does(loss):
    criterion = loss(learn_temperature=True)
    visual, audio = features(4, 5, (2, 2))
    with torch.no_grad():
        criterion.log_temperature.fill_(-1e4)
    assert criterion.temperature > 0
    assert not criterion(visual, audio).isnan()


def test_a_floor_is_kept_and_left_again():
    criterion = InfoNCE(0.012, learn_temperature=True, min_temperature=0.01)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    # Without the exact match the loss of easy pairs would vanish, and its gradient with it.
    visual, audio = easy_pairs()
    near = visual + 0.6 * hard_pairs()[0], audio
    down = train(criterion, optimizer, near, 200)
    floor = torch.tensor(0.01).item()
    assert min(down) == down[-1] == floor
    up = train(criterion, optimizer, hard_pairs(), 30)
    assert up[-1] > 1.5 * floor


def test_below_the_floor_only_what_pushes_further_down_stops():
    value = torch.tensor([0.5, 0.5, 2.0, 2.0], requires_grad=True)
    bounded = _temperature.at_least(value, 1.0)
    assert bounded.tolist() == [1.0, 1.0, 2.0, 2.0]
    (grad,) = torch.autograd.grad(bounded, value, torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert grad.tolist() == [0.0, -1.0, 1.0, -1.0]


def test_weight_decay_that_it_is_exempt_from():
    pairs = tuple(torch.zeros_like(x) for x in easy_pairs())  # of which it gets no gradient
    decayed, exempt = (FNACLoss(0.03, learn_temperature=True) for _ in range(2))
    train(decayed, torch.optim.AdamW(decayed.parameters(), lr=0.1, weight_decay=0.1), pairs, 20)
    assert decayed.temperature > 0.031
    model = nn.Linear(2, 2)
    groups = [
        {"params": model.parameters()},
        {"params": exempt.parameters(), "weight_decay": 0.0},
    ]
    train(exempt, torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1), pairs, 20)
    assert exempt.temperature.item() == pytest.approx(0.03, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_stored_and_shown(loss):
    criterion = loss(0.07, learn_temperature=True, min_temperature=0.01)
    with torch.no_grad():
        criterion.log_temperature.fill_(math.log(0.05))
    assert list(criterion.state_dict()) == ["log_temperature"]
    other = loss(0.07, learn_temperature=True, min_temperature=0.01)
    other.load_state_dict(criterion.state_dict())
    for again in (other, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert again.temperature.item() == criterion.temperature.item()
        assert "temperature=0.05, learn_temperature=True, min_temperature=0.01," in repr(again)
    assert "temperature=meta, learn_temperature=True" in repr(
        loss(learn_temperature=True).to("meta")
    )
    for dtype in (torch.bfloat16, torch.float64):
        assert criterion.to(dtype)(*hard_pairs()).dtype == torch.float32


def test_a_learned_temperature_is_not_replaced_in_silence():
    criterion = InfoNCE(learn_temperature=True)
    with pytest.raises(AttributeError, match="is learned: change the parameter log_temperature"):
        criterion.temperature = 0.05
    with pytest.raises(AttributeError, match="has no attribute 'temprature'"):
        _ = criterion.temprature


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiled_equals_eager(compiler, loss):
    torch.compiler.reset()
    criterion = loss(0.1, learn_temperature=True, min_temperature=0.1)
    compiled = torch.compile(criterion, fullgraph=True, backend=compiler)
    for start in (0.2, 0.1, 0.05):
        with torch.no_grad():
            criterion.log_temperature.fill_(math.log(start))
        found, wanted = compiled(*hard_pairs()), criterion(*hard_pairs())
        torch.testing.assert_close(found, wanted)
        pairs = zip(*(gradients(x, criterion.log_temperature) for x in (found, wanted)))
        for left, right in pairs:
            torch.testing.assert_close(left, right)


VISUAL, AUDIO = (x.detach() for x in features(4, 6, (2, 2), dtype=torch.float32))
ENTRIES = {
    "info_nce": lambda tau: functional.info_nce(VISUAL, AUDIO, tau),
    "suppression": lambda tau: functional.false_negative_suppression(VISUAL, AUDIO, tau),
    "enhancement": lambda tau: functional.true_negative_enhancement(VISUAL, AUDIO, tau),
    "fnac": lambda tau: functional.fnac(VISUAL, AUDIO, tau).loss,
    "blockwise": lambda tau: functional.fnac(VISUAL, AUDIO, tau, backend="blockwise").loss,
    "adjacency": lambda tau: functional.adjacency(AUDIO, tau),
}
BAD = {
    "negative": (torch.tensor(-0.1), "-0.1"),
    "zero": (torch.tensor(0.0), "0"),
    "NaN": (torch.tensor(math.nan), "nan"),
    "infinite": (torch.tensor(math.inf), "inf"),
    "negative half": (torch.tensor(-0.5, dtype=torch.float16), "-0.5"),
    "zero in fp32": (torch.tensor(1e-60, dtype=torch.float64), "1e-60"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", BAD)
def test_a_tensor_that_is_not_positive_is_an_error(case, entry):
    tau, shown = BAD[case]
    for needs_grad in (False, True):
        given = tau.clone().requires_grad_(needs_grad)
        message = f"temperature must be positive and finite, got {shown}"
        with pytest.raises(ValueError, match=re.escape(message)):
            ENTRIES[entry](given)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_so_it_is_in_a_compiled_graph(compiler, entry):
    torch.compiler.reset()
    compiled = torch.compile(ENTRIES[entry], fullgraph=True, backend=compiler)
    good = torch.tensor(0.1)
    torch.testing.assert_close(compiled(good), ENTRIES[entry](good))
    for value in (-0.1, 0.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            compiled(torch.tensor(value))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", [nn.Parameter, lambda tensor: tensor])
def test_what_became_of_a_given_tensor_is_looked_at_in_every_call(kind, loss):
    temperature = kind(torch.tensor(0.1))
    criterion = loss(temperature)
    criterion(VISUAL, AUDIO)
    for value in (-0.1, 0.0, math.nan):
        with torch.no_grad():
            temperature.fill_(value)
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            criterion(VISUAL, AUDIO)


def test_transforms_look_too():
    def loss(tau):
        return functional.info_nce(VISUAL, AUDIO, tau, backend="dense")

    temperatures = torch.tensor([0.1, 0.2])
    values = torch.func.vmap(loss)(temperatures)
    torch.testing.assert_close(values, torch.stack([loss(tau) for tau in temperatures]))
    torch.func.grad(loss)(temperatures[0])
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got -0\.2"):
        torch.func.vmap(loss)(torch.tensor([0.1, -0.2]))
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got -0\.1"):
        torch.func.grad(loss)(torch.tensor(-0.1))


def test_opcheck():
    torch.library.opcheck(_temperature.is_usable, (torch.tensor(0.1),))
    for lowest in (0.01, 0.2):
        value = torch.tensor(0.1, requires_grad=True)
        torch.library.opcheck(_temperature.at_least, (value, lowest))


def test_transforms_of_a_learned_temperature():
    criterion = InfoNCE(0.1, learn_temperature=True, min_temperature=0.05, backend="dense")

    def loss(log):
        return torch.func.functional_call(criterion, {"log_temperature": log}, (VISUAL, AUDIO))

    logs = torch.tensor([0.1, 0.04]).log()
    values = torch.func.vmap(loss)(logs)
    torch.testing.assert_close(values, torch.stack([loss(log) for log in logs]))
    log = logs[0].clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(logs[0]), gradients(loss(log), log)[0])


MISTAKES = [
    (("yes",), TypeError, "learn_temperature must be a bool, got str"),
    ((False, 0.01), ValueError, "min_temperature has no effect without learn_temperature=True"),
    ((True, "0.01"), TypeError, "min_temperature must be a number, got str"),
    ((True, math.nan), ValueError, "min_temperature must be finite, got nan"),
    (
        (True, 0.0),
        ValueError,
        "min_temperature must be positive and not above temperature, where learning starts, got "
        "min_temperature=0.0 and temperature=0.03",
    ),
    (
        (True, 0.1),
        ValueError,
        "min_temperature must be positive and not above temperature, where learning starts, got "
        "min_temperature=0.1 and temperature=0.03",
    ),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("given", "error", "message"), MISTAKES)
def test_mistakes(given, error, message, loss):
    names = ("learn_temperature", "min_temperature")
    with pytest.raises(error, match=re.escape(message)):
        loss(**dict(zip(names, given)))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tensor_cannot_be_where_learning_starts(loss):
    with pytest.raises(TypeError, match="temperature must be a number with learn_temperature=True"):
        loss(torch.tensor(0.1), learn_temperature=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_device():
    on_gpu = VISUAL.cuda(), AUDIO.cuda()
    criterion = FNACLoss(learn_temperature=True, min_temperature=0.01, backend="dense").cuda()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(*on_gpu).backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)
