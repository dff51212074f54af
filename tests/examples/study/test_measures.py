"""What the study measures, and how it trains."""

import pytest
import torch
from torch.nn import functional as F

from avcontrast import FNACLoss, InfoNCE, functional
from avscenes.scenes.scene import make_scenes
from avscenes.testing.retrieval import Features
from avstudy import data, measures, opponents, training
from avstudy.plan import QUICK, read_plan

PLAN = read_plan(QUICK)
TINY = PLAN.settings["tiny"]


def run_of(method, stage="evaluation"):
    return next(run for run in PLAN.runs if (run.stage, run.method) == (stage, method))


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(0, "test", 24, TINY.design)


def loop_r_precision(similarity, correct):
    shares = []
    for query in range(len(similarity)):
        others = [item for item in range(len(similarity)) if item != query]
        right = {item for item in others if correct[query][item]}
        ranked = sorted(others, key=lambda item: (-similarity[query][item], item))
        if right:
            shares.append(len(right & set(ranked[: len(right)])) / len(right))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("ties", [False, True])
def test_r_precision_equals_the_loop(ties):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(13, 13, generator=generator)
    if ties:
        similarity = similarity.mul(4).round()
    correct = torch.rand(13, 13, generator=generator) < 0.3
    correct[5] = False
    expected = loop_r_precision(similarity.tolist(), correct.tolist())
    assert measures.r_precision(similarity, correct) == pytest.approx(expected, abs=1e-15)


def test_both_objects_of_an_image_count(scenes):
    right = measures.shown(scenes)
    for image in range(24):
        kinds = {scenes.labels[image].item(), scenes.silent_labels[image].item()}
        assert len(kinds) == 2
        assert right[image].tolist() == [label in kinds for label in scenes.labels.tolist()]


def perfect_features(scenes):
    """A dimension for each class; a quarter of each map shows one object, a quarter the other."""
    count, classes = len(scenes.labels), TINY.classes
    maps = torch.zeros(count, classes + 1, 2, 2)
    maps[:, classes] = 1
    for side, labels in enumerate((scenes.labels, scenes.silent_labels)):
        maps[:, classes, side, side] = 0
        maps[range(count), labels, side, side] = 1
    return Features(maps, F.one_hot(scenes.labels, classes + 1).float())


def test_perfect_features_find_every_class(scenes):
    found = measures.all_measures(perfect_features(scenes), scenes)
    assert found["retrieval"] == found["region_precision"] == 1
    assert found["class_r1"] < 1  # since the silent object does not count there
    assert found["audio_neighbour_purity"] == 1
    assert found["audio_adjacency_purity"] == pytest.approx(1, abs=1e-6)
    assert found["same_cosine"] == pytest.approx(1)
    assert found["different_cosine"] < 0.8


def test_maps_that_fall_off_around_the_box_find_every_object(scenes):
    size = scenes.images.shape[-1]
    centres = (torch.arange(size) + 0.5) / size
    maps = []
    for x0, y0, x1, y1 in scenes.boxes.float():
        beside = (x0 - centres).clamp(min=0) + (centres - x1).clamp(min=0)
        below = (y0 - centres).clamp(min=0) + (centres - y1).clamp(min=0)
        maps.append(1 - torch.maximum(beside[None], below[:, None]))
    value = torch.stack(maps)
    features = Features(
        torch.stack((value, (1 - value**2).sqrt()), dim=1), torch.eye(2)[:1].expand(24, -1)
    )
    found = measures.localisation(features, scenes)
    assert found["success_quarter"] == found["pointing"] == 1
    assert found["success_half"] < 1  # the ceiling of that threshold


def test_features_without_content_find_nothing(scenes):
    features = Features(torch.ones(24, 3, 4, 4), torch.ones(24, 3))
    found = measures.main_measures(features, scenes)
    assert found["success_quarter"] < 0.2
    assert 0.3 < found["retrieval"] < 0.7
    torch.testing.assert_close(
        measures.shown(scenes).double().mean().item(), 0.5, atol=0.05, rtol=0
    )


