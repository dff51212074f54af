import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import pytest
from broken_decoder import DiesWhenRead, decode, process_of

from avscenes.files import workers
from avscenes.files.errors import UserError
from avscenes.files.workers import faults_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def test_a_crash_or_a_hang_costs_one_input():
    names = ["a", "crash", "b", "broken", "hang", "c", "crash", "d"]
    answers = list(faults_of(decode, names, 2, 3.0))
    assert Counter(name for name, _ in answers) == Counter(names)
    faults = dict(answers)
    assert [faults[name] for name in "abcd"] == [None] * 4
    assert faults["broken"] == "is broken"
    assert faults["hang"] == "not done after 3 s"
    assert faults["crash"] == f"the process crashed (exit status {-signal.SIGSEGV})"


def test_a_process_that_crashes_before_its_input_is_known_costs_none(tmp_path):
    """As when the crash comes so early that the pool has not heard yet which one it was."""
    names = ["a", DiesWhenRead(tmp_path / "first", 1), "b", "broken"]
    faults = [fault for _, fault in faults_of(decode, names, 2, 60.0)]
    assert Counter(faults) == {None: 3, "is broken": 1}


def test_processes_that_end_again_and_again_end_the_run(tmp_path):
    with pytest.raises(UserError, match="the processes end without taking work"):
        list(faults_of(decode, [DiesWhenRead(tmp_path / "always", 9)], 1, 60.0))
    assert (tmp_path / "always").read_text() == "..."


def test_inputs_are_taken_a_few_at_a_time():
    taken = []
    names = (taken.append(name) or name for name in "abcdefgh")
    for done, _ in enumerate(faults_of(decode, names, 2, 60.0)):
        assert len(taken) <= done + 2
    assert len(taken) == 8


def test_what_the_function_raises_ends_the_run():
    with pytest.raises(OSError, match="No space left on device"):
        list(faults_of(decode, ["disk full", *"abcdefgh"], 1, 60.0))


def test_nothing_is_started_for_no_inputs():
    assert list(faults_of(decode, [], 2, 1.0)) == []


def test_processes_end_when_the_rest_is_not_wanted(tmp_path):
    paths = [tmp_path / str(number) for number in range(100)]
    with closing(faults_of(process_of, paths, 1, 60.0)) as answers:
        next(answers)
    process = int(paths[0].read_text())
    assert len(list(tmp_path.iterdir())) < len(paths)
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process goes on")


def test_a_process_that_starts_is_given_all_it_reads_before_an_interruption():
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)  # takes the signal that this one holds back
    other.start()
    done = []

    def start():
        with workers._interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            done.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        ended.set()
        other.join()
    assert done


def test_the_processes_may_be_started_by_any_thread():
    answers = []
    other = threading.Thread(target=lambda: answers.extend(faults_of(decode, ["a"], 1, 60.0)))
    other.start()
    other.join()
    assert answers == [("a", None)]


def test_an_input_for_a_pool_that_just_broke_is_not_lost(monkeypatch):
    class Pool(workers.ProcessPool):
        made = 0

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            Pool.made += 1

        def schedule(self, *arguments, **options):
            if Pool.made == 1:
                raise RuntimeError("Unexpected error within the Pool")
            return super().schedule(*arguments, **options)

    monkeypatch.setattr(workers, "ProcessPool", Pool)
    assert Counter(faults_of(decode, ["a", "b"], 2, 60.0)) == {("a", None): 1, ("b", None): 1}
