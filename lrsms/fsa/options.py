"""What is chosen about decoding with k2: the method, and the ``k2`` block of a decoding YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from lrsms.errors import LrsmsError
from lrsms.typed_config import Count, Number, Positive, WholeNumber, from_yaml

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


NgramOrder = Annotated[int, Meta(ge=1, le=9, description="a whole number from 1 to 9")]
ArpaFile = Annotated[str, Meta(description="the path of a file in the ARPA format")]


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

    ngram_order: NgramOrder = 3
    arpa: ArpaFile | None = None
    lm_scale: Number = 0.5
    search_beam: Positive = 20.0
    output_beam: Positive = 8.0
    min_active: WholeNumber = 30
    max_active: Count = 10000
    num_paths: Count = 100
    nbest_scale: Positive = 0.5
    ctc_weight: Number = 0.5
    attention_weight: Number = 0.5
    lm_weight: Number = 0.3
    batch_size: Count = 100

    @classmethod
    def parse(cls, block: Mapping | None, where: str = "k2") -> K2Options:
        """Check a block of YAML.

        Raises:
            LrsmsError: an unknown key or a value out of range; names both and what is allowed.
        """
        options = from_yaml(cls, {} if block is None else block, where)
        if options.min_active > options.max_active:
            raise LrsmsError(f"{where}.min_active: {options.min_active}: above max_active, {options.max_active}")
        if not (options.ctc_weight or options.attention_weight or options.lm_weight):
            raise LrsmsError(f"{where}: ctc_weight, attention_weight and lm_weight are all 0: nothing would be scored")
        return options
