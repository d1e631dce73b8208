"""What a training YAML comes to, without data and without training: ranks, size, work, memory."""

from __future__ import annotations

import argparse
import base64
import html
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from lrsms.avsr.frames import FRAME_SHIFT
from lrsms.errors import LrsmsError
from lrsms.espnet.config import (
    check_heads,
    check_keys,
    check_values,
    explained,
    mapping_of,
    read_training_yaml,
    sampling_rate,
)
from lrsms.espnet.models.cost import Cost, cost, positions
from lrsms.espnet.models.ctc_rank import factorize_ctc
from lrsms.espnet.models.rank_plan_file import save_plans
from lrsms.espnet.models.rank_targets import PARTS, build_low_rank, without_low_rank
from lrsms.espnet.models.role_table import DECODERS, ENCODERS, LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.lowrank import RankPlan, skip_initialization
from lrsms.training_yaml import locate

FRONTENDS = {"kaldi_fbank": ("num_filters", 80), "default": ("n_mels", 80)}
_SECONDS = 10  # length of the utterances that memory is forecast for


@dataclass(frozen=True)
class Preview:
    """A model on paper.

    Attributes:
        plans: part -> its plan.
        cost: parameters and MACs, against dense.
        macs: module path -> MACs per second of audio, for every planned layer.
        memory: bytes of a training step: ``weights``, ``gradients``, ``optimizer``, ``activations``.
        dense_memory: the same of the dense model.
        batch_seconds: seconds of audio per batch, in utterances of 10 s.
    """

    plans: dict[str, RankPlan]
    cost: Cost
    macs: dict[str, float]
    memory: dict[str, int]
    dense_memory: dict[str, int]
    batch_seconds: float

    def text(self) -> str:
        """Tables and totals."""
        parts = []
        for part, plan in self.plans.items():
            layer_map = plan.config.layer_map if isinstance(plan.config.layer_map, str) else "list"
            parts.append(f"Rank plan of the {part} ({plan.config.of}, {layer_map} map, {plan.config.init} init)")
            macs = {entry.module: self.macs[f"{part}.{entry.module}"] for entry in plan.entries}
            parts.append(plan.table(macs) + "\n")
        return "\n".join([*parts, *self.totals()])

    def totals(self) -> list[str]:
        """One sentence each on parameters, work and memory."""
        now, then = sum(self.memory.values()), sum(self.dense_memory.values())
        detail = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in self.memory.items())
        return [
            f"parameters        {self.cost.parameters:,} of dense's {self.cost.dense_parameters:,}: "
            f"{self.cost.dense_parameters / self.cost.parameters:.2f}x fewer",
            f"MMACs per second  {self.cost.macs_per_second / 1e6:,.1f} of dense's "
            f"{self.cost.dense_macs_per_second / 1e6:,.1f}: "
            f"{self.cost.dense_macs_per_second / self.cost.macs_per_second:.2f}x fewer",
            f"training memory   about {now / 2**20:,.0f} MiB of dense's {then / 2**20:,.0f} MiB in float32, "
            f"batches of {self.batch_seconds:g} s ({detail})",
        ]


