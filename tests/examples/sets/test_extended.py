import pytest
import torch

from avscenes.files.errors import UserError
from avscenes.sets.annotated import annotated_set
from avscenes.sets.extended import read_silent_pairs, silent_samples
from avscenes.sets.vggss import Annotation, vggss_samples

CSV = """video,audio,label
-0BIyqJj9ZU_000030,USlCCt8En7A_000460,non-sounding
USlCCt8En7A_000460,USlCCt8En7A_000460,sounding
"""


def test_silent_pairs_come_after_the_base_set(tmp_path, make_clip):
    base = ["-0BIyqJj9ZU_000030", "USlCCt8En7A_000460"]
    for name in base:
        make_clip(tmp_path, name, size=(32, 32), seconds=0.5)
    (tmp_path / "list.csv").write_text(CSV)
    pairs = read_silent_pairs("--silent-list", tmp_path / "list.csv")
    annotations = {name: Annotation("dog", [[0, 0, 1, 0.5]]) for name in base}
    samples = vggss_samples(tmp_path, base, annotations) + silent_samples(tmp_path, pairs)
    data, skipped = annotated_set(samples, workers=1)
    assert skipped == []
    assert data.pairs.clips == [*base, "-0BIyqJj9ZU_000030+USlCCt8En7A_000460"]
    assert data.visible.tolist() == [True, True, False]
    assert [data.truth(row).sum() for row in range(3)] == [25_088, 25_088, 0]
    # The image of the first clip with the sound of the second.
    assert torch.equal(data.pairs[2][0], data.pairs[0][0])
    assert torch.equal(data.pairs[2][1], data.pairs[1][1])
    assert not torch.equal(data.pairs[2][1], data.pairs[0][1])


def test_ids_of_pairs_may_be_written_in_another_way(tmp_path, make_clip):
    make_clip(tmp_path, "-0BIyqJj9ZU_000030", size=(32, 32), seconds=0.5)
    make_clip(tmp_path, "USlCCt8En7A_460000_470000", size=(32, 32), seconds=0.5)
    csv = "video,audio,label\n-0BIyqJj9ZU_30000_40000.jpg,USlCCt8En7A_000460.wav,non-sounding\n"
    (tmp_path / "list.csv").write_text(csv)
    pairs = read_silent_pairs("--silent-list", tmp_path / "list.csv")
    data, skipped = annotated_set(silent_samples(tmp_path, pairs), workers=1)
    assert skipped == []
    assert data.pairs.clips == ["-0BIyqJj9ZU_30000_40000.jpg+USlCCt8En7A_000460.wav"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must start with the line video,audio,label"),
        ("a,b,non-sounding\n", "must start with the line video,audio,label"),
        ("video,audio,label\na,b\n", "row 2 of .* must be two ids and one of sounding and non-"),
        ("video,audio,label\na,b,silent\n", "row 2 .*, got 'a,b,silent'"),
        ("video,audio,label\na,a,sounding\n", "has no row labelled non-sounding"),
        (
            "video,audio,label\n\na,b,sounding\na,b,non-sounding\n",
            "row 4 of .* labels a with b 'non-sounding', and an earlier one 'sounding'",
        ),
        ("video,audio,label\na,,non-sounding\n", "row 2 .*, got 'a,,non-sounding'"),
    ],
)
def test_another_form_is_an_error(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=f"^--silent-list: .*{message}"):
        read_silent_pairs("--silent-list", tmp_path / "list.csv")
