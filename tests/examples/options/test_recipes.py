import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import train_fnac
from script_runs import run_script

import avscenes.sets.clips
from avscenes.files.errors import UserError
from avscenes.options import recipes
from avscenes.options.training import build_parser, parse
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.neighbour_lists import write_neighbours
from avscenes.sets.sampling import generator_for
from avscenes.training.settings import Settings

FILES = [
    *("--data-root", "a", "--train-list", "b", "--test-root", "c"),
    *("--test-list", "d", "--annotations", "e"),
]
FNAC = {
    "loss": "fnac",
    "temperature": 0.03,
    "adjacency_reduction": "mean",
    "fns_audio_weight": 100.0,
    "fns_visual_weight": 100.0,
    "tne_weight": 100.0,
    "threshold": 0.6,
    "anchor": "audio",
    "warmup_epochs": 3,
    "transform": "fnac",
    "encoder": "resnet18",
    "norm": "batch",
    "image_dropout": 0.9,
    "epochs": 30,
    "batch_size": 256,
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "schedule": "constant",
}
RELEASED = FNAC | {"anchor": "visual", "warmup_epochs": 5, "transform": "fnac-released"}
EZVSL = FNAC | {
    "loss": "nce",
    "adjacency_reduction": "batchmean",
    **dict.fromkeys(("fns_audio_weight", "fns_visual_weight", "tne_weight"), 100 / 256),
    "anchor": "visual",
    "warmup_epochs": 0,
    "transform": "ez-vsl",
    "image_dropout": 0.0,
    "epochs": 20,
    "batch_size": 128,
    "weight_decay": 0.0,
}
LVS = {
    "loss": "lvs",
    "tri_map_form": "code",
    "temperature": 0.07,
    "transform": "ez-vsl",
    "encoder": "resnet18",
    "map_stride": 16,
    "projection": "none",
    "norm": "batch",
    "image_dropout": 0.0,
    "epochs": 20,
    "batch_size": 256,
    "lr": 1e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
}
ALIGNMENT = {
    **{name: value for name, value in LVS.items() if name != "tri_map_form"},
    "loss": "alignment",
    "transform": "alignment",
    "epochs": 50,
}
SHIPPED = {
    **{f"fnac-{data}": FNAC for data in ("vggsound-10k", "vggsound-144k", "vggsound-heard")},
    **{f"fnac-flickr-{size}": FNAC for size in ("10k", "144k")},
    **{
        f"fnac-{data}-released": RELEASED
        for data in ("vggsound-10k", "vggsound-144k", "vggsound-heard", "flickr-10k", "flickr-144k")
    },
    **{f"ezvsl-{data}": EZVSL for data in ("vggsound-144k", "vggsound-heard", "flickr-144k")},
    **{f"ezvsl-{data}": EZVSL | {"epochs": 100} for data in ("vggsound-10k", "flickr-10k")},
    "lvs-vggsound-144k": LVS,
    **{f"alignment-{data}-144k": ALIGNMENT for data in ("vggsound", "flickr")},
}


def read(tmp_path, text, name="own.toml"):
    (tmp_path / name).write_text(text)
    return parse(["--recipe", str(tmp_path / name)])


def store(folder, settings):
    content = {"settings": settings.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(content))


def test_the_shipped_recipes_are_those_that_are_known_here():
    assert recipes.shipped() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_sets_what_was_published(name):
    files = dict(zip(["data_root", "train_list", "test_root", "test_list", "annotations"], "abcde"))
    dataset = "flickr" if "flickr" in name else "vggsound"
    settings = parse(["--recipe", name, *FILES])
    # Everything else has the default of its dataset.
    assert settings == Settings(recipe=name, dataset=dataset, **SHIPPED[name], **files)
    assert settings.output_dir == Path(f"runs/{name}-seed0")


