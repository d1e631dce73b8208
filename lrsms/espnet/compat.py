"""What differs between ESPnet 202511 and 202611, and what both say too often, in one place."""

import warnings

try:  # 202611 moved espnet.nets to espnet2.legacy.nets
    from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
except ImportError:
    from espnet.nets.pytorch_backend.nets_utils import make_pad_mask

# Of an error rate over no words, early in a training.
for _message in ("Mean of empty slice", "invalid value encountered in scalar divide"):
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=_message, module=r"numpy\.")
# On every forward pass, about a spelling of autocast that is ESPnet's own.
warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.cuda.amp.autocast", module=r"espnet2\.")

__all__ = ["make_pad_mask"]
