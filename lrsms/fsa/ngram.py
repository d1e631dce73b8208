"""Back-off n-gram language models: Witten and Bell's estimate from text, and the ARPA format.

Witten-Bell, and not Kneser-Ney, whose discounts come from counts of counts: of the closed vocabularies that small
corpora have (digits, commands), there is often no n-gram that occurs just once, and they are not defined.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.files import atomic_write
from lrsms.text_files import read_lines, split_words

BOS, EOS = "<s>", "</s>"
_NEVER = -99.0  # ARPA's log10 of zero
_LN10 = math.log(10)

Words = tuple[str, ...]


@dataclass(frozen=True)
class NGram:
    """A back-off language model.

    Attributes:
        order: words of its longest n-grams.
        log10: log10 of the probability of an n-gram's last word after the others.
        backoff: log10 of the weight of the next shorter history, where an n-gram with this history is not in ``log10``;
            0 if there is none.
    """

    order: int
    log10: Mapping[Words, float]
    backoff: Mapping[Words, float]

    @property
    def vocabulary(self) -> list[str]:
        """The model's words, without ``<s>`` and ``</s>``."""
        return sorted(ngram[0] for ngram in self.log10 if len(ngram) == 1 and ngram[0] not in (BOS, EOS))

    def word_log10(self, history: Words, word: str) -> float:
        """log10 of the probability of ``word`` after ``history``; -inf for a word it does not know."""
        history, weight = history[max(0, len(history) - self.order + 1) :], 0.0
        while (*history, word) not in self.log10:
            if not history:
                return -math.inf
            weight += self.backoff.get(history, 0.0)
            history = history[1:]
        return weight + self.log10[(*history, word)]

    def score(self, words: Sequence[str]) -> float:
        """Natural logarithm of the probability of a sentence, its end included."""
        padded = (BOS, *words, EOS)
        return _LN10 * sum(self.word_log10(padded[:i], padded[i]) for i in range(1, len(padded)))

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per word and sentence end; those with a word that it does not know are left out."""
        scores = [(self.score(words), len(words) + 1) for words in sentences]
        known = [(score, count) for score, count in scores if score > -math.inf]
        return math.exp(-sum(score for score, _ in known) / max(1, sum(count for _, count in known)))

    def write_arpa(self, path: Path) -> None:
        """Write ``path`` in the ARPA format."""
        orders = [[ngram for ngram in self.log10 if len(ngram) == order] for order in range(1, self.order + 1)]
        with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.write("\\data\\\n" + "".join(f"ngram {i}={len(ngrams)}\n" for i, ngrams in enumerate(orders, 1)))
            for order, ngrams in enumerate(orders, 1):
                file.write(f"\n\\{order}-grams:\n")
                for ngram in sorted(ngrams):
                    weight = f"\t{self.backoff[ngram]:.7f}" if ngram in self.backoff else ""
                    file.write(f"{self.log10[ngram]:.7f}\t{' '.join(ngram)}{weight}\n")
            file.write("\n\\end\\\n")


def estimate(sentences: Iterable[Sequence[str]], order: int) -> NGram:
    """Interpolated Witten-Bell model of the sentences' words (Chen and Goodman 1998, section 2.6).

    A history h that was followed by T different words in N places gives its next shorter history the weight
    T / (N + T); the shortest of all is uniform over the vocabulary and the end of the sentence.

    Raises:
        LrsmsError: there is no word to estimate from.
    """
    followers: dict[Words, Counter] = {}
    for words in sentences:
        padded = (BOS, *words, EOS)
        for end in range(1, len(padded)):
            for start in range(max(0, end - order + 1), end + 1):
                followers.setdefault(padded[start:end], Counter())[padded[end]] += 1
    vocabulary = followers.get((), Counter())
    if not set(vocabulary) - {EOS}:
        raise LrsmsError("the training text has no words to make a language model from")

    log10: dict[Words, float] = {(BOS,): _NEVER}
    backoff: dict[Words, float] = {}
    probabilities: dict[Words, float] = {}
    for history in sorted(followers, key=lambda words: (len(words), words)):
        counts = followers[history]
        total, types = counts.total(), len(counts)
        if history:
            backoff[history] = math.log10(types / (total + types))
        for word, count in counts.items():
            shorter = probabilities[(*history[1:], word)] if history else 1 / len(vocabulary)
            probabilities[(*history, word)] = (count + types * shorter) / (total + types)
    log10.update((ngram, math.log10(probability)) for ngram, probability in probabilities.items())
    return NGram(order, log10, backoff)


def read_arpa(path: Path) -> NGram:
    """A model in the ARPA format, from any toolkit; it may know words, such as ``<unk>``, that a lexicon does not.

    Raises:
        LrsmsError: no such file, or one that is damaged; names the line.
    """
    lines = read_lines(path)
    announced: dict[int, int] = {}
    counts: Counter = Counter()
    log10: dict[Words, float] = {}
    backoff: dict[Words, float] = {}
    for number, section, line in _sections(lines, path):
        if section == 0:
            count = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
            if not count:
                raise LrsmsError(f"{path}: line {number}: {line!r}: expected such as 'ngram 1=100'")
            announced[int(count[1])] = int(count[2])
            continue
        fields = split_words(line)
        try:
            ngram, weights = tuple(fields[1 : section + 1]), fields[section + 1 :]
            log10[ngram] = float(fields[0])
            if weights:
                (backoff[ngram],) = map(float, weights)
            if len(ngram) != section:
                raise ValueError
        except (ValueError, IndexError):
            raise LrsmsError(f"{path}: line {number}: {line!r}: not an n-gram of {section} words") from None
        counts[section] += 1
    if not log10 or announced != dict(counts):
        raise LrsmsError(f"{path}: damaged: announces n-grams {announced} and holds {dict(counts)}")
    for ngram in log10:
        if len(ngram) > 1 and ngram[:-1] not in log10:
            raise LrsmsError(f"{path}: {' '.join(ngram)}: its history {' '.join(ngram[:-1])} is not in the model")
    return NGram(max(announced), log10, backoff)


def _sections(lines: Sequence[str], path: Path) -> Iterator[tuple[int, int, str]]:
    """Number, section and text of each line with content; section 0 is the one of counts."""
    section = None
    for number, line in enumerate(map(str.strip, lines), 1):
        heading = re.fullmatch(r"\\(?:(data)|(\d+)-grams:|(end))\\?", line)
        if heading:
            if heading[3]:
                return
            section = 0 if heading[1] else int(heading[2])
        elif line and section is not None:
            yield number, section, line
    raise LrsmsError(f"{path}: cut off: no line \\end\\; expected a language model in the ARPA format")