def test_every_setting_of_a_recipe_has_a_comment_on_its_origin():
    for name in (
        *("fnac-vggsound-144k", "fnac-vggsound-144k-released", "ezvsl-vggsound-144k"),
        *("lvs-vggsound-144k", "alignment-vggsound-144k"),
    ):
        lines = (recipes.FOLDER / f"{name}.toml").read_text().splitlines()
        assert lines[0].startswith("# ")
        settings = [line for line in lines if "=" in line and not line.startswith("#")]
        bare = [line for line in settings if "  # " not in line]
        assert all(line.startswith(("dataset", "loss", "extends")) for line in bare), bare


def test_the_command_line_overrides_a_recipe():
    settings = parse(
        ["--recipe", "fnac-vggsound-10k", *FILES, "--loss", "nce", "--batch-size", "64"]
    )
    assert (settings.loss, settings.batch_size, settings.warmup_epochs) == ("nce", 64, 3)


def test_a_recipe_of_ones_own(tmp_path):
    settings = read(
        tmp_path, 'loss = "tne"\nlr = 1e-2\nepochs = 3\ncompile = true\nallow-overlap = false\n'
    )
    assert (settings.loss, settings.lr, settings.epochs, settings.compile) == ("tne", 1e-2, 3, True)
    assert (settings.dataset, settings.warmup_epochs) == ("synthetic", 10)
    assert settings.recipe == str(tmp_path / "own.toml")
    assert settings.output_dir == Path("runs/own-seed0")


def test_a_recipe_extends_a_shipped_one_or_a_file_beside_it(tmp_path):
    (tmp_path / "base.toml").write_text('extends = "ezvsl-flickr-10k"\nlr = 0.5\nseed = 3\n')
    (tmp_path / "own.toml").write_text('extends = "base.toml"\nseed = 4\n')
    settings = parse(["--recipe", str(tmp_path / "own.toml"), *FILES])
    assert (settings.dataset, settings.epochs, settings.lr, settings.seed) == (
        "flickr",
        100,
        0.5,
        4,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate = 3", "unknown key 'rate'; keys are options without the dashes"),
        ("batch_size = 3", "unknown key 'batch_size'"),
        ('recipe = "fnac-flickr-10k"', "unknown key 'recipe'"),
        ('output-dir = "x"', "unknown key 'output-dir'"),
        ("resume = true", "unknown key 'resume'"),
        ("epochs = 0", "epochs: must be a whole number of at least 1, got 0"),
        ("epochs = 2.5", "epochs: must be a whole number of at least 1, got 2.5"),
        ('epochs = "24"', "epochs: must be a whole number of at least 1, got '24'"),
        ("batch-size = true", "batch-size: must be a whole number of at least 1, got True"),
        ("temperature = nan", "temperature: must be a number above 0, got nan"),
        ("weight-decay = inf", "weight-decay: must be a number of at least 0, got inf"),
        ('lr = "fast"', "lr: must be a number above 0, got 'fast'"),
        (
            'loss = "clip"',
            "loss: must be 'nce', 'fns-audio', 'fns-visual', 'fns', 'tne', 'fnac', 'elimination', ",
        ),
        (
            'transform = "lvs"',
            "transform: must be 'fnac', 'fnac-released', 'ez-vsl', 'slavc' or 'alignment'",
        ),
        ("lr = [1]", "lr: must be a number above 0, got [1]"),
        ("lr = true", "lr: must be a number above 0, got True"),
        ("image-weights = 3", "image-weights: must be a path, got 3"),
        ("[loss]\nname = 3", "loss: must be 'nce', "),
        ("compile = 1", "compile: must be true or false, got 1"),
        ("extends = 3", "extends: there is no recipe or file 3"),
        ('extends = "none"', "extends: there is no recipe or file 'none'; --help lists"),
        ('extends = "own.toml"', "extends: leads back to this file"),
    ],
)
def test_a_wrong_recipe_is_one_line_with_file_and_key(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"--recipe: {tmp_path}/own.toml: {message}")
    assert "\n" not in str(error.value)


