"""Losses of other methods in the study."""

import pytest
import torch

from avcontrast import AlignmentLoss, HardPositiveLoss, TriMapLoss, functional
from avscenes.media.augmentation import scale_images
from avscenes.scenes.scene import make_scenes
from avstudy import measures, training
from avstudy.plan import QUICK, read_plan


def run_of(contrast, **changes):
    run = read_plan(QUICK).runs[0]
    loss = run.loss._replace(contrast=contrast, **changes)
    return run._replace(loss=loss, data=run.data._replace(warm_start_epochs=0))


@pytest.fixture(scope="module")
def scenes():
    run = read_plan(QUICK).runs[0]
    return make_scenes(0, "train", 32, run.data.design)


def trained(run, folder, scenes):
    encoders = training.build(run, folder)
    assert list(training.train(run, encoders, scenes)) == [1, 2]
    return encoders


def test_the_losses_are_those_of_the_package():
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(6, 8, 3, 3, generator=generator)
    audio = torch.randn(6, 8, generator=generator)
    positives = torch.eye(6, dtype=torch.bool)
    positives[0, 1] = True
    method = run_of("lvs", temperature=0.07).loss
    assert training.loss_of(method, visual, audio) == TriMapLoss(0.07)(visual, audio)
    method = run_of("hardpos", temperature=0.1, positive_form="inside").loss
    expected = HardPositiveLoss(0.1, positive_form="inside")(visual, audio, positives=positives)
    assert training.loss_of(method, visual, audio, positives=positives) == expected
    # There is no warm-up in them.
    assert training.loss_of(method, visual, audio, positives=positives, warm=False) == expected


@pytest.mark.parametrize("contrast", ["lvs", "hardpos", "alignment"])
def test_a_training_depends_on_the_seed_alone_and_moves_both_encoders(tmp_path, scenes, contrast):
    run = run_of(contrast, neighbours=3)
    start = training.build(run, tmp_path)
    networks = trained(run, tmp_path, scenes)
    torch.rand(3)
    again = trained(run, tmp_path, scenes)
    for before, one, other in zip(start, networks, again):
        moved = [not torch.equal(p, q) for p, q in zip(before.parameters(), one.parameters())]
        assert all(moved)
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters()))


def test_the_nearest_images_are_other_ones_by_the_features_of_the_trunk(tmp_path, scenes):
    trunk = training.build(run_of("hardpos"), tmp_path).visual.trunk
    found = training.nearest_images(trunk, scenes.images, 5)
    assert found.shape == (32, 5)
    with torch.no_grad():
        vectors = trunk.eval()(scale_images(scenes.images)).mean((2, 3))
    likeness = torch.nn.functional.cosine_similarity(vectors[:, None], vectors, dim=2)
    for row, places in enumerate(found.tolist()):
        others = sorted(set(range(32)) - {row}, key=lambda other: -likeness[row, other])
        assert likeness[row, places].tolist() == pytest.approx(
            likeness[row, others[:5]].tolist(), abs=1e-5
        )
        assert row not in places


def test_images_that_are_near_are_hard_positives(tmp_path, scenes, monkeypatch):
    seen = []
    loss_of = training.loss_of
    monkeypatch.setattr(
        training, "loss_of", lambda *a, **b: (seen.append(b["positives"]), loss_of(*a, **b))[1]
    )
    run = run_of("hardpos", neighbours=6)
    trained(run, tmp_path, scenes)
    near = training.nearest_images(training.build(run, tmp_path).visual.trunk, scenes.images, 6)
    rows = training.batches(scenes.labels, run.data, run.seed, 0)[0]
    assert torch.equal(seen[0], functional.neighbour_positives(rows, near[rows]))
    assert seen[0].sum() > len(rows)


def test_alignment_has_two_views_of_image_and_sound(tmp_path, scenes, monkeypatch):
    sizes = []
    components = AlignmentLoss.components

    def counted(self, *views):
        sizes.append([len(view) for view in views])
        return components(self, *views)

    monkeypatch.setattr(AlignmentLoss, "components", counted)
    trained(run_of("alignment"), tmp_path, scenes)
    assert sizes == [[2, 2, 2, 2]] * 4


@pytest.mark.parametrize("contrast", ["lvs", "hardpos", "alignment"])
def test_what_a_loss_allocates_is_measured(tmp_path, scenes, contrast):
    run = run_of(contrast)
    features = measures.encode(training.build(run, tmp_path), scenes)
    assert measures.loss_megabytes(run.loss, features, 16) > 0.01
