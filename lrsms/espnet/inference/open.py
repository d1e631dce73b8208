"""Open a trained model as ESPnet's recognizer, and read the options of its search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from espnet2.bin.asr_inference import Speech2Text

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compat import exact_scores
from lrsms.espnet.config import check_keys, read_yaml
from lrsms.espnet.inference.beam_search import make_search_fast_
from lrsms.espnet.inference.whisper_recognizer import WhisperRecognizer
from lrsms.espnet.models.fast.convolution import pointwise_as_linear_
from lrsms.espnet.option_values import wrong_decoding
from lrsms.fsa.options import K2Options
from lrsms.whisper.search import SearchOptions

# Weights of the smallest layer that torch's int8 makes faster: each call of one costs some 40 us for what it spares.
LEAST_INT8 = 2**16


def read_options(config: Path) -> dict:
    """The options of a decoding YAML for ESPnet's search, its ``k2`` block checked and left out, ``whisper`` checked.

    Raises:
        LrsmsError: unreadable, an unknown option, or a value that an option does not take.
    """
    return check_options(read_yaml(config), str(config))


def check_options(options: Mapping, where: str) -> dict:
    """The same of options that come from elsewhere; ``where`` names them in messages."""
    allowed = set(inspect.signature(Speech2Text).parameters) - {"asr_train_config", "asr_model_file", "device"}
    options = dict(options)
    K2Options.parse(options.pop("k2", None), f"{where}: k2")
    SearchOptions.parse(options.get("whisper"), f"{where}: whisper")
    check_keys(options, allowed | {"whisper"}, where)
    for option, wrong in wrong_decoding(options):
        raise LrsmsError(f"{where}: {option}: {wrong}")
    return options


def read_k2_options(config: Path) -> K2Options:
    """The ``k2`` block of a decoding YAML, defaults if it has none.

    Raises:
        LrsmsError: unreadable, an unknown key or a value out of range.
    """
    return K2Options.parse(read_yaml(config).get("k2"), f"{config}: k2")


def check_beam(beam_size: int, tokens: int, where: str) -> None:
    """Refuse a beam with room for CTC's blank: it keeps it, and ESPnet's prefix scores then cancel to the best, ""."""
    if beam_size >= tokens:
        raise LrsmsError(
            f"{where}: beam_size: {beam_size}: too large for {tokens} tokens, blank included; "
            f"write at most {tokens - 1}"
        )


def open_recognizer(
    experiment: Experiment,
    options: Mapping,
    precision: str = "fp32",
    change: Callable[[torch.nn.Module], object] | None = None,
    fast_search: bool = True,
    device: str = "cpu",
) -> Speech2Text | WhisperRecognizer:
    """ESPnet's recognizer around a trained model, or Whisper's: the only place that makes one.

    Args:
        experiment: of the model.
        options: of ``Speech2Text``, or of :class:`lrsms.espnet.inference.whisper_recognizer.WhisperRecognizer`.
        precision: ``fp32``; ``bf16``, weights of encoder, decoder and CTC in bfloat16, scores in float32; or ``int8``,
            torch's dynamic quantization of LSTM, and of Linear and the pointwise convolutions that have a fast path
            from :data:`LEAST_INT8` weights on: smaller ones, factors mostly, are faster as they are.
        change: what is done to the model in place before, such as merging its factors.
        fast_search: False for ESPnet's own search.
        device: ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises:
        LrsmsError: files are missing.
    """
    experiment.check()
    recognizer: Speech2Text | WhisperRecognizer
    if experiment.is_whisper:
        recognizer = WhisperRecognizer(experiment, options, device)
    elif "whisper" in options:
        raise LrsmsError(f"{experiment.config_file}: decoding with whisper: {options['whisper']}: not a Whisper model")
    else:
        recognizer = Speech2Text(experiment.config_file, experiment.weights, device=device, **exact_scores(options))
    model = recognizer.asr_model  # its search holds the same decoder and CTC: they are changed in place
    if change is not None:
        change(model)
    if precision == "int8":
        pointwise_as_linear_(model)
        torch.ao.quantization.quantize_dynamic(model, _to_quantize(model), torch.qint8, inplace=True)
    elif precision == "bf16":
        _to_bfloat16(model)
    if fast_search and not experiment.is_whisper:
        make_search_fast_(recognizer)
    return recognizer


def _to_quantize(model: torch.nn.Module) -> set[str]:
    """Paths of the layers."""
    return {
        path
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.LSTM) or (type(layer) is torch.nn.Linear and layer.weight.numel() >= LEAST_INT8)
    }


def _to_bfloat16(model: torch.nn.Module) -> None:
    """Features come and scores go in float32; what is between them is bfloat16."""

    def rounded(module, inputs):
        return tuple(x.bfloat16() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)

    def exact(module, inputs, output):
        return output.float()

    model.encoder.bfloat16().register_forward_pre_hook(rounded)
    if model.ctc is not None:
        model.ctc.ctc_lo.bfloat16().register_forward_hook(exact)
    if model.decoder is not None:
        model.decoder.bfloat16()
        if getattr(model.decoder, "output_layer", None) is not None:
            model.decoder.output_layer.register_forward_hook(exact)
