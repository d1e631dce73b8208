"""What is chosen about decoding with k2: the method, and the ``k2`` block of a decoding YAML."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lrsms.errors import LrsmsError, refuse_unknown

CTC_ATTENTION = "ctc_attention"
K2_CTC, K2_HLG, K2_RESCORING = "k2_ctc", "k2_hlg", "k2_attention_rescoring"
METHODS = (CTC_ATTENTION, K2_CTC, K2_HLG, K2_RESCORING)
WITH_GRAPH = (K2_HLG, K2_RESCORING)  # those that search the graph of lexicon and language model


def check_method(method: str) -> str:
    """``method`` itself.

    Raises:
        LrsmsError: it is none of :data:`METHODS`.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LrsmsError(f"decode_method: {method!r}: expected one of {', '.join(METHODS)}{hint}")
    return method


@dataclass(frozen=True)
class K2Options:
    """The ``k2`` block of a decoding YAML.

    Attributes:
        ngram_order: of the language model that is made from the training text.
        arpa: file with a language model in the ARPA format to take in place of it.
        lm_scale: weight of the language model's log-probabilities in the graph.
        search_beam: log-probability below the best state of a frame that is still followed.
        output_beam: the same for what stays in the lattice.
        min_active, max_active: states that are followed in each frame.
        num_paths: paths drawn from the lattice, the different ones of which are rescored.
        nbest_scale: what scores are multiplied by for that: smaller, and the paths differ more.
        ctc_weight, attention_weight, lm_weight: of the log-probabilities of CTC (all alignments), attention decoder and
            language model, whose sum decides among the hypotheses of rescoring.
        batch_size: hypotheses that the attention decoder takes at once.
    """

    ngram_order: int = 3
    arpa: str | None = None
    lm_scale: float = 0.5
    search_beam: float = 20.0
    output_beam: float = 8.0
    min_active: int = 30
    max_active: int = 10000
    num_paths: int = 100
    nbest_scale: float = 0.5
    ctc_weight: float = 0.5
    attention_weight: float = 0.5
    lm_weight: float = 0.3
    batch_size: int = 100

    @classmethod
    def parse(cls, block: Mapping | None, where: str = "k2") -> K2Options:
        """Check a block of YAML.

        Raises:
            LrsmsError: an unknown key or a value out of range; names both and what is allowed.
        """
        if block is not None and not isinstance(block, Mapping):
            raise LrsmsError(f"{where}: {block!r} is not a mapping of options")
        options = dict(block or {})
        allowed = {item.name: item.type for item in fields(cls)}
        refuse_unknown(options, allowed, where)
        for key, value in options.items():
            if key == "arpa":
                if value is not None and not isinstance(value, str):
                    raise LrsmsError(f"{where}.arpa: {value!r}: expected the path of a file in the ARPA format")
                continue
            _check_number(value, allowed[key] == "int", _LOWEST.get(key, 0.0), f"{where}.{key}")
        found = cls(**options)
        if found.ngram_order > 9:
            raise LrsmsError(f"{where}.ngram_order: {found.ngram_order}: expected 1 to 9")
        if found.min_active > found.max_active:
            raise LrsmsError(f"{where}.min_active: {found.min_active}: above max_active, {found.max_active}")
        if not (found.ctc_weight or found.attention_weight or found.lm_weight):
            raise LrsmsError(f"{where}: ctc_weight, attention_weight and lm_weight are all 0: nothing would be scored")
        return found


_POSITIVE = math.ulp(0.0)
_LOWEST = dict.fromkeys(("ngram_order", "max_active", "num_paths", "batch_size"), 1) | dict.fromkeys(
    ("search_beam", "output_beam", "nbest_scale"), _POSITIVE
)


def _check_number(value: object, whole: bool, lowest: float, where: str) -> None:
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= value < math.inf:
        bound = "above 0" if lowest == _POSITIVE else f"of at least {lowest:g}"
        raise LrsmsError(f"{where}: {value!r}: expected a {'whole ' if whole else ''}number {bound}")
