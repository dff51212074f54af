"""One exact global batch: parameter gradients under gloo against those of a single process."""

from __future__ import annotations

import functools
import time

import pytest
import torch
from processes import (
    SECONDS,
    Cluster,
    Failure,
    Model,
    accumulated,
    batch,
    compiled,
    die_or_go_on,
    disagreeing,
    fully_sharded,
    grads_of,
    ignored,
    in_groups_of_two,
    labels_of,
    matching,
    operators_pass_opcheck,
    peak_of_a_step,
    sample_weights,
    shared_components,
    shared_samples,
    shared_step,
    shared_step_ignoring,
    shared_step_with_labels,
    shared_step_with_positives,
    step,
    summing_step,
    temperature_beside_the_wrapped_model,
    under_autocast,
    unequal_on_a_device,
    with_a_mask_of_the_own_pairs,
    with_more_views_on_the_last,
    with_positives_on_the_first,
)
from reference import PUBLISHED

from avcontrast import InfoNCE

pytestmark = pytest.mark.dist

BACKENDS = ("dense", "blockwise")
CASES = {
    "InfoNCE": ("InfoNCE", {}),
    "InfoNCE, one direction": ("InfoNCE", {"symmetric": False}),
    "InfoNCE, mean pooling": ("InfoNCE", {"pooling": "mean", "normalize": False}),
    "suppression": ("FalseNegativeSuppression", {}),
    "suppression, audio anchor": ("FalseNegativeSuppression", {"anchor": "audio"}),
    "suppression, visual only": ("FalseNegativeSuppression", {"audio_weight": 0.0}),
    "enhancement": ("TrueNegativeEnhancement", {}),
    "enhancement, soft mask": ("TrueNegativeEnhancement", {"mask": "soft"}),
    "FNAC": ("FNACLoss", {}),
    "FNAC, audio anchor": ("FNACLoss", {"anchor": "audio", "mask": "soft"}),
    "FNAC, published": ("FNACLoss", PUBLISHED),
    "FNAC, detached": ("FNACLoss", {"detach_adjacency": True, "anchor": "audio"}),
    "FNAC, sum": ("FNACLoss", {"reduction": "sum"}),
    "InfoNCE, elimination": ("InfoNCE", {"elimination": "both", "elimination_level": 0.3}),
    "InfoNCE, soft mask": ("InfoNCE", {"pooling": "soft-mask", "mask_threshold": 0.3}),
    "tri-map": ("TriMapLoss", {"mask_threshold": 0.3}),
    "tri-map, paper": ("TriMapLoss", {"form": "paper"}),
    "tri-map, paper, audio anchor": ("TriMapLoss", {"form": "paper", "anchor": "audio"}),
    "hard positives": ("HardPositiveLoss", {}),
    "hard positives, audio anchor": ("HardPositiveLoss", {"anchor": "audio"}),
    "FNAC, elimination": ("FNACLoss", {"elimination": "audio", "anchor": "audio"}),
}


@pytest.fixture(
    scope="module", params=[2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]
)
def cluster(request):
    cluster = Cluster(request.param)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def two():
    cluster = Cluster(2)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def four():
    cluster = Cluster(4)
    yield cluster
    cluster.close()


def assert_same_on_every_rank(outcomes, expected):
    value, grads = expected
    for outcome in outcomes:
        torch.testing.assert_close(outcome[0], value, rtol=1e-12, atol=1e-12)
        assert outcome[1].keys() == grads.keys()
        for name, grad in grads.items():
            assert grad.abs().max() > 0
            largest = grad.abs().max().item()
            torch.testing.assert_close(outcome[1][name], grad, rtol=0, atol=1e-12 * largest)


