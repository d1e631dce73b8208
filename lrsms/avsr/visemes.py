"""What a mouth looks like while a phoneme is spoken, and how it moves from one to the next.

Phonemes are eSpeak NG's mnemonics for English. The groups follow the visemes of the MPEG-4 standard (Pandzic and
Forchheimer 2002): phonemes of one group look alike, so that lips tell less than sound. Movement follows the dominance
functions of Cohen and Massaro (1993): each phoneme pulls the mouth towards its shape, most while it is spoken and less
with the time to it, and lips that must meet pull harder than those that need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lrsms.data.espeak import Phoneme
from lrsms.errors import LrsmsError

_REACH = 0.025  # seconds after which the pull of a phoneme has fallen to 1/e
_AHEAD = 0.02  # seconds by which lips are ahead of the sound


class Shape(NamedTuple):
    """A mouth, each number between 0 and 1.

    Attributes:
        opening: distance of the inner lips; 0 is closed.
        width: distance of the corners; 0.5 at rest, 1 spread.
        rounding: how far the lips are pushed forward.
        teeth: how much of the upper teeth shows.
        tongue: how much of the tongue shows between the teeth.
        tuck: how far the lower lip is under the upper teeth.
    """

    opening: float = 0.0
    width: float = 0.5
    rounding: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0
    tuck: float = 0.0


class Viseme(NamedTuple):
    """Shapes that a phoneme goes through in order (two for a diphthong), and how hard it pulls to them."""

    shapes: tuple[Shape, ...]
    pull: float = 1.0


REST = Viseme((Shape(opening=0.0, width=0.5),), pull=0.6)
_A = Shape(opening=0.95, width=0.55, teeth=0.25)
_V = Shape(opening=0.7, width=0.5, teeth=0.25)
_E = Shape(opening=0.55, width=0.75, teeth=0.5)
_I = Shape(opening=0.35, width=0.85, teeth=0.6)
_SCHWA = Shape(opening=0.4, width=0.5, teeth=0.3)
_O = Shape(opening=0.65, width=0.3, rounding=0.7)
_U = Shape(opening=0.28, width=0.12, rounding=1.0)
_ER = Shape(opening=0.35, width=0.35, rounding=0.4, teeth=0.3)

# Consonants and then vowels, without marks of stress and length.
_TABLE: dict[str, Viseme] = {}
for _symbols, _viseme in (
    ("p b m m-", Viseme((Shape(),), 8.0)),
    ("f v", Viseme((Shape(opening=0.12, width=0.55, teeth=0.9, tuck=1.0),), 6.0)),
    ("T D", Viseme((Shape(opening=0.25, width=0.55, teeth=0.7, tongue=1.0),), 3.0)),
    ("t d t[ d[ n n- l l- L l/2 t# t2 *", Viseme((Shape(opening=0.25, width=0.6, teeth=0.7, tongue=0.35),), 1.2)),
    ("s z", Viseme((Shape(opening=0.14, width=0.7, teeth=1.0),), 3.0)),
    ("S Z tS dZ", Viseme((Shape(opening=0.22, width=0.25, rounding=0.7, teeth=0.9),), 3.0)),
    ("k g N x h ? Q", Viseme((Shape(opening=0.35, width=0.5, teeth=0.2),), 0.5)),
    ("r r- R", Viseme((Shape(opening=0.25, width=0.3, rounding=0.55, teeth=0.3),), 1.5)),
    ("w w#", Viseme((Shape(opening=0.12, width=0.05, rounding=1.0),), 5.0)),
    ("j ;", Viseme((Shape(opening=0.3, width=0.8, teeth=0.6),), 1.0)),
    ("a aa A A@ A# &", Viseme((_A,))),
    ("V", Viseme((_V,))),
    ("E e e@ E# E@ E2", Viseme((_E,))),
    ("I I2 i i@ I# i@3", Viseme((_I,))),
    ("@ a# @2 @L @5", Viseme((_SCHWA,))),
    ("0 O O@ O2 o o@ 0#", Viseme((_O,))),
    ("U u U@ u@ U# w2", Viseme((_U,))),
    ("3 3@ @r VR IR ER", Viseme((_ER,))),
    ("aI aI2 aI@ aI3", Viseme((_A, _I))),
    ("eI", Viseme((_E, _I))),
    ("OI oI", Viseme((_O, _I))),
    ("aU aU@", Viseme((_A, _U))),
    ("oU @U", Viseme((_O, _U))),
):
    _TABLE.update(dict.fromkeys(_symbols.split(), _viseme))
# Vowels whose end is looser than their beginning.
_TABLE.update({"i@": Viseme((_I, _SCHWA)), "e@": Viseme((_E, _SCHWA)), "U@": Viseme((_U, _SCHWA))})


def viseme(symbol: str) -> Viseme:
    """The viseme of one of eSpeak's mnemonics; stress (``'``, ``,``) and length (``:``) do not count.

    Raises:
        LrsmsError: a phoneme that the table lacks.
    """
    if symbol.startswith("_"):
        return REST
    name = symbol.strip("',%=|!").rstrip(":")
    if name not in _TABLE:
        raise LrsmsError(f"phoneme {symbol!r} has no viseme; known are {' '.join(sorted(_TABLE))}: add it to the table")
    return _TABLE[name]


def trajectory(phonemes: Sequence[Phoneme], end: float, times: np.ndarray) -> np.ndarray:
    """Shapes of a mouth over time.

    Args:
        phonemes: in order, with their starts in seconds.
        end: of the last one, seconds; before the first and after it the mouth is at rest.
        times: seconds at which the shape is wanted, ``(times,)``.

    Returns:
        ``(times, 6)``, columns as in :class:`Shape`.

    Raises:
        LrsmsError: a phoneme that the table lacks.
    """
    spans = _spans(phonemes, end)
    times = np.asarray(times, dtype=float)[:, None] + _AHEAD
    begins, ends = (np.array([span[index] for span in spans])[None] for index in (0, 1))
    away = np.maximum(0, np.maximum(begins - times, times - ends))
    pulls = np.array([pull for _, _, _, pull in spans])[None] * np.exp(-((away / _REACH) ** 1.5))
    pulls += 1e-12
    shapes = np.array([shape for _, _, shape, _ in spans])
    return (pulls @ shapes) / pulls.sum(axis=1, keepdims=True)


def _spans(phonemes: Sequence[Phoneme], end: float) -> list[tuple[float, float, Shape, float]]:
    """Begin, end, shape and pull of every target; a rest without limit at both sides."""
    starts = [phoneme.start for phoneme in phonemes] + [end]
    rest = REST.shapes[0]
    spans = [(-np.inf, starts[0], rest, REST.pull)]
    for phoneme, begin, stop in zip(phonemes, starts, starts[1:]):
        mouth = viseme(phoneme.symbol)
        bounds = np.linspace(begin, max(begin, stop), len(mouth.shapes) + 1)
        spans += [(*bounds[i : i + 2], shape, mouth.pull) for i, shape in enumerate(mouth.shapes)]
    return [*spans, (end, np.inf, rest, REST.pull)]
