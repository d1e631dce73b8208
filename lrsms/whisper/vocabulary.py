"""A smaller vocabulary for Whisper: rare tokens go, and bytes or other tokens spell what they spelled.

In byte-pair encoding (Sennrich et al. 2016) every token is two others merged. A vocabulary that keeps the parts of all
that it keeps is one by itself: what had only kept tokens is split as before, and anything else into parts of it. The
embedding, more than half of tiny.en, loses its rows, and whatever knows byte-pair encoding goes on working.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from lrsms.errors import LrsmsError
from lrsms.files import write_json
from lrsms.whisper.tokens import START, WhisperTokens


def cut_tokenizer(source: Path, count: int, size: int, texts: Iterable[str], target: Path) -> torch.Tensor:
    """Write a ``tokenizer.json`` of fewer tokens.

    The tokens that most of ``texts`` have are kept, then those that were merged first, which text in general has most.
    A token of one text counts as one of none: so the texts have words that are split, as others will. Bytes, parts of
    what is kept, annotations and special tokens stay; of an English model, the languages that it does not know go.

    Args:
        source: ``tokenizer.json`` of the model.
        count: tokens of the model.
        size: tokens of text to keep.
        texts: what will be recognized is like these.
        target: file that is written.

    Returns:
        Numbers of the tokens that are kept, ``(tokens,)``, in rising order: the rows of the embedding that stay.

    Raises:
        LrsmsError: fewer than the bytes and the annotations need, or not fewer than there are.
    """
    tokens = WhisperTokens(source, count)
    content = json.loads(source.read_text(encoding="utf-8"))
    model = content["model"]
    words = sorted(number for number in model["vocab"].values() if number < tokens.end)
    kept: set[int] = set()

    def missing(number: int) -> set[int]:
        """It, and the parts that it is made of, unless they are kept already."""
        return set() if number in kept else {number}.union(*map(missing, tokens.parts.get(number, ())))

    bytes_ = [number for number in words if number not in tokens.parts]
    for number in [*bytes_, *tokens.annotations, *(number for number in tokens.never_first if number < tokens.end)]:
        kept |= missing(number)
    if not len(kept) <= size < len(words):
        raise LrsmsError(
            f"vocabulary: {size:,} is not between {len(kept):,}, which bytes and annotations need, and the "
            f"{len(words) - 1:,} that are fewer than the tokens of text in {source}"
        )
    found_in = Counter(number for text in set(texts) for number in set(tokens.encode(text)))
    frequent = [number for number, times in found_in.most_common() if times > 1]
    for number in [*frequent, *words]:
        if len(kept) + len(more := missing(number)) <= size:
            kept |= more
    languages = set() if tokens.multilingual else set(tokens.languages.values()) - {tokens.id(START) + 1}
    rows = [
        number for number in range(len(tokens)) if (number in kept if number < tokens.end else number not in languages)
    ]
    place = {old: new for new, old in enumerate(rows)}
    model["vocab"] = {name: place[old] for name, old in model["vocab"].items() if old in place}
    merged = tokens.parts  # in the order of the merges
    model["merges"] = [pair for pair, number in zip(model["merges"], merged, strict=True) if number in kept]
    content["added_tokens"] = [
        {**token, "id": place[token["id"]]} for token in content["added_tokens"] if token["id"] in place
    ]
    for special in ((content.get("post_processor") or {}).get("special_tokens") or {}).values():
        special["ids"] = [place[old] for old in special["ids"]]
    write_json(target, content)
    return torch.tensor(rows)