@functools.cache
def of_one_process(case, backend):
    loss, settings = CASES[case]
    return step(loss, {**settings, "backend": backend}, 12, learn_temperature=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(cluster, case, backend):
    loss, settings = CASES[case]
    settings = {**settings, "backend": backend}
    outcomes = cluster.run(shared_step, loss, settings, 12, learn_temperature=True)
    assert_same_on_every_rank(outcomes, of_one_process(case, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case",
    [
        "InfoNCE",
        "InfoNCE, one direction",
        "suppression",
        "suppression, audio anchor",
        "FNAC",
        "FNAC, audio anchor",
    ],
)
def test_known_false_negatives(cluster, case, backend):
    loss, settings = CASES[case]
    settings = {**settings, "backend": backend}
    expected = step(loss, settings, 12, learn_temperature=True, ignore=ignored(12))
    outcomes = cluster.run(shared_step_ignoring, loss, settings, 12)
    assert_same_on_every_rank(outcomes, expected)


SEQUENCES = {
    "InfoNCE": {"elimination": "both", "elimination_level": 0.3},
    "FNACLoss": {"anchor": "audio", "mask": "soft"},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("audio_pooling", ["mean", "max"])
@pytest.mark.parametrize("loss", SEQUENCES)
def test_sequences(cluster, loss, audio_pooling, backend):
    settings = {"audio_layout": "channels-last", "audio_pooling": audio_pooling}
    settings |= {"backend": backend, **SEQUENCES[loss]}
    call = {"learn_temperature": True, "frames": (3,)}
    expected = step(loss, settings, 12, ignore=ignored(12), **call)
    outcomes = cluster.run(shared_step_ignoring, loss, settings, 12, **call)
    assert_same_on_every_rank(outcomes, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["InfoNCE", "suppression, audio anchor", "FNAC, audio anchor"])
def test_labels_travel(cluster, case, backend):
    loss, settings = CASES[case]
    settings = {**settings, "backend": backend}
    expected = step(loss, settings, 12, learn_temperature=True, labels=labels_of(12))
    without = step(loss, settings, 12, learn_temperature=True)
    assert abs(expected[0] - without[0]) > 0.01
    outcomes = cluster.run(shared_step_with_labels, loss, settings, 12)
    assert_same_on_every_rank(outcomes, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["outside", "inside", "sum", "mean"])
def test_several_positives(cluster, form, backend):
    settings = {"positive_form": form, "backend": backend}
    call = {"positives": matching(12), "ignore": ignored(12)}
    expected = step("InfoNCE", settings, 12, learn_temperature=True, **call)
    outcomes = cluster.run(shared_step_with_positives, "InfoNCE", settings, 12, ignoring=True)
    assert_same_on_every_rank(outcomes, expected)
    settings["anchor"] = "audio"
    call = {"positives": matching(12)}
    expected = step("HardPositiveLoss", settings, 12, learn_temperature=True, **call)
    outcomes = cluster.run(
        shared_step_with_positives, "HardPositiveLoss", settings, 12, ignoring=False
    )
    assert_same_on_every_rank(outcomes, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooling", ["mean", "soft-mask"])
def test_views(cluster, pooling, backend):
    settings = {"pooling": pooling, "backend": backend}
    call = {"learn_temperature": True, "reading": "views"}
    expected = step("AlignmentLoss", settings, 12, **call)
    outcomes = cluster.run(shared_step, "AlignmentLoss", settings, 12, **call)
    assert_same_on_every_rank(outcomes, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("regularization", [0.0, 1.0])
def test_strength_and_components(cluster, regularization, backend):
    call = {"reading": "components", "regularization": regularization}
    expected = step("FNACLoss", {"backend": backend}, 12, **call)
    outcomes = cluster.run(shared_components, backend, 12, regularization=regularization)
    assert_same_on_every_rank(outcomes, expected)
    settings = {"backend": backend}
    expected = step("FNACLoss", settings, 12, regularization=regularization)
    outcomes = cluster.run(shared_step, "FNACLoss", settings, 12, regularization=regularization)
    assert_same_on_every_rank(outcomes, expected)
    if regularization == 0:
        info_nce = cluster.run(shared_step, "InfoNCE", settings, 12)
        assert all(torch.equal(x[0], y[0]) for x, y in zip(outcomes, info_nce))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_process_keeps_the_losses_of_its_own_samples(cluster, backend):
    settings = {"reduction": "none", "backend": backend}
    model = Model("FNACLoss", settings)
    values = model(*batch(12))
    (values * sample_weights(12)).mean().backward()
    outcomes = cluster.run(shared_samples, backend, 12)
    torch.testing.assert_close(torch.cat([own for own, _ in outcomes]), values.detach())
    same = [(values.detach(), grads) for _, grads in outcomes]
    assert_same_on_every_rank(same, (values.detach(), grads_of(model)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_that_adds_gradients_up(cluster, backend):
    expected = step("FNACLoss", {"backend": backend}, 12, learn_temperature=True)
    assert_same_on_every_rank(cluster.run(summing_step, backend, 12), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_temperature_needs_no_wrapping(cluster, backend):
    _, grads = step("FNACLoss", {"backend": backend}, 12, learn_temperature=True)
    for grad in cluster.run(temperature_beside_the_wrapped_model, backend, 12):
        torch.testing.assert_close(grad, grads["loss.temperature"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lowest", [0.1, 0.2])
def test_a_temperature_learned_by_its_logarithm(two, lowest, backend):
    settings = {"learn_temperature": True, "min_temperature": lowest, "backend": backend}
    expected = step("FNACLoss", settings, 12)
    assert "loss.log_temperature" in expected[1]
    assert_same_on_every_rank(two.run(shared_step, "FNACLoss", settings, 12), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulated_gradients(two, backend):
    model = Model("FNACLoss", {"backend": backend})
    for seed in (1, 2):
        value = model(*batch(8, seed=seed))
        value.backward()
    outcomes = two.run(accumulated, backend, 8)
    assert_same_on_every_rank(outcomes, (value.detach(), grads_of(model)))


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on accelerators only"
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sharded_parameters(two, backend):
    assert_same_on_every_rank(
        two.run(fully_sharded, backend, 8), step("FNACLoss", {"backend": backend}, 8)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_keep_to_themselves(four, backend):
    outcomes = four.run(in_groups_of_two, backend, 8)
    for mine in (0, 1):
        model = Model("FNACLoss", {"backend": backend})
        value = model(*batch(8, seed=mine))
        value.backward()
        expected = value.detach(), grads_of(model)
        assert_same_on_every_rank([x[:2] for x in outcomes[mine::2]], expected)
    assert {x[2] for x in outcomes} == {"group must be one that this process belongs to"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_encoders_under_autocast(two, backend):
    model = Model("FNACLoss", {"backend": backend}, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = model(*batch(8, dtype=torch.float32))
    value.backward()
    for loss, grads in two.run(under_autocast, backend, 8):
        torch.testing.assert_close(loss, value.detach(), rtol=1e-5, atol=0)
        for name, grad in grads_of(model).items():
            largest = grad.abs().max().item()
            torch.testing.assert_close(grads[name], grad, rtol=0, atol=0.01 * largest)


@pytest.mark.parametrize(
    ("backend", "compiler"),
    [
        ("dense", "aot_eager"),
        pytest.param("blockwise", "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled(two, backend, compiler):
    settings = {"backend": backend, "anchor": "audio"}
    outcomes = two.run(compiled, "FNACLoss", settings, 8, compiler)
    for number, strength in enumerate((1.0, 0.5)):
        expected = step("FNACLoss", settings, 8, learn_temperature=True, regularization=strength)
        assert_same_on_every_rank([outcome[number] for outcome in outcomes], expected)


def test_compilers_are_told_the_truth(two):
    two.run(operators_pass_opcheck)


DISAGREEMENTS = {
    "pairs": (
        {"pairs_of": [4, 3, 4, 4]},
        "pairs: 4 on ranks 0, 2, 3, 3 on rank 1",
    ),
    "frames": (
        {"frames_of": [1, 1, 1, 3]},
        "frames: 1 on ranks 0, 1, 2, 3 on rank 3",
    ),
    "dtypes": (
        {"dtypes": ["float32", "float32", "float64", "float32"]},
        "visual dtype: torch.float32 on ranks 0, 1, 3, torch.float64 on rank 2; "
        "audio dtype: torch.float32 on ranks 0, 1, 3, torch.float64 on rank 2",
    ),
    "settings": (
        {"settings_of": [{}, {}, {}, {"threshold": 0.5, "tne_weight": 1.0}]},
        "threshold: 0.6 on ranks 0, 1, 2, 0.5 on rank 3; "
        "tne_weight: 0.390625 on ranks 0, 1, 2, 1.0 on rank 3",
    ),
    "backends": (
        {"settings_of": [{"backend": "blockwise"}, {}, {}, {}]},
        "backend: blockwise on rank 0, dense on ranks 1, 2, 3",
    ),
    "temperatures": (
        {"settings_of": [{}, {"temperature": 0.2}, {}, {}]},
        "temperature: 0.1 on ranks 0, 2, 3, 0.2 on rank 1",
    ),
    "learnable temperatures": (
        {"settings_of": [{"learnable": value} for value in (0.1, 0.1, 0.2, 0.1)]},
        "value of the temperature: 0.100000001 on ranks 0, 1, 3, 0.200000003 on rank 2",
    ),
    "false negatives": (
        {"settings_of": [{}, {"ignore": True}, {"ignore": True}, {}]},
        "ignore: None on ranks 0, 3, a tensor on ranks 1, 2",
    ),
}


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_disagreement_is_an_error_on_every_rank(four, what):
    given, message = DISAGREEMENTS[what]
    told = {"settings_of": [{}] * 4, "pairs_of": [4] * 4, "dtypes": ["float32"] * 4, **given}
    started = time.monotonic()
    outcomes = four.attempt(disagreeing, **told)
    assert time.monotonic() - started < SECONDS / 2
    expected = (
        "with gather_distributed=True every process must bring equally many pairs, of one kind "
        f"and with the same settings, got {message}"
    )
    assert [(x.kind, x.message) for x in outcomes] == [("ValueError", expected)] * 4
    agreeing = {"settings_of": [{}] * 4, "pairs_of": [4] * 4, "dtypes": ["float32"] * 4}
    assert len(set(four.run(disagreeing, **agreeing))) == 1


def test_temperatures_on_a_device_are_compared_there(two):
    assert two.run(unequal_on_a_device, 0.0) == [0, 0]
    for outcome in two.attempt(unequal_on_a_device, 0.1):
        assert "temperature must have the same value on every process" in outcome.message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["ignore", "positives"])
def test_a_mask_must_have_the_sounds_of_all(two, name, backend):
    for outcome in two.attempt(with_a_mask_of_the_own_pairs, backend, name):
        assert outcome.kind == "ValueError"
        assert outcome.message == (
            f"{name} must be (b_local, b_global), here (4, 8), with a row for each image of this "
            "process and a column for each audio of the whole batch, got (4, 4)"
        )


def test_positives_and_views_must_be_everywhere(two):
    for call, message in (
        (with_positives_on_the_first, "positives: a tensor on rank 0, None on rank 1"),
        (with_more_views_on_the_last, "views: (1, 1) on rank 0, (2, 1) on rank 1"),
    ):
        for outcome in two.attempt(call, "dense"):
            assert outcome.kind == "ValueError"
            assert message in outcome.message


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_lost_process_is_an_error_for_the_others(when):
    cluster = Cluster(2)
    try:
        cluster.ask(die_or_go_on, when)
        started = time.monotonic()
        rank, outcome = cluster.results.get(timeout=SECONDS)
        assert time.monotonic() - started < SECONDS / 2
    finally:
        cluster.close()
    assert rank == 0
    assert isinstance(outcome, Failure)
    assert outcome.kind == "RuntimeError"


@pytest.mark.parametrize("size", [(7, 7), (1, 1)])
def test_memory_of_a_process_falls_with_their_number(four, size):
    """2 N + 7 n b as for one process, N and n being its own share, and vectors of all samples."""
    b, d = 4096 if size == (1, 1) else 2048, 64
    own = b // 4
    elements = own * d * size[0] * size[1]
    bound = 2 * elements + 7 * own * b + 16e6 + 12 * 4 * b * d
    for peak in four.run(peak_of_a_step, own, d, size):
        assert peak <= bound, f"{peak / 1e6:.1f} MB of {bound / 1e6:.1f}"


def test_a_group_that_this_process_is_not_in(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: -1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: -1)
    with pytest.raises(ValueError, match="group must be one that this process belongs to"):
        InfoNCE(gather_distributed=True, group=object())(torch.ones(2, 3), torch.ones(2, 3))
