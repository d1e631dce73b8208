"""Times of tokens and words from CTC."""

import pytest
import torch

from lrsms.espnet.inference.ctc_alignment import TimedToken, token_times, words_of


def peaks(path: list[int], size: int = 5) -> torch.Tensor:
    """CTC that is sure of ``path``."""
    scores = torch.full((len(path), size), -5.0)
    scores[range(len(path)), path] = 5.0
    return scores.log_softmax(-1)


def test_tokens_are_where_ctc_has_its_peaks():
    found = token_times(peaks([0, 0, 1, 0, 2, 2, 0, 2, 0]), [1, 2, 2], ["a", "b", "b"], 0.04)
    assert [(one.token, round(one.start / 0.04), round(one.end / 0.04)) for one in found] == [
        *(("a", 2, 3), ("b", 4, 6), ("b", 7, 8))
    ]


@pytest.mark.parametrize(("path", "ids"), [([1, 2], [1, 2, 3]), ([1, 1], [1, 1]), ([1, 2], [])])
def test_what_ctc_cannot_place_has_no_times(path, ids):
    assert token_times(peaks(path), ids, [str(number) for number in ids], 0.04) == []


def timed(*tokens: str) -> list[TimedToken]:
    return [TimedToken(token, float(index), index + 1.0) for index, token in enumerate(tokens)]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["o", "n", "<space>", "t"], [("on", 0, 2), ("t", 3, 4)]),
        (["\u2581on", "e", "\u2581two"], [("one", 0, 2), ("two", 2, 3)]),
        (["one", "two"], [("one", 0, 1), ("two", 1, 2)]),
        (["<space>", "a", "<space>", "<space>"], [("a", 1, 2)]),
        ([], []),
    ],
)
def test_tokens_of_every_kind_become_words(tokens, words):
    assert [(word.token, word.start, word.end) for word in words_of(timed(*tokens))] == words
