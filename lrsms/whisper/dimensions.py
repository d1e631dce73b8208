"""The sizes of a Whisper model, by the names that openai-whisper's files have for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from lrsms.errors import LrsmsError, refuse_unknown

SAMPLING_RATE = 16000  # Hz
HOP, WINDOW = 160, 400  # samples
POSITION_SECONDS = 2 * HOP / SAMPLING_RATE
ENGLISH_VOCABULARY = 51864  # tokens of models named *.en, which have the names of languages but no use of them


@dataclass(frozen=True)
class Dimensions:
    """Sizes.

    Attributes:
        n_mels: Mel bins.
        n_audio_ctx: positions of the encoder: 1,500 are 30 s.
        n_audio_state, n_audio_head, n_audio_layer: width, heads and blocks of the encoder.
        n_vocab: tokens.
        n_text_ctx: positions of the decoder.
        n_text_state, n_text_head, n_text_layer: of the decoder.
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @classmethod
    def parse(cls, values: Mapping, where: str) -> Dimensions:
        """Check sizes that come from a file.

        Raises:
            LrsmsError: one is missing, unknown or no whole number, or a width is no multiple of its heads.
        """
        names = [field.name for field in fields(cls)]
        refuse_unknown(values, names, where)
        for name in names:
            value = values.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise LrsmsError(f"{where}: {name}: {value!r} is not a whole number of at least 1")
        sizes = cls(**{name: int(values[name]) for name in names})
        for part in ("audio", "text"):
            width, heads = getattr(sizes, f"n_{part}_state"), getattr(sizes, f"n_{part}_head")
            if width % heads:
                raise LrsmsError(f"{where}: n_{part}_state: {width} is not a multiple of n_{part}_head: {heads}")
        if sizes.n_audio_state != sizes.n_text_state:
            raise LrsmsError(
                f"{where}: n_audio_state: {sizes.n_audio_state} and n_text_state: {sizes.n_text_state} differ"
            )
        return sizes

    def as_dict(self) -> dict[str, int]:
        """As ``dims`` of openai-whisper's files."""
        return asdict(self)
