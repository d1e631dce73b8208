"""Words as sequences of a model's tokens, and both lexicon and language model as arcs of acceptors.

An arc is ``(source, destination, label, output, log-probability)``. Label and output -1 stand on arcs into the last
state, which is final: k2's convention. Output 0 is no word. The construction is Kaldi's (Mohri, Pereira and Riley
2008): symbols after the tokens tell words apart of which one begins like the other, the first of them marks back-off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lrsms.data.tokens import UNK, Tokens
from lrsms.errors import LrsmsError
from lrsms.fsa.ngram import BOS, EOS, NGram

Arc = tuple[int, int, int, int, float]
FINAL = -1


@dataclass(frozen=True)
class Lexicon:
    """The words that can be recognized.

    Attributes:
        token_list: the model's tokens, an id being its position.
        spellings: token ids of each word, without the token between words.
        space: id of the token between words; None if words follow each other at once.
        missing: words that the tokens cannot spell, with how often they were said.
    """

    token_list: tuple[str, ...]
    spellings: Mapping[str, tuple[int, ...]]
    space: int | None
    missing: Mapping[str, int]

    @property
    def words(self) -> list[str]:
        """Words by their number; 0 is no word."""
        return ["<eps>", *self.spellings]

    @property
    def first_extra_token(self) -> int:
        """Number of the first label that is not a token: the back-off's."""
        return len(self.token_list)

    @property
    def first_extra_word(self) -> int:
        """Number of the first output that is not a word: the back-off's."""
        return len(self.spellings) + 1

    def spell(self, words: Iterable[str]) -> list[int]:
        """Token ids of a sentence."""
        ids: list[int] = []
        for word in words:
            if self.space is not None and ids:
                ids.append(self.space)
            ids += self.spellings[word]
        return ids

    def arcs(self) -> list[Arc]:
        """Tokens to words, in any order and number."""
        arcs: list[Arc] = []
        spaces = [] if self.space is None else [self.space]
        between = len(spaces)  # 0 is the start: there, no space comes before the word
        states = between + 1
        marks = self._marks()
        for number, (word, spelling) in enumerate(self.spellings.items(), 1):
            labels = [*spelling, *([marks[word]] if word in marks else [])]
            for source in range(between + 1):
                path = spaces * source + labels
                inner = list(range(states, states + len(path) - 1))
                states += len(inner)
                ends = [source, *inner, between]
                outputs = [number] + [0] * len(inner)
                arcs += [(*step, 0.0) for step in zip(ends, ends[1:], path, outputs)]
        for state in range(between + 1):
            arcs.append((state, state, self.first_extra_token, self.first_extra_word, 0.0))
            arcs.append((state, states, FINAL, FINAL, 0.0))
        return arcs

    def _marks(self) -> dict[str, int]:
        """A label after the tokens of each word that is spelled like another or like another's beginning."""
        counts = Counter(self.spellings.values())
        beginnings = {spelling[:end] for spelling in counts for end in range(1, len(spelling))}
        used: Counter = Counter()
        marks = {}
        for word, spelling in self.spellings.items():
            if counts[spelling] > 1 or spelling in beginnings:
                used[spelling] += 1
                marks[word] = self.first_extra_token + used[spelling]
        return marks


def make_lexicon(counts: Mapping[str, int], tokens: Tokens) -> Lexicon:
    """Spell every word of ``counts`` as the model's tokenizer does.

    Args:
        counts: words, and how often they were said.
        tokens: the model's.

    Raises:
        LrsmsError: none of them can be spelled.
    """
    unknown = tokens.token_list.index(UNK)
    spellings, missing = {}, {}
    for word in sorted(counts):
        spelling = tuple(tokens.encode(word))
        if spelling and unknown not in spelling:
            spellings[word] = spelling
        else:
            missing[word] = counts[word]
    if not spellings:
        raise LrsmsError(f"the model's tokens spell none of {len(counts)} words, such as {next(iter(missing), '')!r}")
    return Lexicon(tuple(tokens.token_list), spellings, tokens.space, missing)


def language_arcs(model: NGram, lexicon: Lexicon) -> tuple[list[Arc], int]:
    """A language model as an acceptor of words: a state for each history, back-off an arc of its own.

    Returns:
        The arcs, and how many n-grams hold words that are not in the lexicon and were left out.
    """
    numbers = {word: number for number, word in enumerate(lexicon.words)}
    known = [ngram for ngram in model.log10 if all(word in numbers for word in ngram if word not in (BOS, EOS))]
    start = _start(known)
    histories = sorted({ngram[:-1] for ngram in known}, key=lambda words: (words != start, len(words), words))
    states = {history: state for state, history in enumerate(histories)}
    final, to_natural = len(states), math.log(10)

    def longest(history: tuple[str, ...]) -> tuple[str, ...]:
        while history not in states:
            history = history[1:]
        return history

    arcs: list[Arc] = []
    for ngram in known:
        word = ngram[-1]
        score = model.log10[ngram] * to_natural
        if word == EOS:
            arcs.append((states[ngram[:-1]], final, FINAL, FINAL, score))
        elif word != BOS:
            number = numbers[word]
            arcs.append((states[ngram[:-1]], states[longest(ngram)], number, number, score))
    for history, state in states.items():
        if history:
            weight, back = 0.0, history
            while back == history or back not in states:
                weight, back = weight + model.backoff.get(back, 0.0), back[1:]
            arcs.append((state, states[back], lexicon.first_extra_word, 0, weight * to_natural))
    return arcs, len(model.log10) - len(known)


def _start(ngrams: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The history of a sentence's beginning; of a unigram model the only one there is."""
    return (BOS,) if any(len(ngram) > 1 and ngram[0] == BOS for ngram in ngrams) else ()
