import numpy as np
import pytest
from odd_files import JSON, broken, image_bytes, sound_bytes, whole_files

from avscenes.files.errors import UserError
from avscenes.sets.annotated import annotated_set
from avscenes.sets.clips import ClipPairs, check_files, clips_in
from avscenes.sets.extended import read_silent_pairs
from avscenes.sets.flickr import flickr_samples
from avscenes.sets.lists import read_ids
from avscenes.sets.vggss import read_annotations

COUNT = 1_000


@pytest.fixture
def odd_files(tmp_path):
    """A thousand broken files and the twenty whole ones that they were made of, by their ending."""
    rng = np.random.default_rng(2026)
    whole = whole_files()
    by_ending = {suffix: [] for suffix, _ in whole}
    for number in range(-len(whole), COUNT):
        suffix, content = whole[number % len(whole)]
        name = f"whole{-number}" if number < 0 else f"odd{number}"
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content if number < 0 else broken(content, rng))
        by_ending[suffix].append(path)
    return by_ending


# Decoders may warn about what they mend.
@pytest.mark.filterwarnings("ignore")
def test_each_of_a_thousand_odd_files_is_used_or_named(tmp_path, odd_files):
    used, named = set(), {}
    images = odd_files[".jpg"] + odd_files[".png"]
    sounds = odd_files[".wav"] + odd_files[".flac"]
    for path in images:
        (tmp_path / f"{path.stem}.wav").write_bytes(sound_bytes("WAV", "PCM_16", 16_000))
    for path in sounds + odd_files[".xml"]:
        (tmp_path / f"{path.stem}.jpg").write_bytes(image_bytes("JPEG", "RGB"))
    for path in odd_files[".xml"]:
        (tmp_path / f"{path.stem}.wav").write_bytes(sound_bytes("WAV", "PCM_16", 16_000))

    names = [path.stem for path in images + sounds]
    clips = clips_in(tmp_path, names)
    for entry in check_files("train", clips, workers=1):
        named[entry.clip] = entry.reason
    good = [clip for clip in clips if clip.name not in named]
    pairs = ClipPairs(good, seed=0)
    for index, clip in enumerate(good):
        pixels, spectrogram = pairs[1, index] if index % 2 else pairs[index]
        assert pixels.shape == (3, 224, 224)
        assert spectrogram.shape == (1, 257, 200)
        assert pixels.isfinite().all()
        assert spectrogram.isfinite().all()
        used.add(clip.name)

    samples = flickr_samples(tmp_path, [path.stem for path in odd_files[".xml"]], tmp_path)
    data, skipped = annotated_set(samples, workers=1, consensus=2)
    named.update({entry.clip: entry.reason for entry in skipped})
    used.update(data.pairs.clips)
    assert all(data.truth(row).isfinite().all() for row in range(len(data.labels)))

    for suffix, read in [
        (".json", read_annotations),
        (".csv", lambda path: read_ids("--test-list", path)),
        (".csv", lambda path: read_silent_pairs("--silent-list", path)),
    ]:
        for path in odd_files[suffix]:
            try:
                read(path)
            except UserError as error:
                message = str(error)
                named[path.stem] = message if str(path) in message else ""
            else:
                used.add(path.stem)

    everything = {path.stem for paths in odd_files.values() for path in paths}
    assert len(everything) == COUNT + 20
    assert used | set(named) == everything
    assert all(reason and "\n" not in reason for reason in named.values())
    assert {name for name in everything if name.startswith("whole")} <= used
    # Changes that do no harm and changes that do must both be among them.
    assert len(used) > 200
    assert len(named) > 400


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, JSON.replace(b"0.1", b"1" * 400), b"\xff\xfe", b"null", b'[{"file": 1}]'],
)
def test_odd_annotations_are_one_error(tmp_path, content):
    (tmp_path / "vggss.json").write_bytes(content)
    with pytest.raises(UserError, match=r"vggss\.json") as caught:
        read_annotations(tmp_path / "vggss.json")
    assert "\n" not in str(caught.value)
