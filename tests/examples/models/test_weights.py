import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile

import evaluate
import numpy as np
import pytest
import torch
import train_fnac
from model_files import encoder_state, resnet18_shapes
from script_runs import run_script
from torch import nn
from torch.nn import functional as F

from avcontrast.functional import localization_map
from avscenes.files.errors import UserError
from avscenes.models.encoders import ResNet18, build_encoders
from avscenes.models.weights import load_encoders, load_image_weights, read_weights
from avscenes.training.settings import Settings
from avscenes.training.trained import load_trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def released():
    """A state dict with the names and shapes of the released FNAC and EZ-VSL code."""
    shapes = {f"imgnet.{name}": shape for name, shape in resnet18_shapes(3).items()}
    shapes |= {f"audnet.{name}": shape for name, shape in resnet18_shapes(1).items()}
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
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
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
    tmp_path, released, make_vggsound, capsys
):
    path = save(tmp_path / "best.pth", released)
    data = make_vggsound(test=2, size=(32, 32), seconds=1)
    options = ["--checkpoint", path, *data, "--workers", 0, "--device", "cpu"]
    assert run_script(evaluate, *options) == 0, capsys.readouterr().err
    assert "(epoch 17), vggsound: 2 pairs" in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation-vggsound-ezvsl-test" / "metrics.json").read_text())
    assert results["test_samples"] == 2


def test_a_bare_state_dict_is_taken_too(tmp_path, released):
    torch.save(released, tmp_path / "weights.pth")
    trained = load_trained(tmp_path / "weights.pth", CPU)
    assert trained.epoch == 0
    assert torch.equal(trained.audio.projection.weight, released["aud_proj.weight"])


def pickled_by_numpy_1(path):
    """Rewrite a file of PyTorch as one with NumPy 1 would be."""
    with zipfile.ZipFile(path) as source:
        content = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in content.items():
            if name.endswith("data.pkl"):
                assert b"numpy._core" in data
                data = data.replace(b"numpy._core", b"numpy.core")
            target.writestr(name, data)


def test_scores_that_an_older_numpy_has_pickled_are_no_code(tmp_path, released):
    scores = {"best_cIoU": np.float64(0.4), "best_Auc": np.float64(0.3)}
    path = save(tmp_path / "best.pth", released, **scores)
    pickled_by_numpy_1(path)
    trained = load_trained(path, CPU)
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
    state = encoder_state(visual, audio) | {"criterion.temperature": torch.ones(())}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state}, path)
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


RECORD = np.dtype([("epoch", "<i4"), ("scores", ">f8", (2,)), ("name", "U5")])
VALUES = [
    *(np.ones(2).astype(kind)[0] for kind in "?bBhHiIlLqQefdgFDG"),
    *(np.str_("best"), np.str_(""), np.bytes_(b"best"), np.bytes_(b"")),
    *(np.datetime64("2024-02-29"), np.datetime64("2024-02-29T12", "25s"), np.timedelta64(7, "h")),
    *(np.arange(6).reshape(2, 3).astype(kind) for kind in ("?", ">i2", "<f2", "f4", "c16", "U3")),
    *(np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3)), np.array(3.0)),
    *(np.array(["2024-01", "2025-02"], "M8[M]"), np.zeros(2, "V3")),
    *(np.array([(3, (0.5, 1), "abc")], RECORD), np.array([(3, (0.5, 1), "abc")], RECORD)[0]),
    np.array(["a", None, [1, 2.5]], object),
]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value.dtype}-{np.ndim(value)}")
def test_numbers_and_arrays_of_numpy_are_read(tmp_path, value, old):
    torch.save({"state_dict": {}, "best": value, "all": [value, 1.0]}, tmp_path / "best.pth")
    if old:
        pickled_by_numpy_1(tmp_path / "best.pth")
    content = read_weights("--checkpoint", tmp_path / "best.pth")
    for found in (content["best"], content["all"][0]):
        assert found.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        assert isinstance(found, np.ndarray) == isinstance(value, np.ndarray)
        assert found.shape == value.shape
        assert np.array_equal(found, value)


