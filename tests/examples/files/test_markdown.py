"""Tables in Markdown."""

from avscenes.files.markdown import markdown_table


def test_text_comes_first_and_numbers_are_aligned_to_the_right():
    lines = [["name", "size", "time"], ["one", "2", "3"]]
    assert markdown_table(lines).splitlines() == [
        "| name | size | time |",
        "| --- | ---: | ---: |",
        "| one | 2 | 3 |",
    ]
    assert markdown_table(lines, texts=0).splitlines()[1] == "| ---: | ---: | ---: |"
    assert markdown_table(lines[:1], texts=3).splitlines()[1:] == ["| --- | --- | --- |"]
