"""Witten-Bell's estimate sums to one after every history; ARPA files come back as they were written."""

import math
import random

import pytest

from lrsms.errors import LrsmsError
from lrsms.fsa.ngram import BOS, EOS, estimate, read_arpa


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    draw = random.Random(0)
    return [[draw.choice("abcdef") for _ in range(draw.randint(0, 5))] for _ in range(30)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_history_sums_to_one(sentences, order):
    model = estimate(sentences, order)
    never_seen = {(), ("a", "f", "e"), (BOS, "f", "f"), ("unheard", "of")}
    for history in {*model.backoff, *never_seen}:
        total = sum(10 ** model.word_log10(history, word) for word in [*model.vocabulary, EOS])
        assert total == pytest.approx(1, abs=1e-9), history


def test_by_hand():
    model = estimate([["yes"], ["yes"], ["no"]], order=2)
    # Unigrams: 6 places (yes yes no, three ends), 3 types: (count + 3 * 1/3) / (6 + 3).
    unigram = {"yes": 3 / 9, "no": 2 / 9, EOS: 4 / 9}
    for word, probability in unigram.items():
        assert 10 ** model.word_log10((), word) == pytest.approx(probability)
    # After <s>: 3 places, 2 types.
    assert 10 ** model.word_log10((BOS,), "yes") == pytest.approx((2 + 2 * unigram["yes"]) / 5)
    assert 10 ** model.word_log10((BOS,), EOS) == pytest.approx(2 * unigram[EOS] / 5)  # by back-off
    # After yes: 2 places, 1 type.
    end = (2 + unigram[EOS]) / 3
    assert model.score(["yes"]) == pytest.approx(math.log((2 + 2 * unigram["yes"]) / 5 * end))
    assert model.score(["maybe"]) == -math.inf


def test_a_longer_history_predicts_better(sentences):
    ordered = [["bin", "blue", "at", "a"], ["set", "red", "by", "b"]] * 10
    assert estimate(ordered, 3).perplexity(ordered) < estimate(ordered, 1).perplexity(ordered) / 3
    assert estimate(ordered, 3).perplexity([["unknown"]]) == 1  # nothing to count


def test_arpa_comes_back(sentences, tmp_path):
    model = estimate(sentences, 3)
    path = tmp_path / "lm.arpa"
    model.write_arpa(path)
    again = read_arpa(path)
    assert again.order == 3 and again.vocabulary == model.vocabulary == list("abcdef")
    assert again.log10.keys() == model.log10.keys() and again.backoff.keys() == model.backoff.keys()
    for words in [*sentences, list("fedcba")]:
        assert again.score(words) == pytest.approx(model.score(words), abs=1e-5)


def test_another_toolkits_file(tmp_path):
    path = tmp_path / "other.arpa"
    path.write_text(
        "made by hand\n\n"
        "\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-99 <s> -0.3\n-0.5 </s>\n-0.6 yes -0.2\n-2 <unk>\n\n"
        "\\2-grams:\n-0.1 <s> yes\n-0.4\tyes </s>\n\n\\end\\\nnot read\n"
    )
    model = read_arpa(path)
    assert model.score(["yes"]) == pytest.approx(-0.5 * math.log(10))
    assert model.score(["yes", "yes"]) == pytest.approx((-0.1 - 0.2 - 0.6 - 0.4) * math.log(10))
    assert model.vocabulary == ["<unk>", "yes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "cut off"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1 a\n", "cut off"),
        ("\\data\\\nngram one\n\\end\\\n", "line 2: 'ngram one'"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 a\n\\end\\\n", "announces n-grams {1: 2} and holds {1: 1}"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\nx a\n\\end\\\n", "line 5: 'x a': not an n-gram of 1 words"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1 a -1 b\n\\end\\\n", "line 5"),
        ("\\data\\\nngram 2=1\n\n\\2-grams:\n-1 a b\n\\end\\\n", "a b: its history a is not in the model"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(text, message, tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(text)
    with pytest.raises(LrsmsError) as caught:
        read_arpa(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(LrsmsError, match=r"absent.arpa: cannot be read: No such file"):
        read_arpa(tmp_path / "absent.arpa")
    (tmp_path / "lm.arpa").write_bytes(b"\xff\xfe")
    with pytest.raises(LrsmsError, match=r"lm.arpa: not UTF-8"):
        read_arpa(tmp_path / "lm.arpa")
    with pytest.raises(LrsmsError, match="no words to make a language model from"):
        estimate([[]], 3)
