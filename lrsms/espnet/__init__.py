"""The bridge to ESPnet: importing this package adds the low-rank classes to ESPnet's registries.

>>> import lrsms.espnet
>>> from espnet2.bin.asr_inference import Speech2Text
>>> recogniser = Speech2Text("exp/tag/config.yaml", "exp/tag/valid.acc.ave.pth")

This is the only package of ours that imports ESPnet.
"""

import contextlib
import io

# ESPnet's imports report what optional parts they did not find (flash attention, pronunciation data).
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    from lrsms.espnet.registry import register

register()
