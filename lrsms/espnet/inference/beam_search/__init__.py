"""ESPnet's CTC/attention beam search in fewer operations: the same hypotheses, the same scores up to rounding.

What it changes and what that gains is in docs/speed.md. ESPnet's own inference programs keep ESPnet's search.
"""

from lrsms.espnet.inference.beam_search.beam import make_search_fast_

__all__ = ["make_search_fast_"]
