import re

import pytest

from avscenes.files.errors import UserError
from avscenes.sets.overlap import check_overlap


def ids(numbers):
    return [f"v-_{number:08d}_{number % 290:06d}" for number in numbers]


def test_the_share_of_test_clips_is_said():
    # The sizes of the list in common use and of VGG-SS, and what they share.
    train = ids(range(144_000))
    test = ids([*range(3_709), *range(200_000, 200_000 + 5_158 - 3_709)])
    message = "--train-list contains 3,709 of the 5,158 clips of --test-list (72%; first v-_"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_overlap(train, test)
    assert "--allow-overlap" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert check_overlap(train, test, allow=True) == test[:3_709]


def test_separate_lists_are_fine():
    assert check_overlap(ids(range(100)), ids(range(100, 150))) == []
    assert check_overlap([], []) == []


def test_ids_in_milliseconds_name_the_same_clips():
    assert check_overlap(
        ["gklbB7TYoK4_30000_40000", "10000130166"],
        ["gklbB7TYoK4_000030", "gklbB7TYoK4_000040", "10000130166"],
        allow=True,
    ) == ["gklbB7TYoK4_000030", "10000130166"]
    assert check_overlap(["a_b-c_d-e_f_000007"], ["a_b-c_d-e_f_7000_17000"], allow=True)


def test_ids_with_and_without_endings_name_the_same_clips():
    assert check_overlap(
        ["10000130166.jpg", "gklbB7TYoK4_30000_40000.mp4"],
        ["10000130166", "gklbB7TYoK4_000030.WAV", "10000130166.b"],
        allow=True,
    ) == ["10000130166", "gklbB7TYoK4_000030.WAV"]


def test_a_clip_that_is_listed_twice_counts_once():
    with pytest.raises(UserError, match=r"1 of the 2 clips of --test-list \(50%"):
        check_overlap(["a", "a"], ["a", "b", "a"])
