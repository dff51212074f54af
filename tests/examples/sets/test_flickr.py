import pytest
import torch

from avscenes.sets.annotated import annotated_set
from avscenes.sets.flickr import CONSENSUS, flickr_samples, read_boxes

XML = """<?xml version="1.0"?>
<annotation>
  <annotator1><bbox><id>1</id><xmin>64</xmin><ymin>32</ymin><xmax>192</xmax><ymax>128</ymax></bbox>
  </annotator1>
  <annotator2><bbox><id>2</id><xmin>64</xmin><ymin>64</ymin><xmax>192</xmax><ymax>256</ymax></bbox>
  </annotator2>
  <annotator3><bbox><id>3</id><xmin>0</xmin><ymin>64</ymin><xmax>100</xmax><ymax>128</ymax></bbox>
  </annotator3>
</annotation>"""


def published_map(path):
    """The published evaluation, written anew: whole pixels of 224, half a vote a box."""
    votes = torch.zeros(224, 224)
    for box in read_boxes(path):
        x0, y0, x1, y1 = (int(224 * round(share * 256) / 256) for share in box)
        votes[y0:y1, x0:x1] += 1
    return (votes / 2).clamp(max=1)


def test_two_annotators_make_a_pixel_certain(tmp_path, make_clip):
    make_clip(tmp_path, "10000130166", size=(64, 48))
    (tmp_path / "10000130166.xml").write_text(XML)
    samples = flickr_samples(tmp_path, ["10000130166"], tmp_path)
    data, skipped = annotated_set(samples, workers=1, consensus=CONSENSUS)
    assert skipped == []
    truth = data.truth(0)
    assert truth.unique().tolist() == [0, 0.5, 1]
    assert torch.equal(truth, published_map(tmp_path / "10000130166.xml"))
    # Rows 56 to 111 are in all boxes; 87 is the end of the third one.
    assert truth[60, 60].item() == 1
    assert truth[30, 60].item() == 0.5
    assert truth[60, 20].item() == 0.5
    assert truth[220, 10].item() == 0


@pytest.mark.parametrize(
    "xml",
    [
        "<a><b><bbox><n>9</n><x>1</x><x>2</x><x>3</x><x>4</x></bbox></b></a>",
        "<a><b><name>dog</name><bbox><x>1</x><x>2</x><x>3</x><x>4</x></bbox><z/></b></a>",
        "<a><b><c><bbox><n>dog</n><x> 1 </x><x>2.0</x><x>3.9</x><x>4</x></bbox></c></b></a>",
        "<a><bbox>1 2 3 4</bbox></a>",
        "<bbox>\n<x>1</x>\n<x>2</x>\n<x>3</x>\n<x>4</x>\n</bbox>",
    ],
)
def test_other_elements_do_not_matter(tmp_path, xml):
    (tmp_path / "a.xml").write_text(xml)
    assert read_boxes(tmp_path / "a.xml") == [[1 / 256, 2 / 256, 3 / 256, 4 / 256]]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<a></a>", "a.xml: no bbox"),
        ("<a><bbox><x>1</x><x>2</x><x>3</x></bbox></a>", "a.xml: a bbox with 3 of 4 coordinates"),
        ("<a><bbox><x>nan</x><x>inf</x></bbox></a>", "a.xml: a bbox with 0 of 4 coordinates"),
        ("<a><bbox>", "a.xml: no element found: line 1, column 9"),
        ("", "a.xml: no element found: line 1, column 0"),
        ('<?xml version="1.0" encoding="dog"?><a/>', "a.xml: unknown encoding"),
    ],
)
def test_a_broken_file_is_named(tmp_path, make_clip, xml, reason):
    for name in "ab":
        make_clip(tmp_path, name, size=(32, 32))
    (tmp_path / "a.xml").write_text(xml)
    (tmp_path / "b.xml").write_text("<a><bbox>1 2 3 4</bbox></a>")
    data, skipped = annotated_set(flickr_samples(tmp_path, "ab", tmp_path), workers=1)
    assert data.pairs.clips == ["b"]
    assert [entry.clip for entry in skipped] == ["a"]
    assert skipped[0].reason.startswith(reason)


@pytest.mark.parametrize("twin", ["a.XML", "a.jpg.xml"])
def test_two_annotations_of_a_clip_must_say_the_same(tmp_path, make_clip, twin):
    make_clip(tmp_path, "a", size=(32, 32))
    (tmp_path / "a.xml").write_text("<a><bbox>1 2 3 4</bbox><bbox>5 6 7 8</bbox></a>")
    (tmp_path / twin).write_text("<a><bbox>5 6 7 8</bbox>\n<bbox>1 2 3 4</bbox></a>")
    assert flickr_samples(tmp_path, ["a"], tmp_path)[0].fault is None
    (tmp_path / twin).write_text("<a><bbox>1 2 3 4</bbox></a>")
    fault = flickr_samples(tmp_path, ["a"], tmp_path)[0].fault
    assert fault in (f"{twin} has other boxes than a.xml", f"a.xml has other boxes than {twin}")


@pytest.mark.parametrize("listed", ["10000130166", "10000130166.jpg", "10000130166.WAV"])
@pytest.mark.parametrize("annotation", ["10000130166.xml", "10000130166.jpg.xml"])
def test_ids_with_endings_find_files_and_boxes(tmp_path, make_clip, listed, annotation):
    make_clip(tmp_path, "10000130166", size=(32, 32))
    (tmp_path / annotation).write_text(XML)
    data, skipped = annotated_set(flickr_samples(tmp_path, [listed], tmp_path), workers=1)
    assert skipped == []
    assert data.pairs.clips == [listed]
    assert len(data.boxes[0]) == 3


def test_a_clip_without_annotation_is_named(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(32, 32))
    sample = flickr_samples(tmp_path, ["a"], tmp_path)[0]
    assert sample.fault == f"no annotation {tmp_path}/a.xml"
