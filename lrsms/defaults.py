"""Names that the commands, the recipes and the package agree on; this module imports nothing."""

DEFAULT_CHECKPOINT = "valid.acc.ave.pth"  # of an experiment's folder: ESPnet's average of the best epochs
TOKEN_TYPES = ("char", "word", "unigram", "bpe")
SENTENCEPIECE_TYPES = ("unigram", "bpe")


def espnet_token_type(token_type: str) -> str:
    """What ESPnet calls one of :data:`TOKEN_TYPES`: every model of sentencepiece is ``bpe``."""
    return "bpe" if token_type in SENTENCEPIECE_TYPES else token_type
