import json
import zipfile

import evaluate
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from avcontrast.functional import localization_map
from avscenes.files.errors import UserError
from avscenes.models.encoders import ResNet18, build_encoders
from avscenes.models.weights import load_encoders, load_image_weights
from avscenes.training.settings import Settings
from avscenes.training.trained import load_trained

CPU = torch.device("cpu")


def network_shapes(channels):
    """Names and shapes of a ResNet-18 without classifier, as torchvision has them."""

    def norm(name, width):
        entries = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
        entries["num_batches_tracked"] = ()
        return {f"{name}.{key}": shape for key, shape in entries.items()}

    shapes = {"conv1.weight": (64, channels, 7, 7), **norm("bn1", 64)}
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in ("0", "1"):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            before = width
    return shapes


@pytest.fixture(scope="module")
def released():
    """A state dict with the names and shapes of the released FNAC and EZ-VSL code."""
    shapes = {f"imgnet.{name}": shape for name, shape in network_shapes(3).items()}
    shapes |= {f"audnet.{name}": shape for name, shape in network_shapes(1).items()}
    shapes |= {"img_proj.weight": (512, 512, 1, 1), "img_proj.bias": (512,)}
    shapes |= {"aud_proj.weight": (512, 512), "aud_proj.bias": (512,)}
    assert len(shapes) == 244
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(1_234)
        elif name.endswith("running_var") or (".bn" in name and name.endswith("weight")):
            value = value.abs() + 0.5
        elif len(shape) == 4:
            value /= (shape[1] * shape[2] * shape[3]) ** 0.5
        state[name] = value
    return state


def save(path, state, **more):
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 17, **more}, path)
    return path


