import pytest
import torch
from model_files import resnet18_shapes

from avscenes.files.errors import UserError
from avscenes.models.encoders import ResNet18, build_encoders
from avscenes.models.warm_start import ObjectHead, warm_start
from avscenes.models.weights import load_image_weights
from avscenes.scenes.drawing import SHAPES
from avscenes.scenes.scene import make_objects


def test_resnet18_has_the_names_and_shapes_of_torchvision():
    shapes = resnet18_shapes(3)
    # What torchvision's state dict counts with the two of the classifier, 11,689,512 parameters.
    assert len(shapes) == 122 - 2
    ours = {name: tuple(value.shape) for name, value in ResNet18().state_dict().items()}
    assert ours == shapes
    parameters = sum(parameter.numel() for parameter in ResNet18().parameters())
    assert parameters + 1000 * 512 + 1000 == 11_689_512


def test_image_weights_load_and_the_classifier_is_left_out(tmp_path):
    path = tmp_path / "resnet18.pth"
    shapes = resnet18_shapes(3) | {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    state = {
        name: torch.full(shape, 7) if not shape else torch.rand(shape)
        for name, shape in shapes.items()
    }
    torch.save(state, path)
    trunk = ResNet18()
    load_image_weights(trunk, path)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    state = ResNet18().state_dict()
    del state["layer3.0.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"torchvision's names: missing layer3.0.conv1.weight$"):
        load_image_weights(ResNet18(), path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no state dict but a list"):
        load_image_weights(ResNet18(), path)
    with pytest.raises(UserError, match="--image-weights: cannot read"):
        load_image_weights(ResNet18(), tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("kind", "side", "spectrogram", "dim", "map_side"),
    [("small", 64, (64, 64), 128, 8), ("resnet18", 224, (257, 200), 512, 7)],
)
def test_encoders_give_maps_and_vectors(kind, side, spectrogram, dim, map_side):
    visual, audio = build_encoders(kind)
    visual.eval()
    audio.eval()
    with torch.no_grad():
        assert visual(torch.randn(2, 3, side, side)).shape == (2, dim, map_side, map_side)
        assert audio(torch.randn(2, 1, *spectrogram)).shape == (2, dim)


@pytest.mark.parametrize(
    ("kind", "side", "spectrogram", "stride", "dim", "map_side"),
    [("small", 64, (64, 64), 16, 64, 4), ("resnet18", 224, (257, 200), 16, 512, 14)],
)
def test_maps_may_be_finer_or_coarser_and_features_unprojected(
    kind, side, spectrogram, stride, dim, map_side
):
    visual, audio = build_encoders(kind, map_stride=stride, projected=False)
    visual.eval()
    audio.eval()
    images, sounds = torch.randn(2, 3, side, side), torch.randn(2, 1, *spectrogram)
    with torch.no_grad():
        features, vectors = visual(images), audio(sounds)
        assert features.shape == (2, dim, map_side, map_side)
        assert torch.equal(features, visual.trunk(images))
        assert torch.equal(vectors, audio.trunk(sounds).amax((2, 3)))
    assert (visual.dim, vectors.shape[1]) == (dim, dim)


def test_a_finer_map_has_the_same_weights_and_its_sound_network_the_same_last_stage():
    coarse, fine = build_encoders("resnet18"), build_encoders("resnet18", map_stride=16)
    for one, other in zip(coarse, fine):
        shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (one, other)]
        assert shapes[0] == shapes[1]
    assert fine[1].trunk(torch.randn(2, 1, 257, 200)).shape == (2, 512, 17, 13)


def test_image_dropout_acts_in_training_only():
    visual, _ = build_encoders("small", image_dropout=0.9)
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal(visual(images), visual(images))
    visual.eval()
    assert torch.equal(visual(images), visual(images))


def test_warm_start_teaches_the_trunk_and_depends_on_the_seed_alone():
    objects = make_objects(0, 128)

    def run(epochs):
        torch.manual_seed(0)
        trunk = build_encoders("small")[0].trunk
        torch.manual_seed(1)
        return warm_start(trunk, objects, epochs=epochs, seed=0), trunk

    start, _ = run(1)
    end, trunk = run(5)
    assert end < start - 0.3
    again, same = run(5)
    assert again == end
    assert all(torch.equal(a, b) for a, b in zip(trunk.parameters(), same.parameters()))


def test_object_head_reads_the_hue_as_an_angle():
    head = ObjectHead(4)
    assert head.shape.out_features == len(SHAPES)
    features = torch.randn(3, 4, 2, 2)
    answers = [
        head.loss(
            features, torch.zeros(3, dtype=int), torch.ones(3, dtype=int), torch.full((3,), h)
        )
        for h in (0.0, 1.0)
    ]
    torch.testing.assert_close(*answers)
