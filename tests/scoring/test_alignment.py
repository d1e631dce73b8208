"""Error counts against counts made by hand."""

import pytest

from lrsms.scoring.alignment import Counts, align_tokens, error_counts, to_characters, to_words

BY_HAND = [  # ref, hyp: tokens, correct, substitutions, deletions, insertions
    ("one two three", "one two three", 3, 3, 0, 0, 0),
    ("one two three", "one too three", 3, 2, 1, 0, 0),
    ("one two three", "one three", 3, 2, 0, 1, 0),
    ("one two three", "one two two three", 3, 3, 0, 0, 1),
    ("one two three", "", 3, 0, 0, 3, 0),
    ("", "one two", 0, 0, 0, 0, 2),
    ("nine", "eight five", 1, 0, 1, 0, 1),
    ("the cat sat on the mat", "a cat sat the mat now", 6, 4, 1, 1, 1),
]


@pytest.mark.parametrize(("ref", "hyp", "tokens", "correct", "sub", "dele", "ins"), BY_HAND)
def test_words_counted_by_hand(ref, hyp, tokens, correct, sub, dele, ins):
    counts = error_counts(to_words(ref), to_words(hyp))
    assert counts == Counts(1, tokens, correct, sub, dele, ins, int(ref != hyp))
    assert counts.errors == sub + dele + ins


def test_characters_count_the_space_as_espnet_does():
    assert to_characters(" a  bc ") == ["a", "<space>", "b", "c"]
    # "a bc" -> "abd": the space is deleted, c becomes d
    assert error_counts(to_characters("a bc"), to_characters("abd")) == Counts(1, 4, 2, 1, 1, 0, 1)


def test_sclite_weights_choose_a_match_over_two_substitutions():
    # costs 3/3/4: keeping b costs one insertion and one deletion (6), two substitutions would cost 8
    assert error_counts(["a", "b"], ["b", "c"]) == Counts(1, 2, 1, 0, 1, 1, 1)


def test_an_asterisk_is_an_ordinary_token():
    assert error_counts(["*"], ["*"]) == Counts(1, 1, 1, 0, 0, 0, 0)
    assert align_tokens(["*", "a"], ["a"]) == [("*", None), ("a", "a")]


def test_percentages_of_a_sum():
    total = sum((error_counts(*pair) for pair in [("abcd", "abxd"), ("ab", "abc"), ("a", "a")]), Counts())
    # 7 tokens: 6 correct, 1 substitution, 1 insertion; 2 of 3 sentences wrong
    expected = (600 / 7, 100 / 7, 0, 100 / 7, 200 / 7, 200 / 3)
    assert total.percentages() == pytest.approx(expected)


def test_percentages_without_reference_tokens():
    assert Counts(sentences=1).percentages() == (0, 0, 0, 0, 0, 0)
    assert error_counts([], ["a"]).percentages()[4] == float("inf")
