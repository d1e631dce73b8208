"""Names that the commands, the recipes and the package agree on; this module imports nothing."""

CONFIG = "config.yaml"  # of an experiment's folder: every option that ESPnet trained with
DEFAULT_CHECKPOINT = "valid.acc.ave.pth"  # of an experiment's folder: ESPnet's average of the best epochs
WHISPER_TYPES = ("whisper_en", "whisper_multilingual")  # their tokens come with the model
TOKEN_TYPES = ("char", "word", "unigram", "bpe", *WHISPER_TYPES)
SENTENCEPIECE_TYPES = ("unigram", "bpe")
SAMPLING_RATES = (1000, 1_000_000)  # Hz; what a header or an option says beyond is no sampling rate of sound


def espnet_token_type(token_type: str) -> str:
    """What ESPnet calls one of :data:`TOKEN_TYPES`: every model of sentencepiece is ``bpe``."""
    return "bpe" if token_type in SENTENCEPIECE_TYPES else token_type


def recipe_token_types(espnet_type: str) -> tuple[str, ...]:
    """The other way around: what a recipe may have called it; ESPnet's name if it is none of :data:`TOKEN_TYPES`."""
    types = (token_type for token_type in TOKEN_TYPES if espnet_token_type(token_type) == espnet_type)
    return tuple(types) or (espnet_type,)