LABELS, SILENT = torch.tensor([0, 1, 0, 2, 2, 0]), torch.tensor([1, 2, 2, 0, 1, 1])


def test_the_oracle_is_infonce_without_the_false_negatives():
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(6, 5, 2, 2, generator=generator)
    audio = torch.randn(6, 5, generator=generator)
    ignore = training.left_out("same-class", LABELS, SILENT, generator)
    for image in range(6):
        for sound in range(6):
            same = image != sound and LABELS[image] == LABELS[sound]
            assert ignore[image, sound] == same
    oracle = training.criterion_of(PLAN.methods["oracle"])
    assert torch.equal(
        oracle(visual, audio, ignore=ignore), InfoNCE()(visual, audio, ignore=ignore)
    )
    assert oracle(visual, audio, ignore=ignore) < oracle(visual, audio)
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
    method = PLAN.methods["nce"]._replace(temperature=0.2, **options)
    assert repr(training.criterion_of(method)) == repr(FNACLoss(0.2, **options))


@pytest.fixture
def batch():
    """Three kinds, each of which matches itself about as well as its own pairs."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=generator)[[0, 1, 2, 0, 1, 2]]
    visual = centres[:, :, None, None] + 0.1 * torch.randn(6, 16, 2, 2, generator=generator)
    return visual, centres + 0.1 * torch.randn(6, 16, generator=generator)


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
    method = PLAN.methods["nce"]._replace(temperature=0.1, **changes)
    assert torch.equal(training.loss_of(method, *batch), expected(*batch))
    plain = training.loss_of(method, *batch, warm=False)
    torch.testing.assert_close(plain, InfoNCE(0.1)(*batch))
    assert not torch.isclose(plain, training.loss_of(method, *batch))


def test_the_debiased_contrast_has_no_warm_up(batch):
    method = PLAN.methods["nce"]._replace(temperature=0.5, contrast="debiased", class_prior=0.2)
    expected = opponents.debiased(*batch, 0.5, 0.2)
    for warm in (False, True):
        assert torch.equal(training.loss_of(method, *batch, warm=warm), expected)


def test_the_warm_up_lasts_its_share_of_the_epochs(tmp_path, monkeypatch):
    told = []
    loss_of = training.loss_of

    def recorded(*arguments, warm, **options):
        told.append(warm)
        return loss_of(*arguments, warm=warm, **options)

    monkeypatch.setattr(training, "loss_of", recorded)
    trained("nce", tmp_path)  # two epochs of four batches, of which half are the warm-up
    assert told == [False] * 4 + [True] * 4


def test_what_elimination_leaves_out_is_measured(scenes, monkeypatch):
    def perfect(encoders, some):
        """Both objects of an image match the sounds of their class."""
        both = torch.stack((some.labels, some.silent_labels), dim=1)
        return Features(
            F.one_hot(both, 4).float().movedim(1, -1)[:, :, None], F.one_hot(some.labels, 4).float()
        )

    monkeypatch.setattr(measures, "encode", perfect)
    run = run_of("nce")._replace(data=TINY._replace(batch_size=24))
    assert measures.elimination(run, None, scenes) == {}
    run = run._replace(loss=run.loss._replace(elimination="both"))
    same = (scenes.labels[:, None] == scenes.labels).sum().item() - 24
    right = measures.shown(scenes).sum().item() - 24
    assert measures.elimination(run, None, scenes) == pytest.approx(
        {
            "left_out": right / (24 * 23),
            "left_out_same_class": same / right,
            "left_out_shown": 1.0,
        }
    )
    alike = Features(torch.ones(24, 3, 1, 1), torch.ones(24, 3))
    monkeypatch.setattr(measures, "encode", lambda encoders, some: alike)
    assert measures.elimination(run, None, scenes) == {
        "left_out": 0.0,
        "left_out_same_class": None,
        "left_out_shown": None,
    }


def test_examples_of_what_is_left_out_are_the_best_matches(scenes, monkeypatch):
    def perfect(encoders, some):
        both = torch.stack((some.labels, some.silent_labels), dim=1)
        maps = F.one_hot(both, 4).float().movedim(1, -1)[:, :, None]
        maps[..., 1] *= 0.1  # what is silent is hardly there
        return Features(
            F.pad(maps, (0, 0, 0, 0, 0, 1), value=0.2), F.one_hot(some.labels, 5).float()
        )

    monkeypatch.setattr(measures, "encode", perfect)
    run = run_of("nce")._replace(data=TINY._replace(batch_size=24))
    assert measures.examples_left_out(run, None, scenes) == []
    run = run._replace(loss=run.loss._replace(elimination="both"))
    found = measures.examples_left_out(run, None, scenes)
    batch = training.batches(scenes.labels, run.data, run.seed, run.data.epochs)[0].tolist()
    assert list(dict.fromkeys(pair["image"] for pair in found)) == batch[: measures.PAIRED_IMAGES]
    for pair in found:
        assert pair["image"] != pair["sound"]
        assert pair["same_class"] == pair["shown"] == 1
        assert scenes.labels[pair["image"]] == scenes.labels[pair["sound"]]


def test_how_often_the_debiased_contrast_has_no_negatives_left(scenes, monkeypatch):
    labels = F.one_hot(scenes.labels, 4).float()
    features = Features(labels[:, :, None, None], labels)
    monkeypatch.setattr(measures, "encode", lambda encoders, some: Features(*features))
    run = run_of("nce")._replace(data=TINY._replace(batch_size=24))
    assert measures.floored(run, None, scenes) == {}
    for temperature, share in ((0.03, 1.0), (5.0, 0.0)):
        loss = run.loss._replace(contrast="debiased", class_prior=0.3, temperature=temperature)
        assert measures.floored(run._replace(loss=loss), None, scenes) == {"floored": share}


def test_heat_maps_are_kept_of_the_first_scenes():
    generator = torch.Generator().manual_seed(0)
    features = Features(
        torch.randn(20, 5, 3, 3, generator=generator), torch.randn(20, 5, generator=generator)
    )
    maps = functional.localization_map(*features)[: measures.MAPS].flatten(1)
    assert measures.heat_maps(features) == [[round(v, 4) for v in one] for one in maps.tolist()]


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


def test_the_memory_of_the_adjacency_terms_is_seen():
    generator = torch.Generator().manual_seed(0)
    features = Features(
        torch.randn(16, 8, 2, 2, generator=generator), torch.randn(16, 8, generator=generator)
    )
    plain, fnac = (
        measures.loss_megabytes(PLAN.methods[name], features, 256) for name in ("nce", "fnac")
    )
    assert 0.2 < plain < fnac


def trained(method, folder):
    run = run_of(method)
    scenes = data.scenes(folder, run.seed, "train", run.data.train_size, run.data.design)
    encoders = training.build(run, folder)
    assert list(training.train(run, encoders, scenes)) == [1, 2]
    return encoders


def test_a_run_depends_on_its_seed_alone(tmp_path):
    first = trained("fnac", tmp_path / "one")
    kept = trained("fnac", tmp_path / "one")
    torch.rand(7)
    anew = trained("fnac", tmp_path / "other")
    other = trained("nce", tmp_path / "one")
    for network in ("visual", "audio"):
        states = [getattr(one, network).state_dict() for one in (first, kept, anew, other)]
        for name, value in states[0].items():
            assert torch.equal(value, states[1][name])
            assert torch.equal(value, states[2][name])
        assert any(not torch.equal(value, states[3][name]) for name, value in states[0].items())


def test_what_is_kept_is_what_was_made(tmp_path):
    made = data.scenes(tmp_path, 0, "train", 6, TINY.design)
    kept = data.scenes(tmp_path, 0, "train", 6, TINY.design)
    for one, other, plain in zip(made, kept, make_scenes(0, "train", 6, TINY.design)):
        assert torch.equal(one, other)
        assert torch.equal(one, plain)
    assert len(list(tmp_path.iterdir())) == 1
    data.scenes(tmp_path, 0, "train", 6, PLAN.settings["other"].design)
    assert len(list(tmp_path.iterdir())) == 2