class Outline(nn.Module):
    """Encoder, CTC output and decoder of a config, enough of ESPnet's model to plan and measure.

    Args:
        args: ``encoder``, ``encoder_conf``, ``decoder``, ``decoder_conf``, ``frontend_conf``, ``input_size``,
            ``vocab_size``, ``ctc_weight``.
    """

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.args, self.normalize, self.preencoder = args, None, None
        self.encoder = outline_classes("encoder")[args.encoder](args.input_size, **args.encoder_conf)
        size, decoder = self.encoder.output_size(), outline_classes("decoder").get(args.decoder)
        self.decoder = decoder(args.vocab_size, size, **args.decoder_conf) if decoder and args.ctc_weight < 1 else None
        self.ctc = _Ctc(size, args.vocab_size) if args.ctc_weight > 0 else None
        factorize_ctc(self)

    def _extract_feats(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(self.parameters()).device
        if speech.dim() == 3:  # an audio-visual array
            return speech.to(device), lengths
        frames = int(speech.shape[1] / self.args.fs / self.args.frame_shift)
        return torch.zeros(len(speech), frames, self.args.input_size, device=device), torch.full((len(speech),), frames)


class _Ctc(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.ctc_lo = nn.Linear(inputs, outputs)

    def log_softmax(self, x: torch.Tensor) -> torch.Tensor:
        return self.ctc_lo(x).log_softmax(-1)


def preview(path: Path, vocab_size: int, tokens_per_second: float) -> Preview:
    """Look at a training YAML.

    Args:
        path: the YAML file.
        vocab_size: length of the token list.
        tokens_per_second: mean token rate, the decoder's share of the work.

    Raises:
        LrsmsError: a class that this package has no low-rank form of, a wrong option or ``low_rank`` block, or a
            front-end whose size is not known here.
    """
    config = read_training_yaml(path)
    check_values(path, config)
    classes: dict[str, type] = {}
    try:
        args = _arguments(path, config, vocab_size)
        classes = {part: outline_classes(part)[vars(args)[part]] for part in PARTS if vars(args)[part]}
        check_heads(path, config, classes)
        with torch.device("meta"), skip_initialization():
            recurrent = any(isinstance(part, _RECURRENT) for part in Outline(without_low_rank(args)).modules())
        # Shapes alone are enough; but without numbers torch goes through an LSTM in Python, operation by operation.
        return _preview(args, tokens_per_second, "cpu" if recurrent else "meta")
    except LrsmsError as error:
        raise error if str(path) in str(error) else LrsmsError(f"{path}: {error}") from error
    except Exception as error:  # each class of ESPnet's refuses its options with exceptions of its own
        raise explained(path, config, classes, error, "the model cannot be built and run") from error


_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def outline_classes(part: str) -> dict[str, type]:
    """ESPnet's and our classes of ``encoder`` or ``decoder`` by name, low-rank or not."""
    low_rank, table = (LOW_RANK_ENCODERS, ENCODERS) if part == "encoder" else (LOW_RANK_DECODERS, DECODERS)
    return {**low_rank, **{name.removeprefix("lowrank_"): base for name, (base, _) in table.items()}}


def _preview(args: argparse.Namespace, tokens_per_second: float, device: str) -> Preview:
    def build(options: argparse.Namespace) -> nn.Module:
        with torch.device(device):
            return Outline(options).to(device)  # ESPnet makes some parameters in a way that ignores the default device

    with skip_initialization():
        model = build_low_rank(args, build)
        dense = build(without_low_rank(args))
    counts = positions(dense, args.fs, tokens_per_second)
    parts = {name: module for name, module in model.named_children() if hasattr(module, "rank_plan")}
    plans = {name: part.rank_plan for name, part in parts.items()}
    macs = {
        f"{name}.{entry.module}": counts[f"{name}.{entry.module}"] * entry.macs
        for name, plan in plans.items()
        for entry in plan.entries
    }
    return Preview(
        plans,
        cost(model, args.fs, tokens_per_second),
        macs,
        _memory(model, args, tokens_per_second),
        _memory(dense, args, tokens_per_second),
        args.max_duration,
    )


def _arguments(path: Path, config: dict, vocab_size: int) -> argparse.Namespace:
    conf, names = {}, {}
    for part, default in (("encoder", "rnn"), ("decoder", None)):  # ESPnet's defaults
        names[part] = name = config.get(part, default)
        conf[part] = dict(mapping_of(path, config, f"{part}_conf"))
        if name is None and part == "decoder":
            continue
        table = ENCODERS if part == "encoder" else DECODERS
        if not isinstance(name, str) or name not in outline_classes(part):
            raise LrsmsError(f"{locate(path, part)}: {part}: {name!r} has no low-rank form; one of {', '.join(table)}")
        base = table[name if name in table else f"lowrank_{name}"][0]
        allowed = _options(base, low_rank=name in table)
        for option in conf[part]:
            if option not in allowed:
                check_keys([option], allowed, f"{locate(path, f'{part}_conf', option)}: {part}_conf")
    mapping_of(path, config, "model_conf")
    frontend, frontend_conf = config.get("frontend", "default"), mapping_of(path, config, "frontend_conf")
    if config.get("input_size") is not None:
        input_size = int(config["input_size"])
    elif frontend in FRONTENDS:
        option, default_size = FRONTENDS[frontend]
        input_size = frontend_conf.get(option, default_size)
        if not isinstance(input_size, int) or input_size < 1:
            where = f"{locate(path, 'frontend_conf', option)}: frontend_conf.{option}"
            raise LrsmsError(f"{where}: {input_size!r}: expected a whole number of at least 1")
    else:
        raise LrsmsError(
            f"{locate(path, 'frontend')}: frontend: the size of {frontend!r} is not known here; write input_size:"
        )
    fs = sampling_rate(frontend_conf)
    if names["encoder"] in ("av_conformer", "lowrank_av_conformer"):
        shift = FRAME_SHIFT
    elif frontend == "kaldi_fbank":
        shift = frontend_conf.get("frame_shift", 0.01)
    else:
        shift = frontend_conf.get("hop_length", 128) / fs
    return argparse.Namespace(
        encoder=names["encoder"],
        encoder_conf=conf["encoder"],
        decoder=names["decoder"],
        decoder_conf=conf["decoder"],
        frontend_conf=frontend_conf,
        input_size=input_size,
        vocab_size=vocab_size,
        ctc_weight=float((config.get("model_conf") or {}).get("ctc_weight", 0.5)),
        fs=fs,
        frame_shift=shift,
        max_duration=float(config.get("max_duration", 60.0)),
    )


def _options(base: type, low_rank: bool) -> set[str]:
    import inspect

    return {*inspect.signature(base).parameters} | ({"low_rank", "fast"} if low_rank else set())


def _memory(model: nn.Module, args: argparse.Namespace, tokens_per_second: float) -> dict[str, int]:
    """Bytes of one step of Adam in float32: what autograd keeps of a 10 s utterance, times the batch's seconds."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, int] = {}
    held = []  # every tensor alive until the end, or the address of a freed one would be counted for the next

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held.append(storage)
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    model.train()
    device = next(model.parameters()).device
    frames, count = int(_SECONDS / args.frame_shift), max(1, round(_SECONDS * tokens_per_second))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoded, _, _ = model.encoder(torch.ones(1, frames, args.input_size, device=device), torch.tensor([frames]))
        outputs = [model.ctc.log_softmax(encoded)] if model.ctc is not None else []
        if model.decoder is not None:
            tokens = torch.ones(1, count, dtype=torch.long, device=device)
            outputs.append(model.decoder(encoded, torch.tensor([encoded.shape[1]]), tokens, torch.tensor([count]))[0])
    activations = round(sum(saved.values()) * args.max_duration / _SECONDS)
    del outputs
    return {"weights": weights, "gradients": weights, "optimizer": 2 * weights, "activations": activations}


def draw(shown: Preview, picture: Path) -> bool:
    """Rank over depth as a PNG. Returns False if nothing is low-rank."""
    from lrsms.scoring.pictures import rank_per_layer

    with tempfile.TemporaryDirectory() as folder:
        save_plans(Path(folder) / "rank_plan.yaml", shown.plans, asdict(shown.cost))
        return rank_per_layer({"plan": Path(folder)}, picture)


def page(shown: Preview, title: str) -> str:
    """The preview as one HTML file, the picture within it."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "ranks.png"
        image = base64.b64encode(picture.read_bytes()).decode() if draw(shown, picture) else ""
    rows = "".join(
        f"<tr><td>{html.escape(f'{part}.{entry.module}')}<td>{entry.role}<td>{entry.inputs} x {entry.outputs}"
        f"<td>{entry.rank or 'dense'}<td>{entry.parameters:,}<td>{entry.parameters / entry.dense_parameters:.0%}"
        f"<td>{shown.macs[f'{part}.{entry.module}'] / 1e6:,.2f}<td>{html.escape(entry.note)}"
        for part, plan in shown.plans.items()
        for entry in plan.entries
    )
    heads = "".join(
        f"<th>{head}" for head in ("module", "role", "in x out", "rank", "parameters", "of dense", "MMACs/s", "")
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>body{{font:14px sans-serif;"
        f"margin:2em}}table{{border-collapse:collapse}}td,th{{padding:2px 10px;text-align:right}}td:first-child,"
        f"td:nth-child(2),td:last-child{{text-align:left}}tr:nth-child(even){{background:#f4f4f4}}</style>"
        f"<h1>{html.escape(title)}</h1><pre>{html.escape(chr(10).join(shown.totals()))}</pre>"
        + (f'<img alt="rank per layer" src="data:image/png;base64,{image}">' if image else "")
        + f"<table><tr>{heads}{rows}</table>\n"
    )