def test_flags_of_a_kind_of_numbers_are_not_taken_from_a_file(tmp_path):
    class Forged:
        def __reduce__(self):
            state = (3, "|", None, None, None, -1, -1, 0)
            kind = np.dtype("O8", False, True)
            kind.__setstate__(state)
            return scalar, (kind, bytes(range(8)))

    scalar = np.float64(1).__reduce__()[0]
    torch.save({"best": Forged()}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="cannot read"):
        read_weights("--checkpoint", tmp_path / "best.pth")


def archive(kind):
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("notes.txt", "anything")
    elif kind == "npz":
        np.savez(content, a=np.zeros(3))
    elif kind == "npy":
        np.save(content, np.zeros(3))
    elif kind == "tar":
        with tarfile.open(fileobj=content, mode="w") as file:
            file.addfile(tarfile.TarInfo("notes.txt"))
    elif kind == "script":
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("net/data.pkl", b"\x80\x02N.")
            file.writestr("net/constants.pkl", b"\x80\x02N.")
    else:
        new = kind == "torch"
        torch.save({"a": torch.zeros(100)}, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
OTHER_FILES = {
    "html": (b"<!DOCTYPE html>\n<html><title>weights_only</title></html>", "an HTML page, such as"),
    "html-2": (b"\xef\xbb\xbf\n  <HTML lang=en>", "an HTML page, such as"),
    "html-3": (b"<!-- \xc3\xa9 -->\n<html>", "an HTML page, such as"),
    "html-4": ("<!doctype html>".encode("utf-16"), "an HTML page, such as"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML file"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n",
        "a pointer of Git LFS; `git lfs pull` fetches the file itself",
    ),
    "annex": (
        b"../.git/annex/objects/x/y/SHA256E-s3--4d7a.pth\n",
        "a pointer of git-annex; `git an",
    ),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(5_000), "a file of zeros, such as an unfinished download"),
    "json": (b' {"message": "Not Found"}\n', "a JSON file"),
    "json-2": (b"[1, 2]", "a JSON file"),
    "text": (b"no such file", "no file of PyTorch"),
    "brace": (b"{no json", "no file of PyTorch"),
    "noise": (bytes(range(16, 128)), "no file of PyTorch"),
    "gzip": (gzip.compress(b"anything"), "a gzip archive, which has to be unpacked"),
    "zip": (archive("zip"), "a zip archive of something else (first notes.txt)"),
    "npz": (archive("npz"), "an archive of NumPy arrays"),
    "npy": (archive("npy"), "a NumPy array"),
    "tar": (archive("tar"), "a tar archive of something else (first notes.txt)"),
    "safetensors": (
        len(HEADER).to_bytes(8, "little") + HEADER + bytes(4),
        "a safetensors file, whi",
    ),
    "pickle": (pickle.dumps({"a": 1}), "a pickle that torch.save has not made"),
    "script": (archive("script"), "a TorchScript program, not a state dict"),
    "png": (b"\x89PNG\r\n\x1a\n", "an image"),
    "cut": (archive("torch")[:700], "a file that was cut short: its end is missing"),
    "cut-2": (archive("torch")[:-30], "a file that was cut short: its end is missing"),
    **{f"old-{n}": (archive("old")[:n], "a file that was cut short") for n in (3, 60, 200, -50)},
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_another_kind_is_named_for_what_it_is(tmp_path, name):
    content, kind = OTHER_FILES[name]
    path = tmp_path / "resnet18.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_image_weights(ResNet18(), path)
    assert str(caught.value).startswith(f"--image-weights: cannot read {path}: it is {kind}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("begin", "wrapped"),
    [
        ("", "_orig_mod."),
        ("", "module._orig_mod."),
        ("", "_orig_mod.module."),
        ("visual.", "visual._orig_mod."),
        ("visual.", "visual.module._orig_mod."),
    ],
)
def test_what_compilation_and_several_devices_put_into_names_does_not_matter(
    tmp_path, begin, wrapped
):
    visual, audio = build_encoders("small")
    state = {
        re.sub(f"^{begin}", wrapped, name): value
        for name, value in encoder_state(visual, audio).items()
    }
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    others = build_encoders("small")
    assert load_encoders(*others, tmp_path / "last.ckpt", "--init-from") == []
    for found, expected in zip(others, (visual, audio), strict=True):
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_image_weights_may_be_compiled_and_wrapped(tmp_path):
    expected, trunk = ResNet18(), ResNet18()
    state = {f"module._orig_mod.{name}": value for name, value in expected.state_dict().items()}
    torch.save(
        {"state_dict": {**state, "module._orig_mod.fc.bias": torch.zeros(3)}}, tmp_path / "w"
    )
    load_image_weights(trunk, tmp_path / "w")
    assert torch.equal(trunk.conv1.weight, expected.conv1.weight)


def test_names_that_would_become_one_are_left_alone(tmp_path, released):
    state = {**released, "module.aud_proj.bias": torch.zeros(512)}
    torch.save({"model": state}, tmp_path / "best.pth")
    with pytest.raises(UserError, match=r": unknown module\.aud_proj\.bias$"):
        load_trained(tmp_path / "best.pth", CPU)


@pytest.mark.parametrize("kept", [0, 1])
def test_one_encoder_can_be_taken_from_a_checkpoint(tmp_path, kept):
    pair = build_encoders("small")
    kind = ("visual", "audio")[kept]
    state = {k: v for k, v in encoder_state(*pair).items() if k.startswith(kind)}
    torch.save(state, tmp_path / "one.pth")
    others = build_encoders("small")
    before = {name: value.clone() for name, value in others[1 - kept].state_dict().items()}
    without = load_encoders(*others, tmp_path / "one.pth", "--init-from")
    assert without == [("audio encoder", "image encoder")[kept]]
    torch.testing.assert_close(others[kept].state_dict(), pair[kept].state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(others[1 - kept].state_dict(), before, rtol=0, atol=0)
    # Half of an encoder is not taken.
    del state[f"{kind}.projection.bias"]
    torch.save(state, tmp_path / "one.pth")
    with pytest.raises(UserError, match=rf"of these encoders: missing {kind}\.projection\.bias$"):
        load_encoders(*others, tmp_path / "one.pth", "--init-from")


def test_one_encoder_can_be_taken_from_a_released_checkpoint(tmp_path, released):
    state = {name: value for name, value in released.items() if name.startswith("aud")}
    path = save(tmp_path / "best.pth", state)
    visual, audio = build_encoders("resnet18")
    assert load_encoders(visual, audio, path, "--init-from") == ["image encoder"]
    assert torch.equal(audio.projection.weight, released["aud_proj.weight"])
    # An evaluation needs both.
    with pytest.raises(
        UserError, match=r"missing img_proj\.bias, img_proj\.weight, imgnet\.bn1\.bia"
    ):
        load_trained(path, CPU)


def test_weights_that_are_no_tensors_are_named(tmp_path):
    state = encoder_state(*build_encoders("small"))
    state["audio.projection.bias"] = state["audio.projection.bias"].numpy()
    torch.save(state, tmp_path / "one.pth")
    with pytest.raises(UserError, match=r"of another shape audio\.projection\.bias$"):
        load_encoders(*build_encoders("small"), tmp_path / "one.pth", "--init-from")


def test_a_training_says_which_encoder_it_did_not_find(tmp_path, capsys):
    state = encoder_state(*build_encoders("small"))
    path = tmp_path / "image.pth"
    torch.save({k: v for k, v in state.items() if k.startswith("visual.")}, path)
    settings = Settings(init_from=path)
    module = train_fnac.build_module(settings)
    assert torch.equal(module.visual.projection.bias, state["visual.projection.bias"])
    said = f"note: --init-from {path} has no audio encoder, which starts anew\n"
    assert capsys.readouterr().out == said


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
