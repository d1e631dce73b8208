"""Which pictures of a compression are drawn."""

import matplotlib.pyplot as plt
import pytest

from lrsms.compress import pictures
from lrsms.compress.controllers import Finished


def search(*errors: float) -> list[Finished]:
    return [Finished(number, (), (), error, 10.0) for number, error in enumerate(errors)]


@pytest.fixture
def lines(monkeypatch):
    """What a picture's axes held when it was saved: x, y and marked points of each line."""
    kept = []
    save = pictures.save

    def keep(figure, path):
        kept.extend((*line.get_data(), line.get_markevery()) for line in plt.gcf().axes[0].lines)
        save(figure, path)

    monkeypatch.setattr(pictures, "save", keep)
    return kept


def test_the_best_of_one_trial_is_no_picture_and_an_earlier_one_goes(tmp_path):
    picture = tmp_path / "best_so_far.png"
    picture.write_bytes(b"of an earlier search")
    assert not pictures.best_so_far({"iter1": search(3.0)}, {"iter1": 20.0}, "WER, %", picture)
    assert not picture.exists()
    assert not pictures.best_so_far({}, {}, "WER, %", picture)


def test_the_best_so_far_falls_and_marks_what_was_better(tmp_path, lines):
    picture = tmp_path / "best_so_far.png"
    searches = {"iter1": search(3.0, 4.0, 2.0, 2.5), "iter2": search(1.0)}
    assert pictures.best_so_far(searches, dict.fromkeys(searches, 20.0), "WER, %", picture)
    (x, y, marked), (_, alone, only) = lines
    assert (list(x), list(y), marked) == ([1, 2, 3, 4], [3.0, 3.0, 2.0, 2.0], [0, 2])
    assert (list(alone), only) == ([1.0], [0])
    assert picture.exists()


def test_trials_beyond_the_budget_do_not_count(tmp_path, lines):
    assert pictures.best_so_far({"iter1": search(3.0, 4.0)}, {"iter1": 5.0}, "WER, %", tmp_path / "a.png") is False
    assert lines == []