def test_a_fault_in_an_extended_file_names_that_file(tmp_path):
    (tmp_path / "base.toml").write_text("epochs = -1")
    with pytest.raises(UserError, match=rf"--recipe: {tmp_path}/base.toml: epochs: must be"):
        read(tmp_path, 'extends = "base.toml"')


@pytest.mark.parametrize("content", [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2"])
def test_files_that_are_no_toml(tmp_path, content):
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(UserError, match=rf"^--recipe: cannot read {tmp_path}/own.toml: .+$"):
        parse(["--recipe", str(tmp_path / "own.toml")])


def test_a_recipe_that_is_not_there():
    with pytest.raises(UserError, match=r"^--recipe: there is no recipe or file 'lvs'; --help"):
        parse(["--recipe", "lvs"])


def test_the_help_lists_the_recipes():
    listed = build_parser().format_help().partition("\nrecipes:\n")[2]
    assert [line.strip() for line in listed.splitlines()] == recipes.shipped()


def test_a_recipe_of_clips_does_not_go_with_scenes():
    with pytest.raises(UserError, match="--transform needs --dataset vggsound, flickr or clips"):
        parse(["--recipe", "fnac-vggsound-10k", "--dataset", "synthetic"])
    with pytest.raises(UserError, match="--dataset flickr needs --data-root"):
        parse(["--recipe", "fnac-flickr-10k"])


def test_a_resumed_run_keeps_its_recipe(tmp_path):
    first = parse(["--recipe", "ezvsl-vggsound-10k", *FILES, "--output-dir", str(tmp_path)])
    store(tmp_path, first)
    resume = ["--resume", "--output-dir", str(tmp_path)]
    assert parse(resume) == first.model_copy(update={"resume": True})
    assert parse([*resume, "--recipe", "ezvsl-vggsound-10k"]).epochs == 100
    with pytest.raises(UserError, match="--recipe is fnac-vggsound-10k but the run was started"):
        parse([*resume, "--recipe", "fnac-vggsound-10k"])
    with pytest.raises(UserError, match=r"--lr is 0\.1 but the run was started with 0\.0001"):
        parse([*resume, "--lr", "0.1"])


def test_a_resumed_run_gets_longer_where_its_learning_rate_allows(tmp_path):
    resume = ["--resume", "--output-dir", str(tmp_path), "--epochs"]
    store(tmp_path, parse(["--output-dir", str(tmp_path)]))
    message = (
        r"^--epochs is 60 but the run was started with 40, and with --schedule one-cycle the "
        r"learning rate of every step depends on it; leave the option out, or start a new run in"
    )
    with pytest.raises(UserError, match=message):
        parse([*resume, "60"])
    store(tmp_path, parse(["--schedule", "constant", "--output-dir", str(tmp_path)]))
    assert parse([*resume, "1"]).epochs == 1
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({"epoch": 29, "state_dict": {}}, last)
    assert [parse([*resume, more]).epochs for more in ("30", "40", "60")] == [30, 40, 60]
    with pytest.raises(UserError, match=r"^--epochs is 29 but the run has done 30 already; name"):
        parse([*resume, "29"])
    # What is lost is trained again.
    torch.save({"epoch": 19, "state_dict": {}}, last.with_name("best.ckpt"))
    last.write_bytes(b"")
    assert parse([*resume, "29"]).epochs == 29
    with pytest.raises(UserError, match=r"^--epochs is 19 but the run has done 20 already; name"):
        parse([*resume, "19"])


def test_the_anchor_reaches_the_loss():
    options = ["--recipe", "fnac-vggsound-10k", *FILES, "--encoder", "small"]
    assert train_fnac.build_module(parse(options)).criterion.anchor == "audio"
    assert train_fnac.build_module(parse([*options, "--anchor", "visual"])).criterion.anchor == (
        "visual"
    )


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ([], (0.78125, 0.78125, 0.78125)),
        (["--adjacency-reduction", "mean"], (100, 100, 100)),
        (["--loss", "nce"], (0, 0, 0)),
        (["--loss", "fns", "--fns-audio-weight", "5"], (5, 0.78125, 0)),
        (["--loss", "tne", "--tne-weight", "0"], (0, 0, 0)),
    ],
)
def test_the_weights_reach_the_loss(options, weights):
    criterion = train_fnac.build_module(parse(options)).criterion
    assert weights == (
        criterion.fns_audio_weight,
        criterion.fns_visual_weight,
        criterion.tne_weight,
    )
    mean = "--adjacency-reduction" in options
    assert criterion.adjacency_reduction == ("mean" if mean else "batchmean")