def by_hand(state, part, x):
    """Run a ResNet-18 of the state dict with nothing but functions."""

    def norm(name, x):
        mean, variance, weight, bias = (
            state[f"{part}.{name}.{key}"]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = F.relu(norm("bn1", F.conv2d(x, state[f"{part}.conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{part}.{name}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(norm(f"{name}.bn1", y))
            y = norm(f"{name}.bn2", F.conv2d(y, state[f"{part}.{name}.conv2.weight"], padding=1))
            if stride == 2:
                x = F.conv2d(x, state[f"{part}.{name}.downsample.0.weight"], stride=2)
                x = norm(f"{name}.downsample.1", x)
            x = F.relu(x + y)
    return x


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_computes_what_its_weights_say(tmp_path, released, prefix):
    path = save(
        tmp_path / "best.pth",
        {f"{prefix}{name}": value for name, value in released.items()},
        best_cIoU=np.float64(0.4),
    )
    trained = load_trained(path, CPU)
    assert trained.epoch == 17
    assert trained.folder == tmp_path
    assert trained.settings == Settings(dataset="vggsound")
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 224, 224, generator=generator)
    sounds = torch.randn(2, 1, 257, 200, generator=generator)

    seen = by_hand(released, "imgnet", images)
    seen = F.conv2d(seen, released["img_proj.weight"], released["img_proj.bias"])
    heard = F.adaptive_max_pool2d(by_hand(released, "audnet", sounds), 1).flatten(1)
    heard = F.linear(heard, released["aud_proj.weight"], released["aud_proj.bias"])
    assert seen.shape == (2, 512, 7, 7)
    found = trained.visual(images), trained.audio(sounds)
    torch.testing.assert_close(found[0], seen, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], heard, rtol=1e-4, atol=1e-4)
    cosines = torch.einsum("bchw,bc->bhw", F.normalize(seen, dim=1), F.normalize(heard, dim=1))
    torch.testing.assert_close(localization_map(*found), cosines, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_released_checkpoint_is_evaluated_without_settings_beside_it(
    tmp_path, released, make_clip, capsys
):
    path = save(tmp_path / "best.pth", released)
    for clip in ("a", "b"):
        make_clip(tmp_path / "test", clip, size=(32, 32), seconds=1)
    (tmp_path / "test.csv").write_text("a\nb\n")
    entries = [{"file": c, "class": c, "bbox": [[0.1, 0.2, 0.7, 0.8]]} for c in "ab"]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    options = [
        *("--checkpoint", path, "--test-root", tmp_path / "test", "--workers", "0"),
        *("--test-list", tmp_path / "test.csv", "--annotations", tmp_path / "vggss.json"),
        *("--device", "cpu"),
    ]
    assert evaluate.main(list(map(str, options))) == 0, capsys.readouterr().err
    assert "(epoch 17), vggsound: 2 pairs" in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation-vggsound-ezvsl-test" / "metrics.json").read_text())
    assert results["test_samples"] == 2


def test_a_bare_state_dict_is_taken_too(tmp_path, released):
    torch.save(released, tmp_path / "weights.pth")
    trained = load_trained(tmp_path / "weights.pth", CPU)
    assert trained.epoch == 0
    assert torch.equal(trained.audio.projection.weight, released["aud_proj.weight"])


def test_scores_that_an_older_numpy_has_pickled_are_no_code(tmp_path, released):
    new = save(tmp_path / "new.pth", released, best_cIoU=np.float64(0.4), best_Auc=np.float64(0.3))
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy" in content
                content = content.replace(b"numpy._core", b"numpy.core")
            target.writestr(name, content)
    trained = load_trained(old, CPU)
    assert torch.equal(trained.visual.projection.bias, released["img_proj.bias"])


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, released):
    save(tmp_path / "best.pth", released, args=nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"^--checkpoint: cannot read .*: Weights only load"):
        load_trained(tmp_path / "best.pth", CPU)


def test_entries_that_do_not_fit_are_named(tmp_path, released):
    state = dict(released)
    for name in ("conv1.weight", "bn1.bias", "bn1.weight", "layer1.0.bn1.bias"):
        del state[f"audnet.{name}"]
    state["img_proj2.weight"] = state["imgnet.fc.weight"] = torch.zeros(1)
    state["aud_proj.weight"] = torch.zeros(128, 512)
    state["aud_proj.bias"] = 3
    path = save(tmp_path / "best.pth", state)
    with pytest.raises(UserError) as error:
        load_trained(path, CPU)
    assert str(error.value) == (
        f"--checkpoint: {path} is not the ResNet-18 pair of the released FNAC and EZ-VSL code: "
        "missing audnet.bn1.bias, audnet.bn1.weight, audnet.conv1.weight and 1 more; "
        "unknown img_proj2.weight, imgnet.fc.weight; "
        "of another shape aud_proj.bias, aud_proj.weight"
    )


def test_training_starts_from_a_released_checkpoint(tmp_path, released):
    path = save(tmp_path / "best.pth", released)
    visual, audio = build_encoders("resnet18", image_dropout=0.9)
    load_encoders(visual, audio, path, "--init-from")
    assert torch.equal(
        visual.trunk.layer4[1].conv2.weight, released["imgnet.layer4.1.conv2.weight"]
    )
    assert torch.equal(audio.trunk.bn1.running_var, released["audnet.bn1.running_var"])
    for kind, norm in (("small", "batch"), ("resnet18", "group")):
        with pytest.raises(UserError, match="needs --encoder resnet18 and --norm batch"):
            load_encoders(*build_encoders(kind, norm=norm), path, "--init-from")


def test_training_starts_from_a_checkpoint_of_ours(tmp_path):
    torch.manual_seed(0)
    visual, audio = build_encoders("small")
    state = {f"visual.{name}": value for name, value in visual.state_dict().items()}
    state |= {f"audio.{name}": value for name, value in audio.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**state, "criterion.temperature": torch.ones(())}}, path)
    others = build_encoders("small")
    load_encoders(*others, path, "--init-from")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(others[0].eval()(images), visual.eval()(images))
    with pytest.raises(UserError, match=r"^--init-from: .*last.ckpt is no checkpoint of these enc"):
        load_encoders(*build_encoders("resnet18"), path, "--init-from")
    torch.save({"something": "else"}, path)
    with pytest.raises(UserError, match="is no checkpoint of these encoders: missing audio"):
        load_encoders(*others, path, "--init-from")
    with pytest.raises(UserError, match=r"^--init-from: cannot read .*none: No such file"):
        load_encoders(*others, tmp_path / "none", "--init-from")


def test_errors_name_the_option_under_which_image_weights_were_given(tmp_path):
    with pytest.raises(UserError, match=r"^--object-weights: cannot read .*none.pth: No such"):
        load_image_weights(ResNet18(), tmp_path / "none.pth", "--object-weights")
    (tmp_path / "text.pth").write_text("epochs = 3")
    with pytest.raises(UserError, match=r"cannot read .*text.pth: it is no file of PyTorch$"):
        load_image_weights(ResNet18(), tmp_path / "text.pth")


def test_the_pair_starts_as_published():
    torch.manual_seed(0)
    visual, audio = build_encoders("resnet18", image_dropout=0.9)
    assert visual.dropout.p == 0.9
    for net in (visual.trunk, audio.trunk):
        weight = net.layer4[0].conv1.weight
        expected = (2 / (weight.shape[0] * 9)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert visual.projection.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert audio.projection.weight.std().item() == pytest.approx(0.01, rel=0.02)
    # The image network is left to the ImageNet weights; the rest has scales near 1.
    scales = [
        torch.cat([part.weight for part in net.modules() if isinstance(part, nn.BatchNorm2d)])
        for net in (visual.trunk, audio.trunk)
    ]
    assert torch.equal(scales[0], torch.ones_like(scales[0]))
    assert scales[1].mean().item() == pytest.approx(1, abs=0.002)
    assert scales[1].std().item() == pytest.approx(0.02, rel=0.1)
