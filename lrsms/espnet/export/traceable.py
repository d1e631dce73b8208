"""ESPnet models as graphs that can be traced: any number of utterances of any length.

Where ESPnet asks tensors for numbers while it builds masks and positional encodings, a copy of the model gets parts
that compute the same from shapes. What differs is padding: ESPnet's convolutions look beyond the end of an utterance
that is shorter than its batch; here every utterance comes out as it would alone. (Not with ``rel_pos_type: legacy``,
by whose definition attention depends on the length of the whole batch.)
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import nn

from lrsms.errors import LrsmsError

# Class of ESPnet, or a base of it -> why it stays behind.
_REFUSED = {
    "AVConformerEncoder": "audio-visual models are not exported",
    "ContextualBlockConformerEncoder": "streaming encoders are not exported",
    "ContextualBlockTransformerEncoder": "streaming encoders are not exported",
    "LongformerSelfAttention": "sliding-window attention is not exported",
    "FastSelfAttention": "fast_selfattn is not exported",
}
_SUBSAMPLING = {f"Conv1dSubsampling{factor}" for factor in (1, 2, 3)} | {
    f"Conv2dSubsampling{factor}" for factor in ("", 1, 2, 6, 8)
}
_UNMASKED = torch.finfo(torch.float32).min / 4  # four of them added up still are a number


class CtcGraph(nn.Module):
    """Normalisation, encoder and CTC output of an ESPnet model.

    Args:
        model: an ``ESPnetASRModel``; a copy of its parts is used.
        repeat: ``(numerator, denominator)`` of output frames for each encoder frame, at least 1: frames are repeated
            for a decoder that assumes another frame rate and would tell wrong times. The best path stays the same.

    Raises:
        LrsmsError: the model has no CTC, or a part that cannot be exported.
    """

    def __init__(self, model: nn.Module, repeat: tuple[int, int] = (1, 1)):
        super().__init__()
        check_exportable(model)
        self.normalize, self.preencoder = copy.deepcopy((model.normalize, model.preencoder))
        self.encoder, self.ctc_lo = copy.deepcopy((model.encoder, model.ctc.ctc_lo))
        self.repeat = repeat
        self.padding = _Padding()
        self.steps: list[tuple[int, int]] = []
        for module in list(self.encoder.modules()):
            _adapt(module, self.padding)
            if _SUBSAMPLING & _kinds(module):
                self.steps = _steps(module)

    @property
    def subsampling(self) -> int:
        """Feature frames for each encoder frame."""
        factor = math.prod(stride for _, stride in self.steps)
        for module in self.encoder.modules():
            if "RNNP" in _kinds(module):
                factor *= math.prod(int(step) for step in module.subsample[1:])
            elif "VGG2L" in _kinds(module):
                factor *= 4
        return factor

    @property
    def shortest(self) -> int:
        """Feature frames that make one encoder frame."""
        frames = 1
        for kernel, stride in reversed(self.steps):
            frames = (frames - 1) * stride + kernel
        return frames

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features to log-probabilities.

        Args:
            x: features ``(batch, frames, bins)``; what lies behind an utterance's end does not matter.
            x_lens: frames of each utterance ``(batch,)``; one that is too short for the encoder has length 0 after it.

        Returns:
            Log-probabilities ``(batch, frames', tokens)``, their lengths ``(batch,)``, and what the encoder made
            ``(batch, encoder frames, size)``, for a decoder.
        """
        x = torch.where(_valid(x_lens, x.shape[1])[:, :, None], x, 0.0)
        if self.shortest > 1:
            frames = torch.maximum(torch.as_tensor(x.shape[1]), torch.tensor(self.shortest))
            x = torch.cat((x, x.new_zeros(x.shape[0], self.shortest, x.shape[2])), dim=1)[:, :frames]
        with _masks_from_shapes(x.shape[1]):
            if self.normalize is not None:
                x, x_lens = self.normalize(x, x_lens)
            if self.preencoder is not None:
                x, x_lens = self.preencoder(x, x_lens)
            self.padding.set(x_lens, x.shape[1])
            encoded = self.encoder(x, x_lens)[0]
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        lengths = self.padding.lengths.clamp(min=0)
        log_probs = torch.log_softmax(self.ctc_lo(encoded), dim=-1)
        numerator, denominator = self.repeat
        if numerator != denominator:
            frames = (log_probs.shape[1] * numerator + denominator - 1) // denominator
            log_probs = log_probs[:, torch.arange(frames) * denominator // numerator]
            lengths = (lengths * numerator + denominator - 1) // denominator
        return log_probs, lengths, encoded


def check_exportable(model: nn.Module) -> None:
    """Refuse a model with a part that cannot be exported.

    Raises:
        LrsmsError: it names the part.
    """
    if model.ctc is None:
        raise LrsmsError("the model has no CTC (model_conf.ctc_weight: 0.0); the exported graph is encoder and CTC")
    if getattr(model, "postencoder", None) is not None:
        raise LrsmsError("postencoder: models with a postencoder are not exported")
    for path, module in model.encoder.named_modules():
        for name in _REFUSED.keys() & _kinds(module):
            raise LrsmsError(f"encoder.{path}: {name}: {_REFUSED[name]}".replace("encoder.:", "encoder:"))
    if getattr(model.encoder, "interctc_use_conditioning", False) or getattr(model.encoder, "ctc_trim", False):
        raise LrsmsError("encoder_conf: interctc_use_conditioning and ctc_trim: encoders that use CTC are not exported")


def can_export_decoder(model: nn.Module) -> bool:
    """Whether :class:`DecoderGraph` knows this decoder: Transformers, low-rank or not."""
    return model.decoder is not None and "TransformerDecoder" in _kinds(model.decoder)


class DecoderGraph(nn.Module):
    """One step of a Transformer decoder, for all hypotheses of a beam at once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.decoder = copy.deepcopy(model.decoder)
        for module in list(self.decoder.modules()):
            _adapt(module, None)

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Layers and size of the cache."""
        return len(self.decoder.decoders), self.decoder.decoders[0].size

    def forward(
        self, tokens: torch.Tensor, cache: torch.Tensor, encoded: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token's log-probabilities.

        Args:
            tokens: prefixes ``(hypotheses, length)``, beginning with sos.
            cache: of the step before ``(layers, hypotheses, length - 1, size)``; length 0 at the first.
            encoded: ``(1, encoder frames, size)`` of the one utterance.

        Returns:
            Log-probabilities ``(hypotheses, tokens)`` and the cache of the next step.
        """
        memory = encoded.expand(tokens.shape[0], -1, -1)
        log_probs, caches = self.decoder.forward_one_step(tokens, None, memory, cache=list(cache.unbind(0)))
        return log_probs, torch.stack(caches)


class _Padding:
    """Which frames are an utterance's own at the depth that a trace has reached."""

    def set(self, lengths: torch.Tensor, frames) -> None:
        self.lengths, self.valid = lengths, _valid(lengths, frames)

    @property
    def bias(self) -> torch.Tensor:
        """``(batch, 1, 1, frames)``, added to attention's scores."""
        return torch.where(self.valid, 0.0, _UNMASKED)[:, None, None, :]


def _valid(lengths: torch.Tensor, frames) -> torch.Tensor:
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


@contextmanager
def _masks_from_shapes(frames) -> Iterator[None]:
    """``make_pad_mask`` of all of ESPnet's modules as a function of shapes."""

    def make_pad_mask(lengths, xs=None, length_dim=-1, maxlen=None):
        size = frames if maxlen is None else maxlen
        if xs is None:
            return ~_valid(lengths, size)
        mask = ~_valid(lengths, xs.shape[length_dim])
        shape = [1] * xs.dim()
        shape[0], shape[length_dim] = mask.shape
        return mask.reshape(shape).expand_as(xs)

    name = make_pad_mask.__name__
    patched = [
        (module, getattr(module, name))
        for path, module in list(sys.modules.items())
        if path.split(".")[0] in ("espnet", "espnet2") and callable(getattr(module, name, None))
    ]
    for module, _ in patched:
        setattr(module, name, make_pad_mask)
    try:
        yield
    finally:
        for module, original in patched:
            setattr(module, name, original)


def _kinds(module: nn.Module) -> set[str]:
    return {cls.__name__ for cls in type(module).__mro__}


def _adapt(module: nn.Module, padding: _Padding | None) -> None:
    kinds = _kinds(module)
    for name, adapt in _ADAPTERS.items():
        if name in kinds:
            adapt(module, padding)
            return
    if isinstance(module, nn.Conv1d) and module.padding not in ((0,), "valid") and padding is not None:
        module.register_forward_pre_hook(lambda _, inputs: (torch.where(padding.valid[:, None], inputs[0], 0.0),))


def _steps(module: nn.Module) -> list[tuple[int, int]]:
    """Kernel and stride along time of a subsampling's convolutions; the 1 x 1 half of a factored one counts nothing."""
    convolutions = [conv for conv in module.conv.modules() if isinstance(conv, (nn.Conv1d, nn.Conv2d))]
    return [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions]


def _adapt_subsampling(module: nn.Module, padding: _Padding) -> None:
    original, steps = module.forward, _steps(module)

    def forward(self, x, mask):
        x, _ = original(x, None)
        lengths = padding.lengths
        for kernel, stride in steps:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        padding.set(lengths, (x[0] if isinstance(x, tuple) else x).shape[1])
        return x, padding.valid[:, None, :]

    module.forward = MethodType(forward, module)


def _adapt_rnn(module: nn.Module, padding: _Padding) -> None:
    """LSTM or GRU layers, then one linear layer."""

    def forward(self, x, lengths, prev_state=None):
        x = _recurrent(self.nbrnn, x, lengths)
        padding.set(lengths, x.shape[1])
        return torch.tanh(self.l_last(x)), lengths, None

    module.forward = MethodType(forward, module)


def _adapt_projected_rnn(module: nn.Module, padding: _Padding) -> None:
    """Layers with a linear one, and fewer frames, after each. (ESPnet drops out here even when it decodes.)."""

    def forward(self, x, lengths, prev_state=None):
        for layer in range(self.elayers):
            x = _recurrent(getattr(self, f"{'birnn' if self.bidir else 'rnn'}{layer}"), x, lengths)
            step = int(self.subsample[layer + 1])
            if step > 1:
                x, lengths = x[:, ::step], torch.div(lengths + 1, step, rounding_mode="floor")
            x = getattr(self, f"bt{layer}")(x)
            x = torch.tanh(x) if layer < self.elayers - 1 else x
        padding.set(lengths, x.shape[1])
        return x, lengths, None

    module.forward = MethodType(forward, module)


def _recurrent(layers: nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(layers(packed)[0], batch_first=True)[0]


def _adapt_vgg(module: nn.Module, padding: _Padding) -> None:
    def forward(self, x, lengths, **_):
        x = x.reshape(x.shape[0], x.shape[1], self.in_channel, x.shape[2] // self.in_channel).transpose(1, 2)
        for first, second in ((self.conv1_1, self.conv1_2), (self.conv2_1, self.conv2_2)):
            for convolution in (first, second):
                own = _valid(lengths, x.shape[2])[:, None, :, None]
                x = torch.relu(convolution(torch.where(own, x, 0.0)))
            x = nn.functional.max_pool2d(
                torch.where(_valid(lengths, x.shape[2])[:, None, :, None], x, 0.0), 2, stride=2, ceil_mode=True
            )
            lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        padding.set(lengths, x.shape[2])
        return x.transpose(1, 2).flatten(2), lengths, None

    module.forward = MethodType(forward, module)


def _adapt_attention(module: nn.Module, padding: _Padding | None) -> None:
    """Scores of padding are lowered by adding to them: one addition in place of two masks."""
    module.use_sdpa = module.use_flash_attn = False

    def forward_attention(self, value, scores, mask):
        if padding is not None:
            scores = scores + padding.bias
        x = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.linear_out(x.transpose(1, 2).reshape(x.shape[0], -1, self.h * self.d_k))

    module.forward_attention = MethodType(forward_attention, module)


def _sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """``(frames, size)``: sine and cosine in turns, as ESPnet computes them."""
    rates = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * -(math.log(10000.0) / size))
    angles = positions[:, None] * rates
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=-1).flatten(1)[:, :size]


def _adapt_absolute(module: nn.Module, _) -> None:
    scaled = hasattr(module, "alpha")

    def forward(self, x):
        encoding = _sinusoids(torch.arange(x.shape[1], dtype=torch.float32), self.d_model)[None]
        return x + self.alpha * encoding if scaled else x * self.xscale + encoding

    module.forward = MethodType(forward, module)
    module.pe = None


def _adapt_relative(module: nn.Module, _) -> None:
    def forward(self, x):
        positions = torch.arange(2 * x.shape[1] - 1, dtype=torch.float32)
        return x * self.xscale, _sinusoids(x.shape[1] - 1 - positions, self.d_model)[None]

    module.forward = MethodType(forward, module)
    module.pe = None


def _adapt_legacy_relative(module: nn.Module, _) -> None:
    last = module.pe.shape[1] - 1  # ESPnet counts down from the end of its table, not of the utterance

    def forward(self, x):
        positions = torch.arange(x.shape[1], dtype=torch.float32)
        return x * self.xscale, _sinusoids(last - positions, self.d_model)[None]

    module.forward = MethodType(forward, module)
    module.pe = None


def _adapt_convolution(module: nn.Module, padding: _Padding) -> None:
    """A Conformer's pointwise convolutions as matrix products, which int8 has kernels for.

    The depthwise one masks padding by itself: see :func:`_adapt`.
    """

    def forward(self, x, mask_pad=None):
        x = nn.functional.glu(_pointwise(self.pointwise_conv1, x), dim=-1)
        x = self.activation(self.norm(self.depthwise_conv(x.transpose(1, 2))))
        return _pointwise(self.pointwise_conv2, x.transpose(1, 2))

    module.forward = MethodType(forward, module)


def _pointwise(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for conv in [layer] if isinstance(layer, nn.Conv1d) else layer:
        x = nn.functional.linear(x, conv.weight.squeeze(-1), conv.bias)
    return x


# Class of ESPnet, or a base of it -> what replaces its forward; the first that fits.
_ADAPTERS: dict[str, Callable] = {
    **dict.fromkeys(sorted(_SUBSAMPLING), _adapt_subsampling),
    "MultiHeadedAttention": _adapt_attention,
    "LegacyRelPositionalEncoding": _adapt_legacy_relative,
    "RelPositionalEncoding": _adapt_relative,
    "PositionalEncoding": _adapt_absolute,
    "ConvolutionModule": _adapt_convolution,
    "RNNP": _adapt_projected_rnn,
    "RNN": _adapt_rnn,
    "VGG2L": _adapt_vgg,
}
