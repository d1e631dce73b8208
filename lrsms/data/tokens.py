"""Stage 2: token lists, and the mapping between a transcript and token ids that ESPnet's preprocessor makes.

``tokens.txt`` is in ESPnet's order: ``<blank>``, ``<unk>``, the tokens, ``<sos/eos>``. Characters and words come
by falling frequency in the training text, sentencepiece's tokens (Kudo and Richardson 2018) in its own order.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import sentencepiece

from lrsms.data.cut_files import read_cuts
from lrsms.defaults import SENTENCEPIECE_TYPES, TOKEN_TYPES
from lrsms.errors import LrsmsError
from lrsms.files import atomic_write

BLANK, UNK, SPACE, SOS_EOS = "<blank>", "<unk>", "<space>", "<sos/eos>"
_NUM_SPECIAL = 3  # sentencepiece's <unk>, <s> and </s> are as many as ESPnet's <blank>, <unk> and <sos/eos>


def lang_dir(data_dir: Path, token_type: str, vocab_size: int | None = None) -> Path:
    """``<data_dir>/lang_<type>``, with the size of the vocabulary for unigram and bpe (the others have none).

    Raises:
        LrsmsError: the type is unknown, or unigram or bpe has no size.
    """
    if token_type not in TOKEN_TYPES:
        raise LrsmsError(f"token_type {token_type}: expected one of {', '.join(TOKEN_TYPES)}")
    if token_type not in SENTENCEPIECE_TYPES:
        return data_dir / f"lang_{token_type}"
    if not vocab_size or vocab_size <= _NUM_SPECIAL:
        raise LrsmsError(f"vocab_size {vocab_size}: token_type {token_type} needs one, such as 500")
    return data_dir / f"lang_{token_type}{vocab_size}"


class Tokens:
    """Transcript to token ids and back.

    Args:
        token_list: every token, an id being its position.
        token_type: one of :data:`lrsms.defaults.TOKEN_TYPES`.
        model: sentencepiece's serialized model for unigram and bpe.
    """

    def __init__(self, token_list: Sequence[str], token_type: str, model: bytes | None = None) -> None:
        self.token_list = list(token_list)
        self.token_type = token_type
        self._ids = {token: index for index, token in enumerate(self.token_list)}
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None

    @classmethod
    def load(cls, folder: Path) -> "Tokens":
        """Read what stage 2 left in ``folder``; the type comes from the folder's name.

        Raises:
            LrsmsError: a file is missing, or the folder is not called ``lang_<type><size>``.
        """
        match = re.fullmatch(rf"lang_({'|'.join(TOKEN_TYPES)})\d*", Path(folder).name)
        if not match:
            raise LrsmsError(f"{folder}: expected a folder named lang_<{'|'.join(TOKEN_TYPES)}><size>")
        paths = [folder / "tokens.txt"] + [folder / "bpe.model"] * (match[1] in SENTENCEPIECE_TYPES)
        for path in paths:
            if not path.is_file():
                raise LrsmsError(f"{path}: no such file; run stage 2 first")
        tokens = paths[0].read_text(encoding="utf-8").rstrip("\n").split("\n")
        return cls(tokens, match[1], paths[1].read_bytes() if len(paths) > 1 else None)

    def __len__(self) -> int:
        return len(self.token_list)

    def split(self, text: str) -> list[str]:
        """Tokens of ``text``, whether or not the list has them."""
        if self._model:
            return self._model.encode(text, out_type=str)
        if self.token_type == "word":
            return text.split()
        return [SPACE if character == " " else character for character in text]

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; what the list lacks becomes ``<unk>``."""
        unknown = self._ids[UNK]
        return [self._ids.get(token, unknown) for token in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; ``<blank>`` and ``<sos/eos>`` are left out."""
        tokens = [token for token in map(self.token_list.__getitem__, ids) if token not in (BLANK, SOS_EOS)]
        if self._model:
            return self._model.decode_pieces(tokens)
        if self.token_type == "word":
            return " ".join(tokens)
        return "".join(" " if token == SPACE else token for token in tokens)

    @property
    def space(self) -> int | None:
        """Id of the token between words; None if there is none, as with words and sub-words."""
        spaced = self.token_type == "char" and SPACE in self._ids
        return self._ids[SPACE] if spaced else None

    @property
    def separator(self) -> str:
        """What joins the texts of two pieces of speech: nothing for characters that know no space."""
        return "" if self.token_type == "char" and self.space is None else " "

    @property
    def are_pieces(self) -> bool:
        """Whether words consist of several tokens, by whose spaces or marks they can be told apart."""
        return self.token_type in SENTENCEPIECE_TYPES or self.space is not None

    def unknown(self, text: str) -> list[str]:
        """Tokens of ``text`` that the list lacks."""
        return [token for token in self.split(text) if token not in self._ids]


def _by_frequency(counts: Counter) -> list[str]:
    special = {BLANK, UNK, SOS_EOS}
    return sorted((token for token in counts if token not in special), key=lambda token: (-counts[token], token))


def _train_sentencepiece(texts: list[str], token_type: str, vocab_size: int) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type=token_type, vocab_size=vocab_size,
            character_coverage=1.0, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        smallest = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if largest:
            raise LrsmsError(f"vocab_size {vocab_size}: the training text allows at most {largest[1]}") from None
        if smallest:
            raise LrsmsError(
                f"vocab_size {vocab_size}: the training text needs more than {smallest[1]}, one for each character"
            ) from None
        raise LrsmsError(f"vocab_size {vocab_size}, token_type {token_type}: sentencepiece says {error}") from None
    return model.getvalue()


def train_tokens(
    texts: Iterable[str], token_type: str, vocab_size: int | None = None
) -> tuple[list[str], bytes | None]:
    """Token list of ``texts`` and, for unigram and bpe, sentencepiece's model.

    Args:
        vocab_size: of unigram and bpe, special tokens included; characters and words are all kept.

    Raises:
        LrsmsError: there is no text, or it is too small (or too varied) for ``vocab_size``.
    """
    texts = [text for text in texts if text]
    if not texts:
        raise LrsmsError("the training splits have no text to make tokens from")
    if token_type in SENTENCEPIECE_TYPES:
        model = _train_sentencepiece(texts, token_type, vocab_size or 0)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = range(processor.get_piece_size())
        pieces = [processor.id_to_piece(i) for i in ids if not processor.is_unknown(i) and not processor.is_control(i)]
        return [BLANK, UNK, *pieces, SOS_EOS], model
    untrained = Tokens([BLANK, UNK, SOS_EOS], token_type)
    counts = Counter(token for text in texts for token in untrained.split(text))
    return [BLANK, UNK, *_by_frequency(counts), SOS_EOS], None


def transcripts(cuts_path: Path) -> Iterator[str]:
    """Transcript of each utterance in a cuts file, speed-perturbed copies counted once.

    Raises:
        LrsmsError: the file is missing.
    """
    seen: set[str] = set()
    for cut in read_cuts(cuts_path):
        name = re.sub(r"_sp\d+\.\d+$", "", cut.id)
        if name not in seen:
            seen.add(name)
            yield cut.supervisions[0].text


def build_lang(
    data_dir: Path, *, train_splits: Sequence[str], eval_splits: Sequence[str], token_type: str,
    vocab_size: int | None = None,
) -> Path:  # fmt: skip
    """Write ``tokens.txt``, ``bpe.model`` (unigram, bpe) and ``out_of_vocabulary.tsv`` to the lang folder.

    The last lists the tokens of ``eval_splits`` that the token list lacks, with columns split, token and count.

    Returns:
        The folder, as :func:`lang_dir` names it.
    """
    folder = lang_dir(data_dir, token_type, vocab_size)
    texts = [text for split in train_splits for text in transcripts(data_dir / split / "cuts.jsonl.gz")]
    token_list, model = train_tokens(texts, token_type, vocab_size)
    tokens = Tokens(token_list, token_type, model)
    rows = ["split\ttoken\tcount"]
    summary = []
    for split in eval_splits:
        counts: Counter = Counter()
        for text in transcripts(data_dir / split / "cuts.jsonl.gz"):
            counts.update(tokens.unknown(text))
        rows += [f"{split}\t{token}\t{count}" for token, count in counts.most_common()]
        examples = ", such as " + ", ".join(repr(token) for token, _ in counts.most_common(5)) if counts else ""
        summary.append(f"{split}: {counts.total()} tokens outside the list{examples}")

    files = {"tokens.txt": _lines(token_list), "out_of_vocabulary.tsv": _lines(rows)}
    if model:
        files["bpe.model"] = model
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as unfinished:
        for name, content in files.items():
            unfinished.enter_context(atomic_write(folder / name)).write_bytes(content)
    print(f"{folder}: {len(tokens)} tokens from {len(texts)} utterances")
    print("\n".join(summary))
    return folder


def check_given(folder: Path) -> None:
    """Make sure that tokens which come with a model, Whisper's, are in ``folder``.

    Raises:
        LrsmsError: they are not; the message says what puts them there.
    """
    for name in ("tokens.txt", "tokenizer.json"):
        if not (folder / name).is_file():
            raise LrsmsError(
                f"{folder / name}: not found; lrsms import_whisper, which stage 0 of egs/commonvoice/whisper1 runs, "
                f"leaves the tokens of a Whisper model there"
            )


def _lines(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
