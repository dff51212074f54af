import errno

import pytest

from avscenes.files.errors import UserError
from avscenes.files.output import check_free, writing_to


def test_a_place_with_something_in_it_is_taken(tmp_path):
    check_free("--out", tmp_path)
    check_free("--out", tmp_path / "new" / "folder")
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match=r"^--out: .* holds results already; name another place$"):
        check_free("--out", tmp_path)
    with pytest.raises(UserError, match="notes holds results already"):
        check_free("--out", tmp_path / "notes")


def test_a_claimed_folder_is_taken_and_other_files_do_not_matter(tmp_path):
    (tmp_path / "notes").write_text("")
    check_free("--out", tmp_path, claim="config.json")
    (tmp_path / "config.json").write_text("")
    with pytest.raises(UserError, match="holds results already; go on"):
        check_free("--out", tmp_path, claim="config.json", advice="go on")


def test_no_folder_is_made_in_a_file(tmp_path):
    (tmp_path / "notes").write_text("")
    message = f"--out: cannot make {tmp_path}/notes/run: {tmp_path}/notes is no writable folder"
    for claim in ("", "config.json"):
        with pytest.raises(UserError) as error:
            check_free("--out", tmp_path / "notes" / "run", claim=claim)
        assert str(error.value) == message


def test_what_a_stopped_run_left_does_not_take_a_place(tmp_path):
    (tmp_path / "left_out.csv").write_text("")
    check_free("--out", tmp_path, leftover="left_out.csv")
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match="holds results already"):
        check_free("--out", tmp_path, leftover="left_out.csv")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_more_is_named(tmp_path, number):
    with pytest.raises(UserError) as error, writing_to(tmp_path, "; make room"):
        raise OSError(number, "it says so")
    assert str(error.value) == f"cannot write to {tmp_path}: it says so; make room"


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "nothing").read_text()
