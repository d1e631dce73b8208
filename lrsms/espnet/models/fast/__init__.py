"""Fast paths: the same modules, weights and results as ESPnet's, computed in fewer and better passes.

The low-rank classes use them by themselves; ``fast: false`` in ``encoder_conf`` or ``decoder_conf`` leaves ESPnet's own
code in place, ``fast: compile`` has torch compile the blocks on top. What each of them gains is in docs/speed.md.
"""

from lrsms.espnet.models.fast.modules import FAST_CHOICES, make_fast_
from lrsms.espnet.models.fast.switch import plain_paths

__all__ = ["FAST_CHOICES", "make_fast_", "plain_paths"]
