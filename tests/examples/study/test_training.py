"""How the study trains, and with which losses."""

from functools import partial
from unittest import mock

import pytest
import torch

from avcontrast import AlignmentLoss, FNACLoss, HardPositiveLoss, InfoNCE, TriMapLoss, functional
from avscenes.media.augmentation import scale_images
from avscenes.scenes.scene import make_scenes
from avstudy import data, opponents, training
from avstudy.plan import QUICK, read_plan

PLAN = read_plan(QUICK)
TINY, NCE = PLAN.settings["tiny"], PLAN.methods["nce"]
LABELS, SILENT = torch.tensor([0, 1, 0, 2, 2, 0]), torch.tensor([1, 2, 2, 0, 1, 1])


def run_of(method="nce", **changes):
    loss = PLAN.methods[method]._replace(**changes)
    return PLAN.runs[0]._replace(loss=loss, data=TINY._replace(warm_start_epochs=0))


def trained(run, folder):
    scenes = data.scenes(folder, run.seed, "train", run.data.train_size, run.data)
    encoders = training.build(run, folder)
    assert list(training.train(run, encoders, scenes)) == [1, 2]
    return encoders


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(PLAN.runs[0].seed, "train", TINY.train_size, TINY.design)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Encoders that were trained with InfoNCE."""
    return trained(run_of(), tmp_path_factory.mktemp("plain"))


@pytest.fixture
def batch():
    """Three kinds, each of which matches itself about as well as its own pairs."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=generator)[[0, 1, 2, 0, 1, 2]]
    visual = centres[:, :, None, None] + 0.1 * torch.randn(6, 16, 2, 2, generator=generator)
    return visual, centres + 0.1 * torch.randn(6, 16, generator=generator)


def test_the_oracle_is_infonce_without_the_false_negatives(batch):
    ignore = training.left_out("same-class", LABELS, SILENT, torch.Generator())
    for image in range(6):
        for sound in range(6):
            same = image != sound and LABELS[image] == LABELS[sound]
            assert ignore[image, sound] == same
    oracle = training.criterion_of(PLAN.methods["oracle"])
    assert torch.equal(oracle(*batch, ignore=ignore), InfoNCE()(*batch, ignore=ignore))
    assert oracle(*batch, ignore=ignore) < oracle(*batch)
    assert PLAN.methods["oracle"].ignore == "same-class"


def test_what_else_can_be_left_out():
    generator = torch.Generator().manual_seed(0)
    assert training.left_out("nothing", LABELS, SILENT, generator) is None
    shown = training.left_out("shown", LABELS, SILENT, generator)
    assert shown[0].tolist() == [False, True, True, False, False, True]
    assert not shown.diagonal().any()
    chosen = training.left_out("random", LABELS, SILENT, generator)
    same = training.left_out("same-class", LABELS, SILENT, generator)
    assert chosen.sum(dim=1).tolist() == same.sum(dim=1).tolist() == [2, 0, 2, 1, 1, 2]
    assert not (chosen & (LABELS[:, None] == LABELS)).any()
    assert not torch.equal(chosen, training.left_out("random", LABELS, SILENT, generator))
    with pytest.raises(ValueError, match="nothing, same-class, shown or random, got all"):
        training.left_out("all", LABELS, SILENT, generator)


def test_every_field_of_a_method_reaches_the_loss():
    options = {
        "fns_audio_weight": 1.0,
        "fns_visual_weight": 2.0,
        "tne_weight": 3.0,
        "threshold": 0.4,
        "anchor": "audio",
        "mask": "soft",
        "adjacency_reduction": "batchmean",
        "detach_adjacency": True,
        "elimination": "audio",
        "elimination_level": 0.7,
    }
    method = NCE._replace(temperature=0.2, **options)
    assert repr(training.criterion_of(method)) == repr(FNACLoss(0.2, **options))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"elimination": "both"}, InfoNCE(0.1, elimination="both")),
        (
            {"elimination": "audio", "elimination_level": 0.9},
            InfoNCE(0.1, elimination="audio", elimination_level=0.9),
        ),
        (
            {"contrast": "soft-targets", "soft_share": 0.3, "soft_kind": "cycle"},
            lambda visual, audio: opponents.soft_targets(visual, audio, 0.1, 0.3, "cycle"),
        ),
        (
            {"fns_audio_weight": 5.0},
            FNACLoss(
                0.1,
                fns_audio_weight=5.0,
                fns_visual_weight=0.0,
                tne_weight=0.0,
                adjacency_reduction="mean",
            ),
        ),
    ],
)
def test_the_warm_up_is_plain_infonce(batch, changes, expected):
    method = NCE._replace(temperature=0.1, **changes)
    assert torch.equal(training.loss_of(method, *batch), expected(*batch))
    plain = training.loss_of(method, *batch, warm=False)
    torch.testing.assert_close(plain, InfoNCE(0.1)(*batch))
    assert not torch.isclose(plain, training.loss_of(method, *batch))


