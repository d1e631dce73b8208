"""Low-rank forms of ESPnet's encoders and decoders: one mechanism, one table row per class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn

from lrsms.lowrank import LowRankConfig, RankPlan, factorize_

# Regular expression of a module path -> role.
SELF_ATTENTION = {
    r"\w+\.\d+\.(self_attn|src_attn|attn)\.linear_(q|k|v|out)": "attention",
    r"\w+\.\d+\.(self_attn|attn)\.linear_pos": "attention_pos",
}
FEED_FORWARD = {r"\w+\.\d+\.feed_forward(_macaron)?\.w_[12]": "feed_forward"}
CONVOLUTION = {r"\w+\.\d+\.conv_module\.pointwise_conv[12]": "convolution"}
SUBSAMPLING = {r"embed\.(conv\.\d+|out|out\.0)": "subsampling"}

ENCODERS: dict[str, tuple[type[nn.Module], Mapping[str, str]]] = {
    "lowrank_conformer": (ConformerEncoder, SELF_ATTENTION | FEED_FORWARD | CONVOLUTION | SUBSAMPLING),
}
DECODERS: dict[str, tuple[type[nn.Module], Mapping[str, str]]] = {
    "lowrank_transformer": (TransformerDecoder, SELF_ATTENTION | FEED_FORWARD),
}


def low_rank_class(base: type[nn.Module], roles: Mapping[str, str], part: str) -> type[nn.Module]:
    """A subclass of ``base`` that takes every option of ``base`` and ``low_rank:``.

    Args:
        base: an ESPnet encoder or decoder class.
        roles: regular expression of a module path -> role.
        part: ``encoder`` or ``decoder``, for error messages.

    Returns:
        A class whose instances are built dense by ``base`` and then factored; their ``rank_plan`` says how.
    """

    class LowRank(base):
        def __init__(self, *args, low_rank: Mapping | None = None, **kwargs):
            super().__init__(*args, **kwargs)
            where = f"{part}_conf.low_rank"
            self.rank_plan = RankPlan.make(self, roles, LowRankConfig.parse(low_rank, where=where), where)
            factorize_(self, self.rank_plan)

    LowRank.__name__ = LowRank.__qualname__ = f"LowRank{base.__name__}"
    LowRank.__module__ = __name__
    LowRank.__doc__ = f"{base.__name__} with low-rank weights; ``low_rank:`` is described in lrsms.lowrank.config."
    # ESPnet's print_config reads the signature and would otherwise miss the options of the dense class.
    LowRank.__signature__ = _with_low_rank(inspect.signature(base))
    return LowRank


def _with_low_rank(signature: inspect.Signature) -> inspect.Signature:
    option = inspect.Parameter("low_rank", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Mapping | None)
    return signature.replace(parameters=[*signature.parameters.values(), option])


LOW_RANK_ENCODERS = {name: low_rank_class(base, roles, "encoder") for name, (base, roles) in ENCODERS.items()}
LOW_RANK_DECODERS = {name: low_rank_class(base, roles, "decoder") for name, (base, roles) in DECODERS.items()}

# Module attributes, so that instances pickle by name.
globals().update({cls.__name__: cls for cls in (*LOW_RANK_ENCODERS.values(), *LOW_RANK_DECODERS.values())})
