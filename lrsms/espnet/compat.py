"""What differs between ESPnet 202511 and 202611, in one place."""

try:  # 202611 moved espnet.nets to espnet2.legacy.nets
    from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
except ImportError:
    from espnet.nets.pytorch_backend.nets_utils import make_pad_mask

__all__ = ["make_pad_mask"]
