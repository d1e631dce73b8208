"""Stage 8: a trained model as ONNX files, for onnxruntime and for sherpa-onnx."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import sampling_rate
from lrsms.espnet.export.traceable import CtcGraph, DecoderGraph, can_export_decoder, check_exportable
from lrsms.espnet.models.kaldi_fbank import KaldiFbank
from lrsms.files import write_json, write_text
from lrsms.lowrank import Factored, LowRankLSTM, LowRankLSTMCell, low_rank_layers
from lrsms.lowrank.merge import merge_
from lrsms.onnx import sherpa
from lrsms.onnx.fastest import faster_dense
from lrsms.onnx.files import PRECISIONS, add_metadata, open_session, optional, quantize, write_graph
from lrsms.provenance import provenance

FORMS = ("onnx", "sherpa")
MERGES = ("faster", "all", "none")
_FRAMES, _HYPOTHESES, _TOKENS = 500, 10, 20  # of an example utterance and of a search in it
_TOLERANCE = 2e-3  # of log-probabilities, in float32: onnxruntime's kernels add up in another order


@dataclass(frozen=True)
class OnnxModel:
    """A folder that :func:`export_onnx` wrote.

    Attributes:
        folder: of the files.
        form: ``onnx`` or ``sherpa``.
        merged: precision -> layers that became dense.
        layers: factored layers of the checkpoint.
        decoder: whether the attention decoder is among them.
        difference: largest one of log-probabilities to torch's, in float32.
        notes: sentences for the user.
        features: of ``sherpa``, what to set there; None for ``onnx``.
    """

    folder: Path
    form: str
    merged: dict[str, int]
    layers: int
    decoder: bool
    difference: float
    notes: tuple[str, ...] = ()
    features: sherpa.Features | None = None

    def encoder_file(self, precision: str) -> Path:
        """Encoder and CTC."""
        return self.folder / _name("model" if self.form == "sherpa" else "encoder_ctc", precision)

    def decoder_file(self, precision: str) -> Path:
        """One step of the attention decoder."""
        return self.folder / _name("decoder", precision)

    def size(self, precision: str, *, decoder: bool) -> int:
        """Bytes of the files that a search needs."""
        files = [self.encoder_file(precision), *([self.decoder_file(precision)] if decoder else [])]
        return sum(path.stat().st_size for path in files)

    @property
    def summary(self) -> str:
        """What a user is told."""
        sizes = ", ".join(
            f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(self.folder.glob("*.onnx"))
        )
        dense = ", ".join(f"{count} in {precision}" for precision, count in self.merged.items())
        lines = [f"{self.folder}: {sizes}"]
        if self.layers:
            lines.append(f"of {self.layers} factored layers made dense: {dense}")
        lines.append(f"largest difference of log-probabilities: {self.difference:.1e}")
        if self.features is not None:
            lines.append(
                f"sherpa-onnx-offline --tokens=tokens.txt --zipformer-ctc-model=model.onnx {self.features.command_line}"
            )
        return "\n".join([*lines, *self.notes])


def _name(stem: str, precision: str) -> str:
    return f"{stem}.onnx" if precision == "fp32" else f"{stem}.{precision}.onnx"


def export_onnx(
    experiment: Experiment,
    output_dir: Path,
    *,
    form: str = "onnx",
    merge: str = "faster",
    precisions: Sequence[str] = PRECISIONS,
) -> OnnxModel:
    """Write encoder and CTC, for ``onnx`` also the attention decoder, as ONNX files; dense models as well.

    Args:
        experiment: trained.
        output_dir: folder to write, created if missing.
        form: ``onnx``: ``encoder_ctc.onnx`` and ``decoder.onnx``, inputs in
            :mod:`lrsms.espnet.export.traceable`; ``sherpa``: ``model.onnx`` and ``tokens.txt``, as sherpa-onnx reads
            them.
        merge: layers to make dense: ``faster``, those that run faster so in onnxruntime, measured here for each
            precision; ``all``; ``none``. LSTMs always: ONNX's have no projection.
        precisions: of ``fp32`` and ``int8``.

    Raises:
        LrsmsError: files are missing, the model has a part that cannot be exported or features that sherpa-onnx cannot
            compute, a package is missing, or the exported graph computes something else than the checkpoint.
    """
    for value, allowed, option in ((form, FORMS, "form"), (merge, MERGES, "merge")):
        if value not in allowed:
            raise LrsmsError(f"{option}: {value!r} is unknown; one of {', '.join(allowed)}")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise LrsmsError(f"precisions: {precision!r} is unknown; any of {', '.join(PRECISIONS)}")
    for package in ("onnx", "onnxruntime"):
        optional(package)
    experiment.check()
    config, where = experiment.config, str(experiment.config_file)
    features = None
    if form == "sherpa":
        features = sherpa.Features.of(config.get("frontend"), frontend_options(config), where)
        tokens = sherpa.symbols(experiment.token_list, experiment.token_type, where)
    model = experiment.load()[0].eval()
    try:
        check_exportable(model)
    except LrsmsError as error:
        raise LrsmsError(f"{where}: {error}") from error
    graph = CtcGraph(model)
    repeat = sherpa.repetition(graph.subsampling) if form == "sherpa" else (1, 1)
    with_decoder = form == "onnx" and can_export_decoder(model)
    output_dir.mkdir(parents=True, exist_ok=True)
    if form == "sherpa":
        write_text(output_dir / "tokens.txt", tokens)
    metadata = _metadata(form, experiment, graph.subsampling)
    done = OnnxModel(
        folder=output_dir,
        form=form,
        merged={},
        layers=sum(1 for _ in low_rank_layers(model)),
        decoder=with_decoder,
        difference=0.0,
        notes=_notes(config, form, graph.subsampling, with_decoder),
        features=features,
    )
    for precision in tqdm(precisions, desc=f"exporting {experiment.folder.name}", unit="file", leave=False):
        merged, paths = _merged(model, merge, precision)
        done.merged[precision] = len(paths)
        _write(done, merged, repeat, precision, metadata)
    difference = _difference(done, model, repeat) if "fp32" in precisions else float("nan")
    done = OnnxModel(**{**done.__dict__, "difference": difference})
    write_json(output_dir / "export.json", _report(done, experiment.checkpoint, merge, precisions))
    return done


def frontend_options(config: dict) -> dict:
    """``frontend_conf`` of ``kaldi_fbank`` with its defaults filled in, ``fs`` in Hz."""
    parameters, given = inspect.signature(KaldiFbank).parameters.values(), config.get("frontend_conf") or {}
    return {parameter.name: parameter.default for parameter in parameters} | given | {"fs": sampling_rate(given)}


def _merged(model: nn.Module, merge: str, precision: str) -> tuple[nn.Module, list[str]]:
    """A copy of the model with its layers as they are exported, and which became dense."""
    layers = dict(low_rank_layers(model))
    if not layers:
        return model, []
    if merge == "faster":
        rule = faster_dense(layers, _input_shapes(model, layers), precision)
    else:
        recurrent = (LowRankLSTM, LowRankLSTMCell)
        rule = (lambda path, layer: True) if merge == "all" else lambda path, layer: isinstance(layer, recurrent)
    model = copy.deepcopy(model)
    return model, merge_(model, only=rule)


@torch.no_grad()
def _input_shapes(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shape of what each exported factored layer but LSTMs sees of five seconds of speech, or of a beam's step."""
    graph = CtcGraph(model).eval()
    parts = {f"encoder.{path}": module for path, module in graph.encoder.named_modules()}
    parts |= {f"ctc.ctc_lo{path and '.'}{path}": module for path, module in graph.ctc_lo.named_modules()}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str):
        def hook(_, inputs):
            shapes[path] = tuple(inputs[0].shape)

        return hook

    step = DecoderGraph(model).eval() if can_export_decoder(model) else None
    if step is not None:
        parts |= {f"decoder.{path}": module for path, module in step.decoder.named_modules()}
    layers = {path: layer for path, layer in layers.items() if isinstance(layer, Factored) and path in parts}
    for path in layers:
        parts[path].register_forward_pre_hook(note(path))
    encoded = graph(*_example(graph, model, 1))[2]
    if step is not None:
        step(*_example_step(step, encoded))
    usual = tuple(encoded.shape[:2])  # a convolution module's layers are not called: their weights are
    return {path: shapes.get(path, (*usual, getattr(layer, "in_channels", 0))) for path, layer in layers.items()}


