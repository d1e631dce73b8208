"""Lexicon and language model as acceptors, walked through here without k2."""

import math
from collections.abc import Sequence

import pytest

from lrsms.data.tokens import BLANK, SOS_EOS, SPACE, UNK, Tokens, train_tokens
from lrsms.errors import LrsmsError
from lrsms.fsa.lexicon import FINAL, Arc, language_arcs, make_lexicon
from lrsms.fsa.ngram import estimate

TEXTS = ["a cat sat", "a cat", "cat a", "at a cat sat at"]


def accepted(arcs: Sequence[Arc], labels: Sequence[int], skippable: Sequence[int]) -> dict[tuple[int, ...], float]:
    """Outputs and best score of every path that says ``labels``, arcs labeled ``skippable`` taken for nothing."""
    final = max(max(arc[:2]) for arc in arcs)
    found: dict[tuple[int, ...], float] = {}
    waiting = [(0, 0, (), 0.0, frozenset())]
    while waiting:
        state, place, said, score, idle = waiting.pop()
        for source, target, label, output, weight in arcs:
            if source != state:
                continue
            more = (*said, output) if output > 0 else said
            if label == FINAL and target == final and place == len(labels):
                found[said] = max(found.get(said, -math.inf), score + weight)
            elif place < len(labels) and label == labels[place]:
                waiting.append((target, place + 1, more, score + weight, frozenset()))
            elif label in skippable and (target, label) not in idle and target != source:
                waiting.append((target, place, more, score + weight, idle | {(target, label)}))
    return found


def tokens_of(kind: str, size: int | None = None) -> Tokens:
    token_list, model = train_tokens(TEXTS, kind, size)
    return Tokens(token_list, kind, model)


def counts() -> dict[str, int]:
    words = [word for text in TEXTS for word in text.split()]
    return {word: words.count(word) for word in words}


@pytest.mark.parametrize(("kind", "size"), [("char", None), ("word", None), ("bpe", 12), ("unigram", 12)])
def test_the_lexicon_spells_as_the_tokenizer_does(kind, size):
    tokens = tokens_of(kind, size)
    lexicon = make_lexicon(counts(), tokens)
    assert lexicon.words == ["<eps>", "a", "at", "cat", "sat"] and not lexicon.missing
    marks = range(lexicon.first_extra_token + 1, lexicon.first_extra_token + 9)
    for text in [*TEXTS, "sat sat"]:
        assert lexicon.spell(text.split()) == tokens.encode(text)
        expected = tuple(lexicon.words.index(word) for word in text.split())
        assert expected in accepted(lexicon.arcs(), tokens.encode(text), marks)
    assert accepted(lexicon.arcs(), [], marks) == {(): 0.0}


def test_characters_say_one_sentence_and_nothing_between_words_is_left_out():
    tokens = tokens_of("char")
    lexicon = make_lexicon(counts(), tokens)
    marks = range(lexicon.first_extra_token + 1, lexicon.first_extra_token + 9)
    assert set(accepted(lexicon.arcs(), tokens.encode("a cat"), marks)) == {(1, 3)}
    for wrong in ("acat", " cat", "cat ", "ca", "c at"):
        assert not accepted(lexicon.arcs(), tokens.encode(wrong), marks)


def test_a_word_that_begins_another_is_marked():
    lexicon = make_lexicon({"a": 1, "at": 1, "cat": 1}, tokens_of("char"))
    labels = {arc[2] for arc in lexicon.arcs()}
    assert lexicon.first_extra_token + 1 in labels  # a, of at
    assert lexicon.first_extra_token + 2 not in labels
    assert not {arc[2] for arc in make_lexicon({"cat": 1}, tokens_of("char")).arcs()} - {
        *range(lexicon.first_extra_token + 1),
        FINAL,
    }


def test_words_without_tokens_are_listed():
    lexicon = make_lexicon({"cat": 2, "dog": 3}, tokens_of("char"))
    assert lexicon.words == ["<eps>", "cat"] and lexicon.missing == {"dog": 3}
    with pytest.raises(LrsmsError, match="spell none of 1 words, such as 'dog'"):
        make_lexicon({"dog": 3}, tokens_of("word"))


def test_without_a_token_between_words_they_follow_each_other():
    tokens = Tokens([BLANK, UNK, "a", "b", SOS_EOS], "char")
    lexicon = make_lexicon({"a": 1, "b": 1}, tokens)
    assert lexicon.space is None and SPACE not in lexicon.token_list
    assert accepted(lexicon.arcs(), [2, 3], ()) == {(1, 2): 0.0}


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_language_model_scores_its_sentences(order):
    sentences = [text.split() for text in TEXTS]
    model, lexicon = estimate(sentences, order), make_lexicon(counts(), tokens_of("word"))
    arcs, left_out = language_arcs(model, lexicon)
    assert left_out == 0
    for words in [*sentences, ["sat", "sat", "a"], ["cat"]]:
        numbers = tuple(lexicon.words.index(word) for word in words)
        (said, score), *more = accepted(arcs, numbers, [lexicon.first_extra_word]).items()
        assert said == numbers and not more
        # An arc of its own may be less likely than backing off: the better of the two is found.
        assert score >= model.score(words) - 1e-6
        assert score == pytest.approx(model.score(words), abs=0.3)


def test_ngrams_with_words_outside_the_lexicon_are_counted():
    model = estimate([text.split() for text in TEXTS] + [["a", "dog"]], 2)
    arcs, left_out = language_arcs(model, make_lexicon(counts(), tokens_of("word")))
    assert left_out == sum("dog" in ngram for ngram in model.log10) == 3
    assert max(arc[2] for arc in arcs) == 5  # four words and back-off
