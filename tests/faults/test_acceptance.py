"""What dev must show before a compressed model is accepted: rows of errors before and after, and the verdict."""

import json

import pytest
from scipy.stats import binom

from lrsms.compress.iterate import Errors, Loop, accept, run
from lrsms.errors import LrsmsError
from lrsms.scoring.bootstrap import least_bound, upper_bound

# utterances of 10 words, of which some get one error more, some one less -> tolerance, accepted, words needed
ROWS = [
    (1000, 0, 0, 0.5, True, None),
    (1000, 10, 0, 0.5, True, None),  # 0.1 points lost, at most 0.17
    (1000, 40, 0, 0.5, False, (10_500, 20_000)),  # 0.4 points, and perhaps 0.53
    (1000, 60, 0, 0.5, False, None),  # 0.6 points are above the tolerance, however large dev is
    (1000, 60, 0, 1.0, True, None),
    (1000, 80, 70, 0.5, True, None),
    (74, 0, 0, 0.5, True, None),  # 740 words
    (73, 0, 0, 0.5, False, (738, 760)),
    (24, 0, 0, 3.0, True, None),
    (24, 1, 1, 0.5, False, (1_000, 20_000)),
    (24, 0, 6, 0.5, False, (738, 20_000)),  # better by 2.5 points; but six utterances say little
]


def errors_of(utterances, worse, better):
    before = [0] * worse + [1] * better + [0] * (utterances - worse - better)
    after = [1] * worse + [0] * (utterances - worse)
    return Errors(before, [10] * utterances), Errors(after, [10] * utterances)


@pytest.mark.parametrize(("utterances", "worse", "better", "tolerance", "accepted", "needed"), ROWS)
def test_a_loss_within_the_tolerance_has_to_be_shown(utterances, worse, better, tolerance, accepted, needed):
    verdict = accept(*errors_of(utterances, worse, better), Loop(tolerance=tolerance))
    assert verdict.accepted is accepted
    assert verdict.bound >= verdict.comparison.high  # the upper end of the interval, or more
    if needed is None:
        assert verdict.words_needed is None
    else:
        assert needed[0] <= verdict.words_needed <= needed[1]


def test_a_smaller_dev_set_never_lets_more_loss_through():
    """One error in fifty words, on ever larger dev sets: what cannot be told from no loss is not accepted."""
    verdicts = [accept(*errors_of(size, size // 5, 0), Loop()).accepted for size in (5, 10, 50, 500, 2000)]
    assert verdicts == [False] * 5
    equal = [accept(*errors_of(size, size // 20, size // 20), Loop()).accepted for size in (20, 100, 1000, 4000)]
    assert equal == sorted(equal) and equal[0] is False and equal[-1] is True


def test_as_many_words_as_were_said_to_be_needed_are_enough():
    few = accept(*errors_of(200, 20, 20), Loop())
    assert not few.accepted and few.words_needed is not None
    times = 1.2 * few.words_needed / 2000  # about so many
    assert accept(*errors_of(round(200 * times), round(20 * times), round(20 * times)), Loop()).accepted


@pytest.mark.parametrize(("confidence", "accepted"), [(0.0, True), (0.05, True), (0.5, False), (0.975, False)])
def test_earlier_options_mean_what_they_meant(confidence, accepted):
    """0.1.0 accepted unless a loss was significant: tolerance 0 and confidence 0.05."""
    assert accept(*errors_of(50, 3, 1), Loop(tolerance=0.0, confidence=confidence)).accepted is accepted


@pytest.mark.parametrize("words", [240, 740, 10_000])
def test_the_least_bound_is_that_of_no_error_in_so_many_words(words):
    rate = least_bound(words, 0.975) / 100
    assert binom.pmf(0, words, min(rate, 1)) <= 0.025 < binom.pmf(0, words, min(0.9 * rate, 1))
    assert upper_bound([3], [3], [words], 0.975) == 100 * rate


class Toolkit:
    """An original and candidates of a given dev set; nothing is searched before the dev set has been looked at."""

    def __init__(self, utterances):
        self.utterances, self.searched = utterances, 0

    def cost(self, experiment):
        return 100.0 if experiment.name == "original" else 50.0

    def search(self, experiment, limit, name):
        self.searched += 1
        return {}

    def finetune(self, experiment, ranks, folder):
        pass

    def dev_errors(self, experiment):
        before, after = errors_of(self.utterances, 1, 1)
        return before if experiment.name == "original" else after


def test_a_dev_set_that_can_accept_nothing_is_refused_at_once(tmp_path):
    toolkit = Toolkit(24)
    with pytest.raises(LrsmsError, match=r"dev's 240 words are too few .* which takes at least 738; .*1.55"):
        run(toolkit, tmp_path / "original", tmp_path / "root", Loop())
    assert toolkit.searched == 0
    with pytest.raises(LrsmsError, match="takes more than any dev set has"):
        run(toolkit, tmp_path / "original", tmp_path / "root", Loop(tolerance=0.0))
    with pytest.raises(LrsmsError, match="dev has no words"):
        run(Toolkit(0), tmp_path / "original", tmp_path / "root", Loop())


def test_a_rejection_says_how_many_words_it_would_take(tmp_path, capsys):
    toolkit = Toolkit(100)
    toolkit.dev_errors = lambda experiment: errors_of(100, 5, 5)[experiment.name != "original"]
    (done,) = run(toolkit, tmp_path / "original", tmp_path / "root", Loop(retries=0))
    assert not done.accepted and done.words == 1000 and done.tolerance == 0.5
    said = capsys.readouterr().out
    assert f"dev's 1,000 words are too few to show it at this loss, which takes about {done.words_needed:,}" in said
    assert json.loads((tmp_path / "root/iter1/accepted.json").read_text())["words_needed"] == done.words_needed