@pytest.mark.parametrize("data", ["synthetic", "vggsound"])
def test_the_default_weights_are_the_published_ones_at_the_default_batch(data):
    settings = Settings(dataset=data)
    published = Settings(dataset=data, adjacency_reduction="mean")
    assert settings.fns_audio_weight * settings.batch_size == published.fns_audio_weight == 100


def test_a_recipe_without_image_weights_says_so(capsys):
    options = ["--recipe", "fnac-vggsound-10k", *FILES]
    train_fnac.describe_recipe(parse(options))
    note = "note: published runs start from ImageNet weights (--image-weights); this one starts"
    assert note in capsys.readouterr().out
    for more in ("--image-weights", "--init-from"):
        train_fnac.describe_recipe(parse([*options, more, "weights.pth"]))
    assert note not in capsys.readouterr().out


def test_a_recipe_that_starts_from_no_image_weights_says_nothing_of_them(capsys):
    for name, notes in (("lvs-vggsound-144k", []), ("alignment-flickr-144k", ["neighbours"])):
        train_fnac.describe_recipe(parse(["--recipe", name, *FILES]))
        *found, recipe = capsys.readouterr().out.splitlines()
        assert recipe == f"recipe {name}"
        assert len(found) == len(notes)
        assert all(note in line for note, line in zip(notes, found))


def test_a_recipe_for_another_loss_than_the_one_asked_for_keeps_its_own_options():
    settings = parse(["--recipe", "fnac-vggsound-10k", *FILES, "--loss", "lvs"])
    assert (settings.loss, settings.temperature, settings.map_stride) == ("lvs", 0.03, 16)


def test_a_recipe_with_an_option_that_its_loss_does_not_take_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^--loss lvs takes no --tne-weight$"):
        read(tmp_path, 'loss = "lvs"\ntne-weight = 3')


@pytest.fixture
def clips(tmp_path, make_vggsound):
    """A small VGG-Sound, as options."""
    return [
        *make_vggsound(train=8, test=3, size=(48, 32), seconds=1),
        *("--accelerator", "cpu", "--encoder", "small", "--batch-size", 2, "--epochs", 1),
        *("--validation-size", 2, "--workers", 0, "--output-dir", tmp_path / "run"),
    ]


def stored_settings(folder):
    return json.loads((folder / "config.json").read_text())["settings"]


@pytest.mark.slow
def test_a_run_with_a_recipe_trains_as_it_says_and_stores_it(tmp_path, clips, capsys, monkeypatch):
    augment = Mock(wraps=avscenes.sets.clips.spec_augment)
    monkeypatch.setattr(avscenes.sets.clips, "spec_augment", augment)
    recipe = ["--recipe", "fnac-vggsound-10k-released"]
    assert run_script(train_fnac, *clips, *recipe) == 0, capsys.readouterr().err
    assert "recipe fnac-vggsound-10k-released\n" in capsys.readouterr().out
    masked = [call.kwargs for call in augment.call_args_list]
    assert masked == [{"widest": 9, "legacy": True}] * 6
    settings = stored_settings(tmp_path / "run")
    expected = RELEASED | {"batch_size": 2, "encoder": "small", "epochs": 1}
    assert {name: settings[name] for name in expected} == expected
    assert settings["recipe"] == "fnac-vggsound-10k-released"
    assert (tmp_path / "run" / "metrics.json").is_file()

    resume = ["--resume", "--output-dir", tmp_path / "run"]
    assert run_script(train_fnac, *resume) == 0
    assert run_script(train_fnac, *resume, "--recipe", "fnac-vggsound-10k") == 2
    assert "--recipe is fnac-vggsound-10k but the run was started" in capsys.readouterr().err


