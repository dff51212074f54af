from argparse import Namespace

import pytest
import torch
from small_sets import write_set

from avscenes.files.errors import UserError
from avscenes.sets.testsets import read_tests
from avscenes.testing.run import Conditions, Networks, run_part, whole_test


@pytest.mark.parametrize("dataset", ["vggsound", "extended-flickr", "avsbench-ms3"])
def test_parts_with_broken_samples_are_one_test(dataset, tmp_path, encoders):
    options, names, broken = write_set(dataset, tmp_path)
    named = {key[2:].replace("-", "_"): path for key, path in options.items()}
    tests = read_tests(Namespace(dataset=dataset, test_size=None, **named))
    how = Conditions(dataset, "slavc-test")

    def tested(world, max_missing):
        limits = {"batch_size": 2, "workers": 0, "max_missing": max_missing}
        parts = [
            run_part(Networks(*encoders), tests, how, **limits, rank=rank, world=world)
            for rank in range(world)
        ]
        return whole_test(parts, tests, how, max_missing)

    alone, together = tested(1, 0.5), tested(3, 0.5)
    assert [tests.names[row] for row in alone.rows] == names
    assert {entry.clip for entry in alone.skipped} == broken.keys()
    assert together.skipped == alone.skipped
    assert torch.equal(together.rows, alone.rows)
    assert torch.equal(together.visible, alone.visible)
    torch.testing.assert_close(together.maps, alone.maps)
    for name, column in alone.columns.items():
        torch.testing.assert_close(together.columns[name], column, atol=1e-3, rtol=0)
    assert together.f_scores == pytest.approx(alone.f_scores, abs=1e-5)
    assert bool(alone.f_scores) == (dataset == "avsbench-ms3")
    first = alone.skipped[0].clip
    for world in (1, 3):
        with pytest.raises(UserError, match=f"than --max-missing 0 allows; first {first}: "):
            tested(world, 0)