POSITIVES = torch.eye(6, dtype=torch.bool)
POSITIVES[0, 1] = True


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"contrast": "debiased", "class_prior": 0.2},
            lambda visual, audio: opponents.debiased(visual, audio, 0.5, 0.2),
        ),
        ({"contrast": "lvs"}, TriMapLoss(0.5)),
        (
            {"contrast": "hardpos", "positive_form": "inside"},
            partial(HardPositiveLoss(0.5, positive_form="inside"), positives=POSITIVES),
        ),
    ],
    ids=lambda value: value["contrast"] if isinstance(value, dict) else "",
)
def test_other_losses_have_no_warm_up(batch, changes, expected):
    method = NCE._replace(temperature=0.5, **changes)
    for warm in (False, True):
        loss = training.loss_of(method, *batch, positives=POSITIVES, warm=warm)
        assert torch.equal(loss, expected(*batch))


def test_the_warm_up_lasts_its_share_of_the_epochs(tmp_path):
    with mock.patch.object(training, "loss_of", wraps=training.loss_of) as told:
        trained(run_of(), tmp_path)  # two epochs of four batches, of which half are the warm-up
    assert [call.kwargs["warm"] for call in told.call_args_list] == [False] * 4 + [True] * 4


def test_an_epoch_has_every_row_once():
    labels = torch.arange(50) % 4
    setting = TINY._replace(batch_size=16)
    first, again, other = (training.batches(labels, setting, 0, epoch) for epoch in (3, 3, 4))
    assert [len(batch) for batch in first] == [16, 16, 16]
    assert len(set(torch.cat(first).tolist())) == 48
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))


@pytest.mark.parametrize("wanted", [1, 3, 4])
def test_batches_of_few_classes(wanted):
    labels = torch.arange(80) % 4
    setting = TINY._replace(batch_size=16, classes_per_batch=wanted)
    drawn = training.batches(labels, setting, 0, 0)
    assert len(drawn) == 5
    for rows in drawn:
        assert len(set(rows.tolist())) == 16
        counts = labels[rows].bincount(minlength=4)
        assert (counts > 0).sum() == wanted
        assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


def test_a_class_that_is_too_small_for_a_batch_is_named():
    labels = torch.arange(20) % 4
    with pytest.raises(ValueError, match=r"a batch needs 8 of class \d, got 5"):
        training.batches(labels, TINY._replace(batch_size=16, classes_per_batch=2), 0, 0)


@pytest.mark.parametrize(
    "run",
    [
        run_of("fnac")._replace(data=TINY),  # with a warm start, which is kept
        run_of(contrast="lvs"),
        run_of(contrast="hardpos", neighbours=3),
        run_of(contrast="alignment"),
    ],
    ids=lambda run: run.loss.contrast,
)
def test_a_training_depends_on_its_run_alone_and_moves_both_encoders(tmp_path, plain, run):
    start = training.build(run, tmp_path / "one")
    first = trained(run, tmp_path / "one")
    kept = trained(run, tmp_path / "one")
    torch.rand(7)
    anew = trained(run, tmp_path / "other")
    for before, *networks in zip(start, first, kept, anew, plain):
        after = networks[0].parameters()
        assert not any(torch.equal(p, q) for p, q in zip(before.parameters(), after))
        one, same, again, other = (network.state_dict() for network in networks)
        for name, value in one.items():
            assert torch.equal(value, same[name])
            assert torch.equal(value, again[name])
        assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_the_nearest_images_are_other_ones_by_the_features_of_the_trunk(tmp_path, scenes):
    trunk = training.build(run_of(), tmp_path).visual.trunk
    found = training.nearest_images(trunk, scenes.images, 5)
    assert found.shape == (64, 5)
    with torch.no_grad():
        vectors = trunk.eval()(scale_images(scenes.images)).mean((2, 3))
    likeness = torch.nn.functional.cosine_similarity(vectors[:, None], vectors, dim=2)
    for row, places in enumerate(found.tolist()):
        others = sorted(set(range(64)) - {row}, key=lambda other: -likeness[row, other])
        assert likeness[row, places].tolist() == pytest.approx(
            likeness[row, others[:5]].tolist(), abs=1e-5
        )
        assert row not in places


def test_images_that_are_near_are_hard_positives(tmp_path, scenes):
    run = run_of(contrast="hardpos", neighbours=6)
    with mock.patch.object(training, "loss_of", wraps=training.loss_of) as told:
        trained(run, tmp_path)
    positives = told.call_args_list[0].kwargs["positives"]
    near = training.nearest_images(training.build(run, tmp_path).visual.trunk, scenes.images, 6)
    rows = training.batches(scenes.labels, run.data, run.seed, 0)[0]
    assert torch.equal(positives, functional.neighbour_positives(rows, near[rows]))
    assert positives.sum() > len(rows)


def test_alignment_has_two_views_of_image_and_sound(tmp_path):
    components = AlignmentLoss.components
    with mock.patch.object(
        AlignmentLoss, "components", autospec=True, side_effect=components
    ) as told:
        trained(run_of(contrast="alignment"), tmp_path)
    sizes = [[len(views) for views in call.args[1:]] for call in told.call_args_list]
    assert sizes == [[2, 2, 2, 2]] * 8


def test_what_is_kept_is_what_was_made(tmp_path):
    made = data.scenes(tmp_path, 0, "train", 6, TINY)
    kept = data.scenes(tmp_path, 0, "train", 6, TINY)
    for one, other, plain in zip(made, kept, make_scenes(0, "train", 6, TINY.design)):
        assert torch.equal(one, other)
        assert torch.equal(one, plain)
    assert len(list(tmp_path.iterdir())) == 1
    data.scenes(tmp_path, 0, "train", 6, PLAN.settings["other"])
    assert len(list(tmp_path.iterdir())) == 2
