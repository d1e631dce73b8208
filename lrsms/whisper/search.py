"""Greedy and beam search as openai-whisper does them, on one recording of at most 30 s."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lrsms.errors import LrsmsError, refuse_unknown
from lrsms.scoring.normalizers import normalizer
from lrsms.whisper.dimensions import POSITION_SECONDS
from lrsms.whisper.model import DecoderState, TextDecoder
from lrsms.whisper.rules import Rules
from lrsms.whisper.tokens import START, TASKS, WhisperTokens

DETECT = "detect"


@dataclass(frozen=True)
class SearchOptions:
    """The ``whisper:`` block of a decoding YAML.

    Attributes:
        language: code of what is spoken, or ``detect``; an English model knows ``en``.
        task: ``transcribe`` or ``translate`` (to English).
        timestamps: whether times are said; they are no part of the text.
        length_penalty: hypotheses are compared by their log-probability over their length, or with a number over
            ((5 + length) / 6) to its power (Wu et al. 2016).
        max_tokens: of a text; None for half the decoder's positions.
        compression_ratio_threshold: a text that zlib makes shorter by more than this repeats itself, openai-whisper's
            measure and value; None to take every text. A model with condensed silence hears such a recording again
            with all of the silence.
        normalizer: of both sides when errors are counted, one of :data:`lrsms.scoring.normalizers.NORMALIZERS`.
    """

    language: str = "en"
    task: str = "transcribe"
    timestamps: bool = False
    length_penalty: float | None = None
    max_tokens: int | None = None
    compression_ratio_threshold: float | None = 2.4
    normalizer: str | None = None

    @classmethod
    def parse(cls, block: Mapping | None, where: str) -> SearchOptions:
        """Check a block.

        Raises:
            LrsmsError: an unknown key or a value out of range.
        """
        if block is None:
            return cls()
        if not isinstance(block, Mapping):
            raise LrsmsError(f"{where}: {block!r} is not a mapping; write for example {where}: {{timestamps: false}}")
        refuse_unknown(block, cls.__dataclass_fields__, where)
        options = cls(**block)
        if not isinstance(options.language, str):
            raise LrsmsError(f"{where}: language: {options.language!r} is no code; write for example 'en' in quotes")
        if options.task not in TASKS:
            raise LrsmsError(f"{where}: task: {options.task!r} is unknown; choose one of {', '.join(TASKS)}")
        if not isinstance(options.timestamps, bool):
            raise LrsmsError(f"{where}: timestamps: {options.timestamps!r} is neither true nor false")
        if options.max_tokens is not None and (not isinstance(options.max_tokens, int) or options.max_tokens < 1):
            raise LrsmsError(f"{where}: max_tokens: {options.max_tokens!r} is not a whole number of at least 1")
        ratio = options.compression_ratio_threshold
        if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, int | float) or not ratio >= 1):
            raise LrsmsError(f"{where}: compression_ratio_threshold: {ratio!r} is not a number of at least 1, or null")
        penalty = options.length_penalty
        if penalty is not None and (not isinstance(penalty, int | float) or not 0 <= penalty <= 1):
            raise LrsmsError(f"{where}: length_penalty: {penalty!r} is not a number from 0 to 1")
        if options.normalizer is not None:
            normalizer(options.normalizer)
        return options


@dataclass(frozen=True)
class Hypothesis:
    """What was recognized.

    Attributes:
        tokens: numbers, without prompt and end; times among them if they are said.
        score: log-probability.
    """

    tokens: tuple[int, ...]
    score: float


def repeats_itself(text: str, threshold: float | None) -> bool:
    """Whether zlib makes a text shorter by more than ``threshold``; None for never."""
    content = text.encode()
    return threshold is not None and len(content) > threshold * len(zlib.compress(content))


@torch.no_grad()
def search(
    decoder: TextDecoder,
    memory: Tensor,
    tokens: WhisperTokens,
    options: SearchOptions,
    beam_size: int = 1,
    counts: Tensor | None = None,
) -> list[Hypothesis]:
    """The best hypotheses of one recording, best first.

    Args:
        decoder: in evaluation mode.
        memory: ``(1, S, D)`` of the encoder.
        tokens: of the model.
        options: language, task, times.
        beam_size: 1 for greedy search.
        counts: ``(1, S)``, for how many positions each of the encoder's stands; None if each is itself.
    """
    state = decoder.begin(memory, counts)
    language = options.language
    if language == DETECT:
        language = detect_language(decoder, state, tokens) if tokens.multilingual else "en"
    prompt = tokens.prompt(language, options.task, options.timestamps)
    positions = memory.shape[1] if counts is None else int(counts.sum())
    rules = Rules(tokens, options.timestamps, positions * POSITION_SECONDS)
    longest = len(decoder.positional_embedding)
    most = min(options.max_tokens or longest // 2, longest - len(prompt))
    logits = decoder(torch.tensor([prompt], device=memory.device), state)[:, -1]
    if beam_size == 1:
        return [_greedy(decoder, state, logits, rules, most)]
    return _beam(decoder, state, logits, rules, most, beam_size, options.length_penalty)


@torch.no_grad()
def detect_language(decoder: TextDecoder, state: DecoderState, tokens: WhisperTokens) -> str:
    """Code of the likeliest language of the recording that ``state`` is the beginning of; it stays as it is."""
    fresh = DecoderState(state.memory, mask=state.mask)
    start = torch.tensor([[tokens.id(START)]], device=state.memory[0][0].device)
    logits = decoder(start, fresh)[0, -1]
    return max(tokens.languages, key=lambda code: float(logits[tokens.languages[code]]))


def _greedy(decoder: TextDecoder, state: DecoderState, logits: Tensor, rules: Rules, most: int) -> Hypothesis:
    said: list[int] = []
    score = 0.0
    while True:
        likely = rules.apply(logits, [said]).log_softmax(-1)[0]
        best = int(likely.argmax())
        score += float(likely[best])
        if best == rules.end:
            return Hypothesis(tuple(said), score)
        said.append(best)
        if len(said) == most:
            return Hypothesis(tuple(said), score)
        logits = decoder(torch.tensor([[best]], device=logits.device), state)[:, -1]


def _beam(decoder, state, logits, rules: Rules, most: int, size: int, penalty: float | None) -> list[Hypothesis]:
    said: list[list[int]] = [[]]
    scores = torch.zeros(1, device=logits.device)
    finished: list[Hypothesis] = []
    while True:
        likely = rules.apply(logits, said).log_softmax(-1)
        best = (scores[:, None] + likely).flatten().topk(min(2 * size, likely.numel()))
        rows, numbers = best.indices // likely.shape[1], best.indices % likely.shape[1]
        kept: list[int] = []
        for place, (row, number, score) in enumerate(zip(rows.tolist(), numbers.tolist(), best.values.tolist())):
            if score == -torch.inf:
                continue
            if number == rules.end:
                finished += [Hypothesis(tuple(said[row]), score)] if len(finished) < size else []
            elif len(kept) < size:
                kept.append(place)
            if len(kept) == size:
                break
        said = [[*said[int(rows[place])], int(numbers[place])] for place in kept]
        scores = best.values[kept]
        if len(finished) >= size or not kept or len(said[0]) == most:
            break
        state = state.chosen(rows[kept])
        logits = decoder(numbers[kept][:, None], state)[:, -1]
    unfinished = [Hypothesis(tuple(tokens), float(score)) for tokens, score in zip(said, scores)]
    finished += unfinished[: size - len(finished)]
    return sorted(finished, key=lambda item: -item.score / _length(len(item.tokens), penalty))


def _length(tokens: int, penalty: float | None) -> float:
    return max(1, tokens) if penalty is None else ((5 + tokens) / 6) ** penalty
