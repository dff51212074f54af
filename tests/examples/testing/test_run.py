import pytest
import torch
from small_sets import read_set

from avscenes.sets.clips import Unusable
from avscenes.testing import run
from avscenes.testing.run import Conditions, Networks, run_part, whole_test


@pytest.mark.parametrize("dataset", ["vggsound", "extended-flickr", "avsbench-ms3"])
def test_parts_with_broken_samples_are_one_test(dataset, tmp_path, encoders):
    tests, names, broken = read_set(dataset, tmp_path)
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
        with pytest.raises(Unusable, match=f"than --max-missing 0; first {first}: ") as error:
            tested(world, 0)
        assert error.value.skipped == alone.skipped


def test_no_more_is_scored_than_is_of_use(tmp_path, encoders, monkeypatch):
    tests, names, broken = read_set("vggsound", tmp_path)
    scored = []
    monkeypatch.setattr(run, "score_batch", lambda networks, batch, *_: scored.append(batch.rows))
    how = Conditions("vggsound", "slavc-test")
    limits = {"batch_size": 1, "workers": 0}
    run_part(Networks(*encoders), tests, how, **limits, max_missing=1)
    assert len(scored) == len(names)
    scored.clear()
    part = run_part(Networks(*encoders), tests, how, **limits, max_missing=0)
    assert len(scored) < len(names)
    assert len(tests.skipped) + len(part.broken) == len(broken)
