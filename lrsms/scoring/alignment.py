"""Counting recognition errors of one utterance, with sclite's alignment weights as ESPnet's tables have them."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from kaldialign import align

EMPTY = "*"  # stands in an alignment for the side that has nothing, as in sclite's reports
_GAP = "\0"  # the aligner's own mark: no token can be this, whereas a token can be EMPTY


@dataclass(frozen=True)
class Counts:
    """Error counts of one or, added up, of several utterances.

    ``tokens`` is the number of reference tokens (words or characters); the other names are sclite's.
    """

    sentences: int = 0
    tokens: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    sentence_errors: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def percentages(self) -> tuple[float, ...]:
        """Corr, Sub, Del, Ins, Err in percent of the reference tokens and S.Err in percent of the sentences.

        Without any reference token the first five are 0, or infinite if there is something to count.
        """
        counts = (self.correct, self.substitutions, self.deletions, self.insertions, self.errors)
        return (*(_percent(count, self.tokens) for count in counts), _percent(self.sentence_errors, self.sentences))


def _percent(count: int, total: int) -> float:
    if total == 0:
        return 0.0 if count == 0 else float("inf")
    return 100.0 * count / total


def to_words(text: str) -> list[str]:
    """Split at white space."""
    return text.split()


def to_characters(text: str) -> list[str]:
    """Characters of the words joined by single spaces, a space being ``<space>``: ESPnet's tokens for CER."""
    return ["<space>" if character == " " else character for character in " ".join(text.split())]


def align_tokens(ref: Sequence[str], hyp: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Pairs (reference token, hypothesis token); ``None`` for the side that has nothing.

    Insertions and deletions cost 3 and substitutions 4, as in NIST's sclite, which scores ESPnet's tables. Tokens
    are compared as they are: unlike sclite, upper and lower case differ.
    """
    pairs = align(list(ref), list(hyp), _GAP, sclite_mode=True)
    return [(None if r == _GAP else r, None if h == _GAP else h) for r, h in pairs]


def count_pairs(pairs: Sequence[tuple[str | None, str | None]]) -> Counts:
    """Counts of one aligned utterance."""
    correct = sum(r == h for r, h in pairs)
    deletions = sum(h is None for _, h in pairs)
    insertions = sum(r is None for r, _ in pairs)
    return Counts(
        sentences=1,
        tokens=len(pairs) - insertions,
        correct=correct,
        substitutions=len(pairs) - correct - deletions - insertions,
        deletions=deletions,
        insertions=insertions,
        sentence_errors=int(correct < len(pairs)),
    )


def error_counts(ref: Sequence[str], hyp: Sequence[str]) -> Counts:
    """Counts of one utterance, given the tokens of its reference and hypothesis."""
    return count_pairs(align_tokens(ref, hyp))
