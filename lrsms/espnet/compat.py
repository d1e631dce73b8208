"""What differs between ESPnet 202511 and 202611, and what both say too often, in one place."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Keep the terminal quiet within this context."""
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


with nothing_printed():  # the second says that flash attention is not installed
    try:  # 202611 moved espnet.nets to espnet2.legacy.nets
        from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
        from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
        from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
        from espnet2.legacy.nets.pytorch_backend.transformer import attention, subsampling
    except ImportError:
        from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule
        from espnet.nets.pytorch_backend.conformer.swish import Swish
        from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
        from espnet.nets.pytorch_backend.transformer import attention, subsampling

MultiHeadedAttention = attention.MultiHeadedAttention
RelPositionMultiHeadedAttention = attention.RelPositionMultiHeadedAttention
CONV2D_SUBSAMPLINGS = tuple(
    getattr(subsampling, name)
    for name in ("Conv2dSubsampling", *(f"Conv2dSubsampling{factor}" for factor in (1, 2, 6, 8)))
)

# Of an error rate over no words, early in a training.
for _message in ("Mean of empty slice", "invalid value encountered in scalar divide"):
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=_message, module=r"numpy\.")
# On every forward pass, about a spelling of autocast that is ESPnet's own.
warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.cuda.amp.autocast", module=r"espnet2\.")
# ESPnet's programs run inside lrsms.espnet.__main__, where typeguard looks for their source.
warnings.filterwarnings("ignore", message="instrumentor did not find the target function")

__all__ = [
    "CONV2D_SUBSAMPLINGS",
    "ConvolutionModule",
    "MultiHeadedAttention",
    "RelPositionMultiHeadedAttention",
    "Swish",
    "make_pad_mask",
    "nothing_printed",
]
