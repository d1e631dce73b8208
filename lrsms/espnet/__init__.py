"""The bridge to ESPnet: importing this package adds the low-rank classes to ESPnet's registries.

>>> import lrsms.espnet
>>> from espnet2.bin.asr_inference import Speech2Text
>>> recogniser = Speech2Text("exp/tag/config.yaml", "exp/tag/valid.acc.ave.pth")

This is the only package of ours that imports ESPnet.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    # The files, not sys.stdout itself: ESPnet's print_config keeps the sys.stdout of its import as a default argument.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in saved:
            os.dup2(null, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


# ESPnet's imports report what optional parts they did not find (flash attention, pronunciation data).
with _nothing_printed():
    from lrsms.espnet.registry import register

register()
