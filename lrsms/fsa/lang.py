"""Lexicon and n-gram language model of the training text: what a decoding graph is composed of. Needs no k2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsms import stamp
from lrsms.data.tokens import UNK, Tokens, transcripts
from lrsms.files import write_text
from lrsms.fsa.lexicon import Lexicon, make_lexicon
from lrsms.fsa.ngram import NGram, estimate, read_arpa

MODEL, LEXICON, MISSING = "lm.arpa", "lexicon.txt", "missing_words.tsv"
_MARKER = "lang_inputs.json"


@dataclass(frozen=True)
class Language:
    """What may be said, and how likely it is.

    Attributes:
        model: of the words.
        lexicon: their spellings in the model's tokens.
        sentences: the training text, as words.
    """

    model: NGram
    lexicon: Lexicon
    sentences: list[list[str]]

    def write(self, folder: Path) -> None:
        """Write ``lexicon.txt`` (a word and its tokens), ``missing_words.tsv`` and ``lm.arpa``."""
        lexicon = self.lexicon
        spelled = [
            f"{word}\t{' '.join(lexicon.token_list[i] for i in spelling)}"
            for word, spelling in lexicon.spellings.items()
        ]
        missing = ["word\tcount", *(f"{word}\t{count}" for word, count in lexicon.missing.items())]
        write_text(folder / LEXICON, "\n".join(spelled) + "\n")
        write_text(folder / MISSING, "\n".join(missing) + "\n")
        self.model.write_arpa(folder / MODEL)


def graph_folder(lang: Path, order: int, arpa: Path | None = None) -> Path:
    """``<lang>/hlg_<order>gram``, or ``<lang>/hlg_<name>`` for a language model from a file."""
    return lang / (f"hlg_{arpa.stem}" if arpa else f"hlg_{order}gram")


def inputs_of(lang: Path, cuts: Sequence[Path], arpa: Path | None) -> list[Path]:
    """Files that a language, and so a graph, is made from."""
    tokens = sorted(path for name in ("tokens.txt", "bpe.model") if (path := lang / name).exists())
    return [*tokens, *cuts, *([arpa] if arpa else [])]


def make_language(lang: Path, cuts: Sequence[Path], order: int = 3, arpa: Path | None = None) -> Language:
    """Spell the words of the training text, and estimate or read the language model.

    Args:
        lang: folder of stage 2.
        cuts: manifests of the training splits.
        order: of the n-gram model that is estimated.
        arpa: a language model to take in place of it, whose words are then the lexicon's.

    Raises:
        LrsmsError: an input is missing or damaged, or the tokens spell no word.
    """
    tokens = Tokens.load(lang)
    sentences = [text.split() for path in cuts for text in transcripts(path)]
    counts = Counter(word for words in sentences for word in words)
    model = read_arpa(arpa) if arpa else None
    if model:
        counts = Counter({word: counts[word] for word in model.vocabulary if word.lower() != UNK})
    lexicon = make_lexicon(counts, tokens)
    if model is None:
        model = estimate([words for words in sentences if not any(word in lexicon.missing for word in words)], order)
    return Language(model, lexicon, sentences)


def prepare_lang(
    lang: Path, cuts: Sequence[Path], *, order: int = 3, arpa: Path | None = None, force: bool = False
) -> Path:
    """Write lexicon and language model alone, unless they exist and nothing has changed.

    Args:
        lang, cuts, order, arpa: see :func:`make_language`.
        force: write them again.

    Returns:
        The folder, :func:`graph_folder`.

    Raises:
        LrsmsError: see :func:`make_language`.
    """
    folder, arguments, inputs = graph_folder(lang, order, arpa), {"order": order}, inputs_of(lang, cuts, arpa)
    complete = all((folder / name).exists() for name in (LEXICON, MISSING, MODEL))
    if not force and complete and stamp.is_current(folder / _MARKER, arguments, inputs):
        print(f"{folder}: lexicon and language model exist and their inputs have not changed; skipped")
        return folder
    language = make_language(lang, cuts, order, arpa)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).unlink(missing_ok=True)
    language.write(folder)
    stamp.write(folder / _MARKER, arguments, inputs)
    model, words = language.model, len(language.lexicon.spellings)
    print(f"{folder}: {words} words, {len(model.log10)} n-grams up to {model.order} words")
    return folder
