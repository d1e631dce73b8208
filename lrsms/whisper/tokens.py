"""Whisper's tokens: text to numbers and back, prompts, and the tokens that are never said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.whisper.dimensions import ENGLISH_VOCABULARY

END, START = "<|endoftext|>", "<|startoftranscript|>"
NO_TIMESTAMPS = "<|notimestamps|>"
TASKS = ("transcribe", "translate")
TIMESTAMP_SECONDS = 0.02  # between the tokens of two times
_LAST_TIME = 1500  # of them: 30 s
# openai-whisper's list of what annotates rather than transcribes: brackets, dashes, notes, and their runs.
_ANNOTATIONS = ['"', "#", "(", ")", "*", "+", "/", ":", ";", "<", "=", ">", "@", "[", "\\", "]", "^", "_", "`", "{", "|", "}", "~", "「", "」", "『", "』"]  # fmt: skip  # noqa: E501
_ANNOTATIONS += "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
_NOTES = "♩♪♫♬♭♮♯"  # several tokens each: the first of them will do
# A byte as GPT-2's tokenizers write it: itself if it can be seen, else one of the characters from 256 on.
_SEEN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = [byte for byte in range(256) if byte not in _SEEN]
_BYTES = {chr(byte): byte for byte in _SEEN} | {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}
_NEVER = ("transcribe", "translate", "startoftranscript", "startofprev", "startoflm", "nospeech", "nocaptions")


class WhisperTokens:
    """Tokens of one model. It does what :class:`lrsms.data.tokens.Tokens` does, of texts that begin with a space.

    Args:
        tokenizer: ``tokenizer.json`` of transformers or CTranslate2.
        count: tokens of the model; times that the file leaves out are added.

    Attributes:
        token_list: every token, a number being its place.

    Raises:
        LrsmsError: not found, not such a file, or of a model of another vocabulary.
    """

    token_type = "whisper"
    space = None
    separator = " "
    are_pieces = True

    def __init__(self, tokenizer: Path, count: int):
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise LrsmsError(f"{tokenizer}: to read it, install tokenizers: pip install lrsms[whisper]") from error
        if not tokenizer.is_file():
            raise LrsmsError(f"{tokenizer}: not found")
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises Exception itself
            raise LrsmsError(f"{tokenizer}: not a tokenizer.json: {error}") from error
        known = self._tokenizer.get_vocab()
        absent = [name for name in (END, START, NO_TIMESTAMPS) if name not in known]
        if absent:
            raise LrsmsError(f"{tokenizer}: has no {absent[0]}: not Whisper's")
        first = known[NO_TIMESTAMPS] + 1
        known |= {f"<|{TIMESTAMP_SECONDS * step:.2f}|>": first + step for step in range(_LAST_TIME + 1)}
        names = {number: name for name, number in known.items()}
        if sorted(names) != list(range(count)):
            raise LrsmsError(f"{tokenizer}: has {len(names):,} tokens, the model {count:,}: of another model")
        self.token_list = [names[number] for number in range(count)]
        self._ids = known

    def __len__(self) -> int:
        return len(self.token_list)

    def id(self, token: str) -> int:
        """Number of a token."""
        return self._ids[token]

    @property
    def multilingual(self) -> bool:
        """Whether prompts name a language and a task; models named ``*.en`` know English transcription alone."""
        return len(self) != ENGLISH_VOCABULARY and len(self.languages) > 1

    @property
    def end(self) -> int:
        """Number of the token that ends a text."""
        return self._ids[END]

    @property
    def first_time(self) -> int:
        """Number of ``<|0.00|>``; those from there on are times."""
        return self._ids[NO_TIMESTAMPS] + 1

    @cached_property
    def languages(self) -> dict[str, int]:
        """Code -> number of its token."""
        first, last = self._ids[START] + 1, self._ids["<|translate|>"]
        return {self.token_list[number].strip("<|>"): number for number in range(first, last)}

    def encode(self, text: str) -> list[int]:
        """Numbers of a text, which is given the space that Whisper begins with."""
        return self._encode(f" {text.strip()}")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def split(self, text: str) -> list[str]:
        """Tokens of a text."""
        return [self.token_list[number] for number in self.encode(text)]

    @cached_property
    def parts(self) -> dict[int, tuple[int, int]]:
        """Number of a token -> those of the two that byte-pair encoding merges to it; bytes have none."""
        merges = json.loads(self._tokenizer.to_str())["model"]["merges"]  # "a b" in older files, ["a", "b"] in others
        pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges)
        return {self._ids[one + two]: (self._ids[one], self._ids[two]) for one, two in pairs}

    def unknown(self, text: str) -> list[str]:
        """None: bytes spell whatever there is."""
        return []

    def decode(self, ids: Iterable[int]) -> str:
        """Text of numbers; special tokens and times are left out."""
        return self._tokenizer.decode([number for number in ids if number < self.end], skip_special_tokens=True).strip()

    def prompt(self, language: str, task: str, timestamps: bool) -> list[int]:
        """What stands before a text: start, language and task (of a multilingual model), and whether times are wanted.

        Raises:
            LrsmsError: an unknown language or task, or one that an English model does not know.
        """
        if task not in TASKS:
            raise LrsmsError(f"whisper: task: {task!r} is unknown; choose one of {', '.join(TASKS)}")
        prompt = [self._ids[START]]
        if self.multilingual:
            if language not in self.languages:
                raise LrsmsError(f"whisper: language: {language!r} is unknown; it has {', '.join(self.languages)}")
            prompt += [self.languages[language], self._ids[f"<|{task}|>"]]
        elif language != "en" or task != "transcribe":
            raise LrsmsError(f"whisper: language: {language}, task: {task}: an English model only transcribes English")
        return prompt if timestamps else [*prompt, self._ids[NO_TIMESTAMPS]]

    @cached_property
    def never_said(self) -> list[int]:
        """Numbers of the tokens that recognition leaves out: annotations, and the special ones but the end."""
        return sorted({*self.annotations, *(self._ids[f"<|{name}|>"] for name in _NEVER if f"<|{name}|>" in self._ids)})

    @cached_property
    def annotations(self) -> list[int]:
        """Numbers of the tokens that describe rather than transcribe; openai-whisper's ``non_speech_tokens``."""
        numbers = {self._encode(" -")[0], self._encode(" '")[0]}
        for symbol in [*_ANNOTATIONS, *_NOTES]:
            for tokens in (self._encode(symbol), self._encode(f" {symbol}")):
                if len(tokens) == 1 or symbol in _NOTES:
                    numbers.add(tokens[0])
        return sorted(numbers)

    def bytes_of(self, number: int) -> bytes:
        """What a token of text spells, which need not be whole characters."""
        return bytes(_BYTES[character] for character in self.token_list[number])

    @cached_property
    def never_first(self) -> list[int]:
        """Numbers of the tokens that no text begins with: a space alone, and the end."""
        return [*self._encode(" "), self.end]


def token_lines(tokens: Sequence[str]) -> str:
    """The tokens as ``tokens.txt`` has them."""
    return "\n".join(tokens) + "\n"
