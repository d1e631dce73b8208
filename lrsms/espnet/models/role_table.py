"""Low-rank forms of ESPnet's encoders and decoders: one mechanism, one table row per class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace

from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import ContextualBlockConformerEncoder
from espnet2.asr.encoder.contextual_block_transformer_encoder import ContextualBlockTransformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.compat import current_paths, load_either_versions_names
from lrsms.espnet.models import ctc_rank
from lrsms.espnet.models.av_conformer import AVConformerEncoder
from lrsms.espnet.models.fast import make_fast_
from lrsms.espnet.models.whisper import WhisperDecoder, WhisperEncoder
from lrsms.lowrank import LowRankConfig, RankPlan, Recurrent, apply_plan_
from lrsms.lowrank.initialization import initialization_skipped
from lrsms.lowrank.plan import WithKernel
from lrsms.lowrank.self_guided import SelfGuide, dense_weights

# Regular expression of a module path -> role.
ATTENTION = {r"\w+\.\d+\.(self_attn|src_attn|attn)\.linear_(q|k|v|out)": "attention"}
ATTENTION_POS = {r"\w+\.\d+\.(self_attn|attn)\.linear_pos": "attention_pos"}
FEED_FORWARD = {r"\w+\.\d+\.feed_forward(_macaron)?\.w_[12]": "feed_forward"}
CONVOLUTION = {r"\w+\.\d+\.conv_module\.pointwise_conv[12]": "convolution"}
_CONFORMER_BLOCKS = ATTENTION | ATTENTION_POS | FEED_FORWARD | CONVOLUTION
# The branch beside attention: its projections do what a Conformer's pointwise convolutions do.
GATED_MLP = {r"\w+\.\d+\.(cgmlp\.channel_proj1\.0|cgmlp\.channel_proj2|merge_proj)": "convolution"}
SUBSAMPLING = {r"embed\.(conv\.\d+|out|out\.0)": "subsampling"}
EMBEDDING = {r"embed(\.0)?": "embedding"}
OUTPUT = {r"output(_layer)?": "output"}
LSTM = {
    r"enc\.\d+\.(?:bi)?rnn(\d+)": Recurrent(r"bt\1"),  # with use_projection
    r"enc\.\d+\.nbrnn": Recurrent("l_last"),
}
VGG = {r"enc\.0\.conv\d_\d": "subsampling"}
LSTM_CELL = {r"decoder\.\d+": "recurrent"}
# Two front-ends, two Conformers, one MLP: the convolutions that see one channel are too thin to gain.
FRONTEND = {r"(audio|video)\.frontend\.stages\.\d+\.\d+\.(conv[12]|shortcut\.0)": "frontend"}
AV_EMBED = {r"(audio|video)\.conformer\.embed\.0": "subsampling"}
AV_BLOCKS = {rf"(audio|video)\.conformer\.{path}": role for path, role in _CONFORMER_BLOCKS.items()}
FUSION = {r"fusion\.(hidden|output)": "fusion"}
# Whisper; its embedding is its output as well, and is one pair of factors at both ends.
_WHISPER = {
    r"(en|de)coders\.blocks\.\d+\.attn\.(query|key|value|out)": "attention",
    r"(en|de)coders\.blocks\.\d+\.mlp\.[02]": "feed_forward",
}
WHISPER_ENCODER = _WHISPER | {r"encoders\.conv[12]": WithKernel("subsampling")}
WHISPER_DECODER = _WHISPER | {
    r"decoders\.blocks\.\d+\.cross_attn\.(query|key|value|out)": "cross_attention",
    r"decoders\.token_embedding(\.bands\.\d+)?": "output",
}
RNN_ATTENTION = {r"att_list\.\d+\.mlp_(enc|dec|o|[qkv]\.\d+)": "attention"}

ENCODERS: dict[str, tuple[type[nn.Module], Mapping[str, str]]] = {
    "lowrank_conformer": (
        ConformerEncoder,
        _CONFORMER_BLOCKS | SUBSAMPLING | EMBEDDING,
    ),
    "lowrank_transformer": (TransformerEncoder, ATTENTION | FEED_FORWARD | SUBSAMPLING | EMBEDDING),
    "lowrank_branchformer": (BranchformerEncoder, ATTENTION | ATTENTION_POS | GATED_MLP | SUBSAMPLING | EMBEDDING),
    "lowrank_e_branchformer": (
        EBranchformerEncoder,
        ATTENTION | ATTENTION_POS | FEED_FORWARD | GATED_MLP | SUBSAMPLING | EMBEDDING,
    ),
    "lowrank_rnn": (RNNEncoder, LSTM),
    "lowrank_vgg_rnn": (VGGRNNEncoder, VGG | LSTM),
    # ESPnet's streaming inference asks for these classes by isinstance, and gets subclasses of them.
    "lowrank_contextual_block_conformer": (
        ContextualBlockConformerEncoder,
        ATTENTION | FEED_FORWARD | CONVOLUTION | SUBSAMPLING,
    ),
    "lowrank_contextual_block_transformer": (ContextualBlockTransformerEncoder, ATTENTION | FEED_FORWARD | SUBSAMPLING),
    "lowrank_whisper": (WhisperEncoder, WHISPER_ENCODER),
    "lowrank_av_conformer": (AVConformerEncoder, FRONTEND | AV_EMBED | AV_BLOCKS | FUSION),
}
DECODERS: dict[str, tuple[type[nn.Module], Mapping[str, str]]] = {
    "lowrank_transformer": (TransformerDecoder, ATTENTION | FEED_FORWARD | EMBEDDING | OUTPUT),
    "lowrank_whisper": (WhisperDecoder, WHISPER_DECODER),
    "lowrank_rnn": (RNNDecoder, LSTM_CELL | RNN_ATTENTION | EMBEDDING | OUTPUT),
}


def low_rank_class(base: type[nn.Module], roles: Mapping[str, str], part: str) -> type[nn.Module]:
    """A subclass of ``base`` that takes every option of ``base``, ``low_rank:`` and ``fast:``.

    Args:
        base: an ESPnet encoder or decoder class.
        roles: regular expression of a module path -> role.
        part: ``encoder`` or ``decoder``, for error messages.

    Returns:
        A class whose instances are built dense by ``base`` and then factored; their ``rank_plan`` says how.
    """
    base_options = inspect.signature(base).parameters

    class LowRank(base):
        def __init__(self, *args, low_rank: LowRankConfig | Mapping | None = None, fast: bool | str = True, **kwargs):
            super().__init__(*args, **kwargs, **({"fast": fast} if "fast" in base_options else {}))
            self.low_rank_where = f"{part}_conf.low_rank"
            # An object comes from rank_targets, a mapping from whoever builds the class by itself.
            config = low_rank
            if not isinstance(config, LowRankConfig):
                config = LowRankConfig.parse(config, where=self.low_rank_where)
            if config.target is not None or config.stable_rank_from is not None:
                raise LrsmsError(
                    f"{self.low_rank_where}: target and stable_rank_from look at the whole model: "
                    f"they are for ESPnet's ASRTask and python -m lrsms.bin.plan"
                )
            self.low_rank_config = config
            self.rank_plan = plan_part(self, config)
            guided = config.self_guided and not initialization_skipped()  # a model to load is trained already
            dense = dense_weights(self, self.rank_plan) if guided else {}
            load_either_versions_names(self)
            apply_plan_(self, self.rank_plan)
            if dense:
                self.self_guide = SelfGuide(self, dense, config.self_guided)
            self.fast = fast
            make_fast_(self, fast, f"{part}_conf.fast")

    LowRank.low_rank_roles, LowRank.low_rank_base = roles, base
    LowRank.__name__ = LowRank.__qualname__ = f"LowRank{base.__name__}"
    LowRank.__module__ = __name__
    LowRank.__doc__ = f"{base.__name__} with low-rank weights; ``low_rank:`` is described in lrsms.lowrank.config."
    # ESPnet's print_config reads the signature and would otherwise miss the options of the dense class.
    LowRank.__signature__ = _with_ours(inspect.signature(base))
    return LowRank


def plan_part(part: nn.Module, config: LowRankConfig, weights: Mapping[str, float] | None = None) -> RankPlan:
    """The plan of a low-rank encoder or decoder that is still dense.

    What an encoder's block gives CTC is not the encoder's own: see :mod:`lrsms.espnet.models.ctc_rank`.
    """
    if part.low_rank_where.startswith("encoder"):
        config = ctc_rank.split(config)[0]
        config = replace(config, ranks=current_paths(part, config.ranks))
    return RankPlan.make(part, part.low_rank_roles, config, part.low_rank_where, weights)


def _with_ours(signature: inspect.Signature) -> inspect.Signature:
    own = {"low_rank": (None, LowRankConfig | Mapping | None), "fast": (True, bool | str)}
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation) in own.items()
    ]
    known = [option for option in signature.parameters.values() if option.name not in own]
    return signature.replace(parameters=[*known, *ours])


LOW_RANK_ENCODERS = {name: low_rank_class(base, roles, "encoder") for name, (base, roles) in ENCODERS.items()}
LOW_RANK_DECODERS = {name: low_rank_class(base, roles, "decoder") for name, (base, roles) in DECODERS.items()}

# Module attributes, so that instances pickle by name.
globals().update({cls.__name__: cls for cls in (*LOW_RANK_ENCODERS.values(), *LOW_RANK_DECODERS.values())})