@pytest.mark.slow
def test_alignment_trains_on_clips_with_views_of_their_neighbours(tmp_path, clips, capsys):
    order = torch.randperm(8, generator=generator_for(DATA_SEED)).tolist()
    trained = [f"train{clip}" for clip in order[2:]]  # but for those that are held out
    near = torch.tensor([[(row + 1) % 6, (row + 2) % 6] for row in range(6)])
    write_neighbours(tmp_path / "near.npz", trained, near, near.flip(1))
    options = ["--recipe", "alignment-vggsound-144k", "--neighbours", tmp_path / "near.npz"]
    assert run_script(train_fnac, *clips, *options) == 0, capsys.readouterr().err
    settings = stored_settings(tmp_path / "run")
    assert (settings["transform"], settings["map_stride"]) == ("alignment", 16)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert {"train_alignment", "train_localization"} <= {*header.split(",")}


@pytest.mark.slow
def test_flickr_is_trained_and_tested_on_its_own_layout(tmp_path, clips, capsys):
    for split in ("train", "test"):
        root = tmp_path / split
        for path in [*root.glob("frames/*"), *root.glob("audio/*")]:
            path.rename(root / path.name)
        (root / "frames").rmdir()
        (root / "audio").rmdir()
    (tmp_path / "xml").mkdir()
    box = "<bbox><who>1</who><a>20</a><b>30</b><c>200</c><d>180</d></bbox>"
    for clip in range(3):
        (tmp_path / "xml" / f"test{clip}.xml").write_text(f"<ann><o>{box}</o></ann>")
    options = ["--annotations", tmp_path / "xml", "--recipe", "ezvsl-flickr-144k"]
    status = run_script(train_fnac, *clips, *options)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["train_samples"], metrics["validation_samples"]) == (6, 2)
    assert metrics["test_samples"] == 3
    assert stored_settings(tmp_path / "run")["dataset"] == "flickr"
    # One annotator's box, from 17 to 175 and from 26 to 157 of 224 pixels, counts half.
    half = 0.5 * (175 - 17) * (157 - 26) / 224**2
    ceiling = half / (half + 0.5 - 2 * half)
    assert metrics["ceiling_mean_ciou_half"] == pytest.approx(ceiling, abs=1e-3)
    assert "note: published runs" not in printed.out
    assert (tmp_path / "run" / "localization.png").is_file()
    assert (tmp_path / "run" / "skipped.csv").read_text() == "split,clip,reason\n"


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(tmp_path, clips):
    clips += ["--dataset", "vggsound"]
    assert run_script(train_fnac, *clips, "--output-dir", tmp_path / "one") == 0
    checkpoint = tmp_path / "one" / "checkpoints" / "last.ckpt"
    # At this learning rate only the running statistics of the norms move.
    options = ["--lr", 1e-30, "--weight-decay", 0, "--init-from", checkpoint]
    assert run_script(train_fnac, *clips, *options) == 0
    before, after = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("one", "run")
    )
    for name, value in before.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(value, after[name], rtol=0, atol=1e-20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init-from", "a"], "--init-from and --warm-start-epochs 12 exclude each other"),
        (
            ["--encoder", "resnet18", "--image-weights", "a", "--init-from", "b"],
            "--init-from and --image-weights a exclude each other",
        ),
    ],
)
def test_only_one_start(options, message):
    with pytest.raises(UserError, match=message):
        parse(options)