def _example(graph: CtcGraph, model: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.frontend.output_size() if model.frontend is not None else model.encoder.input_size
    frames = torch.tensor([_FRAMES, _FRAMES * 2 // 3][:batch])
    return torch.randn(batch, _FRAMES, size, generator=torch.Generator().manual_seed(0)), frames


def _example_step(step: DecoderGraph, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layers, size = step.cache_shape
    tokens = torch.ones(_HYPOTHESES, _TOKENS, dtype=torch.long)
    return tokens, torch.zeros(layers, _HYPOTHESES, _TOKENS - 1, size), encoded[:1]


def _write(done: OnnxModel, model: nn.Module, repeat: tuple[int, int], precision: str, metadata: dict) -> None:
    graph = CtcGraph(model, repeat).eval()
    example = _example(graph, model, 2)
    path = done.encoder_file(precision)
    both = {0: "batch", 1: "frames"}
    outputs = ("log_probs", "log_probs_len", "encoder_out")
    _write_one(
        graph,
        example,
        path,
        precision,
        inputs=("x", "x_lens"),
        outputs=outputs,
        dynamic={
            **{"x": both, "x_lens": {0: "batch"}, "log_probs": {0: "batch", 1: "output_frames"}},
            **{"log_probs_len": {0: "batch"}, "encoder_out": {0: "batch", 1: "encoder_frames"}},
        },
    )
    add_metadata(path, metadata)
    if done.decoder:
        step = DecoderGraph(model).eval()
        with torch.no_grad():
            encoded = graph(*example)[2]
        _write_one(
            step,
            _example_step(step, encoded),
            done.decoder_file(precision),
            precision,
            inputs=("tokens", "cache", "encoder_out"),
            outputs=("log_probs", "next_cache"),
            dynamic={
                **{"tokens": {0: "hypotheses", 1: "length"}, "cache": {1: "hypotheses", 2: "length_before"}},
                **{"encoder_out": {1: "encoder_frames"}, "log_probs": {0: "hypotheses"}},
                "next_cache": {1: "hypotheses", 2: "length"},
            },
        )
        layers, size = step.cache_shape
        add_metadata(done.decoder_file(precision), metadata | {"cache_layers": layers, "cache_size": size})


def _write_one(graph: nn.Module, example, path: Path, precision: str, **names) -> None:
    if precision == "fp32":
        write_graph(graph, example, path, **names)
        return
    plain = path.with_name(f"{path.name}.float")
    try:
        write_graph(graph, example, plain, **names)
        quantize(plain, path)
    finally:
        plain.unlink(missing_ok=True)


def _metadata(form: str, experiment: Experiment, subsampling: int) -> dict:
    config = experiment.config
    entries = {
        "model_type": sherpa.MODEL_TYPE if form == "sherpa" else "ctc_attention",
        "version": "1",
        "model_author": "lrsms",
        "comment": f"{config.get('encoder')} trained with ESPnet",
        "vocab_size": len(experiment.token_list),
        "subsampling_factor": subsampling,
        "frontend": config.get("frontend"),
    }
    if config.get("frontend") == "kaldi_fbank":
        entries |= {f"frontend_{key}": value for key, value in frontend_options(config).items()}
    if form == "onnx":  # sherpa-onnx reads its own file
        entries["tokens"] = "\n".join(experiment.token_list)
    return entries


def _notes(config: dict, form: str, subsampling: int, with_decoder: bool) -> tuple[str, ...]:
    notes = []
    if form == "onnx" and not with_decoder:
        notes.append(f"decoder: {config.get('decoder')} is not exported (Transformers are): the best CTC path decodes")
    if form == "sherpa" and subsampling < 4:
        notes.append(f"sherpa-onnx's times are {4 / subsampling:g} times too long: it takes an output frame for 40 ms")
    return tuple(notes)


@torch.no_grad()
def _difference(done: OnnxModel, model: nn.Module, repeat: tuple[int, int]) -> float:
    """Largest difference of log-probabilities to torch's, on two made-up utterances of other lengths than the trace's.

    Raises:
        LrsmsError: it is too large.
    """
    graph = CtcGraph(model, repeat).eval()
    x, _ = _example(graph, model, 2)
    x, lengths = x[:, 37:], torch.tensor([_FRAMES - 37, 190])
    exported = open_session(done.encoder_file("fp32")).run(None, {"x": x.numpy(), "x_lens": lengths.numpy()})
    largest = 0.0
    for number, frames in enumerate(lengths):
        expected, count, encoded = graph(x[number : number + 1, :frames], frames[None])
        own = int(count)
        if int(exported[1][number]) != own:
            raise LrsmsError(
                f"{done.folder}: the graph makes {exported[1][number]} frames where the checkpoint makes {own}"
            )
        difference = torch.from_numpy(exported[0][number, :own]) - expected[0, :own]
        largest = max(largest, float(difference.abs().max()))
    if done.decoder:
        step = DecoderGraph(model).eval()
        inputs = _example_step(step, encoded)
        names = ("tokens", "cache", "encoder_out")
        log_probs = open_session(done.decoder_file("fp32")).run(
            None, {name: value.numpy() for name, value in zip(names, inputs)}
        )[0]
        largest = max(largest, float((torch.from_numpy(log_probs) - step(*inputs)[0]).abs().max()))
    if not largest < _TOLERANCE:
        raise LrsmsError(f"{done.folder}: log-probabilities differ by {largest:.1e} from the checkpoint's")
    return largest


def _report(done: OnnxModel, checkpoint: str, merge: str, precisions: Sequence[str]) -> dict:
    files = [done.encoder_file(precision) for precision in precisions]
    files += [done.decoder_file(precision) for precision in precisions if done.decoder]
    return {
        "form": done.form,
        "checkpoint": checkpoint,
        "merge": merge,
        "factored_layers": done.layers,
        "merged": done.merged,
        "difference": done.difference,
        "bytes": {path.name: path.stat().st_size for path in files},
        "features": done.features.__dict__ if done.features else None,
        **provenance(),
    }
