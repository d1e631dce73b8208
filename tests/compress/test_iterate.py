"""The loop, with a toolkit that pretends."""

import json

import pytest

from lrsms.compress.iterate import Errors, Loop, OutOfReach, run
from lrsms.errors import LrsmsError

WORDS = [100] * 50


class Toolkit:
    """A model is its cost; below ``breaks`` it makes many errors."""

    def __init__(self, breaks=300.0, smallest=100.0):
        self.breaks, self.smallest = breaks, smallest
        self.costs, self.calls = {"original": 1200.0}, []

    def cost(self, experiment):
        return self.costs[experiment.name]

    def search(self, experiment, limit, name):
        self.calls.append(("search", experiment.name, round(limit), name))
        if limit < self.smallest:
            raise OutOfReach("a budget is out of reach")
        return {"encoder.w": int(limit)}

    def finetune(self, experiment, ranks, folder):
        self.calls.append(("finetune", experiment.name, ranks["encoder.w"], folder.name))
        self.costs[folder.name] = float(ranks["encoder.w"])

    def dev_errors(self, experiment):
        bad = self.cost(experiment) < self.breaks
        return Errors([3 if bad else (1 if index % 5 == 0 else 0) for index in range(50)], WORDS)


def test_it_shrinks_until_the_error_rate_suffers(tmp_path):
    toolkit = Toolkit()
    done = run(toolkit, tmp_path / "original", tmp_path / "root", Loop(compression=2.0, target=100.0, retries=0))
    assert [(one.folder, one.cost, one.accepted) for one in done] == [
        ("iter1", 600.0, True),
        ("iter2", 300.0, True),
        ("iter3", 150.0, False),
    ]
    assert (tmp_path / "root" / "best").resolve().name == "iter2"
    assert done[1].compression == 4.0 and done[2].difference > 2 and done[2].low > 0


def test_a_rejection_is_tried_again_with_half_a_step_from_the_last_accepted(tmp_path):
    toolkit = Toolkit()
    done = run(toolkit, tmp_path / "original", tmp_path / "root", Loop(compression=2.0, target=100.0, retries=1))
    assert [call[1:3] for call in toolkit.calls if call[0] == "search"][2:] == [("iter2", 150), ("iter2", 212)]
    assert [one.accepted for one in done] == [True, True, False, False]


def test_half_a_step_is_half_of_the_last_one_which_the_target_may_have_cut_short(tmp_path):
    toolkit = Toolkit(breaks=260.0)
    run(toolkit, tmp_path / "original", tmp_path / "root", Loop(compression=2.0, target=4.8, retries=1))
    assert [call[2] for call in toolkit.calls if call[0] == "search"] == [
        *(600, 300, 250, 274, 250),  # 274 is 300 / sqrt(300 / 250); from there the target is tried again
    ]


def test_it_stops_at_the_target_and_goes_no_further(tmp_path):
    done = run(Toolkit(), tmp_path / "original", tmp_path / "root", Loop(compression=1.9, target=3.0))
    assert [round(one.compression, 2) for one in done] == [1.9, 3.0]


def test_it_may_start_from_another_model_and_counts_from_the_original(tmp_path):
    toolkit = Toolkit()
    toolkit.costs["start"] = 900.0
    done = run(toolkit, tmp_path / "original", tmp_path / "root", Loop(compression=2.0, target=3.0), tmp_path / "start")
    assert [(one.source, one.cost, one.compression) for one in done] == [
        ("start", 450.0, 1200 / 450),
        ("iter1", 400.0, 3.0),
    ]
    with pytest.raises(LrsmsError, match="start: it is 1.33 times smaller already: target: 1.3 leaves"):
        run(toolkit, tmp_path / "original", tmp_path / "b", Loop(compression=2.0, target=1.3), tmp_path / "start")


def test_it_stops_after_the_iterations_asked_for(tmp_path):
    done = run(Toolkit(), tmp_path / "original", tmp_path / "root", Loop(compression=1.1, max_iterations=2))
    assert len(done) == 2


def test_out_of_reach_at_first_is_an_error_and_later_the_end(tmp_path):
    with pytest.raises(LrsmsError, match="out of reach"):
        run(Toolkit(smallest=700), tmp_path / "original", tmp_path / "a", Loop(compression=2.0))
    done = run(Toolkit(smallest=500), tmp_path / "original", tmp_path / "b", Loop(compression=2.0))
    assert [one.folder for one in done] == ["iter1"]


@pytest.mark.parametrize("step", ["search", "finetune", "dev_errors"])
def test_a_killed_loop_goes_on_where_it_was(step, tmp_path, monkeypatch):
    loop = Loop(compression=2.0, target=4.0)
    toolkit = Toolkit()
    work = getattr(toolkit, step)

    def dies(experiment, *arguments):
        if "iter2" in (experiment.name, *map(str, arguments), *(getattr(one, "name", "") for one in arguments)):
            raise KeyboardInterrupt
        return work(experiment, *arguments)

    monkeypatch.setattr(toolkit, step, dies)
    with pytest.raises(KeyboardInterrupt):
        run(toolkit, tmp_path / "original", tmp_path / "root", loop)
    monkeypatch.undo()
    before = list(toolkit.calls)
    done = run(toolkit, tmp_path / "original", tmp_path / "root", loop)
    again = toolkit.calls[len(before) :]
    assert [one.cost for one in done] == [600.0, 300.0] and all(one.accepted for one in done)
    assert not [call for call in again if call[-1] == "iter1"]  # the first iteration is not done again
    if step != "search":
        assert not [call for call in again if call[0] == "search"]  # nor a search that had ended
    assert json.loads((tmp_path / "root" / "iter1" / "accepted.json").read_text())["cost"] == 600.0
