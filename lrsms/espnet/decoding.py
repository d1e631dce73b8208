"""Stage 4: CTC/attention beam search over a split, several processes at once."""

from __future__ import annotations

import inspect
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from lhotse import CutSet
from lhotse.cut import Cut
from tqdm import tqdm

import lrsms.espnet  # noqa: F401  (worker processes import this module, and must register)
from lrsms import stamp
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.espnet.av_data import decoding_loader
from lrsms.espnet.config_check import check_keys, read_yaml
from lrsms.espnet.fast.convolution import pointwise_as_linear_
from lrsms.espnet.iterator import load_waveform
from lrsms.espnet.lattice_decoding import LatticeDecoding, LatticeRecogniser, about, outside_lexicon
from lrsms.espnet.search import make_search_fast_
from lrsms.files import write_json, write_text
from lrsms.fsa.options import CTC_ATTENTION, K2Options, check_method
from lrsms.provenance import provenance
from lrsms.scoring.decoding import decoding_folder

Load = Callable[[Cut], np.ndarray]  # a cut to what the model takes as speech

# Weights of the smallest layer that torch's int8 makes faster: each call of one costs some 40 us for what it spares.
LEAST_INT8 = 2**16

_recogniser: Speech2Text | LatticeRecogniser | None = None
_loads: Mapping[str, Load] = {}
_arguments: tuple = ()  # of _load, in each process


class Hypothesis(NamedTuple):
    """The best hypothesis of one utterance.

    Attributes:
        id: utterance id.
        text: words.
        tokens, token_ids: its tokens and their numbers.
        score: total log-probability of the search.
        seconds: time spent on it.
    """

    id: str
    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    seconds: float


@dataclass(frozen=True)
class Decoding:
    """What to decode with what.

    Attributes:
        asr_exp: the experiment's folder.
        cuts: manifest of the split.
        config: decoding YAML, options of ESPnet's ``Speech2Text``.
        checkpoint: file name in ``asr_exp``.
        nj: processes; each computes on one thread.
        ngpu: GPUs to spread them over, 0 for CPU.
        method: one of :data:`lrsms.fsa.options.METHODS`.
        train_splits: whose text makes the lexicon and language model of the methods that have them.
    """

    asr_exp: Path
    cuts: Path
    config: Path
    checkpoint: str = DEFAULT_CHECKPOINT
    nj: int = 1
    ngpu: int = 0
    method: str = CTC_ATTENTION
    train_splits: tuple[str, ...] = ("train",)

    @property
    def output_dir(self) -> Path:
        """Where the hypotheses go."""
        return decoding_folder(self.asr_exp, self.config, self.checkpoint, self.cuts.parent.name, self.method)

    def run(self, force: bool = False) -> None:
        """Decode, and leave ``text``, ``token``, ``token_int``, ``score`` (ESPnet's names) and ``decode.json``.

        Raises:
            LrsmsError: missing inputs or an unknown option.
        """
        options = self.check()
        marker, inputs = self.output_dir / "inputs.json", self.inputs
        if not force and stamp.is_current(marker, {}, inputs) and (self.output_dir / "decode.json").exists():
            print(f"stage 4: {self.output_dir} is decoded and its inputs have not changed; skipped")
            return
        self._decode(options)
        stamp.write(marker, {}, inputs)

    @property
    def lattice(self) -> LatticeDecoding | None:
        """What k2 needs, None where ESPnet searches."""
        if self.method == CTC_ATTENTION:
            return None
        options = read_k2_options(self.config)
        return LatticeDecoding(
            self.method, options, self.asr_exp / "config.yaml", self.cuts.parent.parent, self.train_splits
        )

    @property
    def inputs(self) -> list[Path]:
        """Files that the hypotheses depend on."""
        files = [self.config, (self.asr_exp / self.checkpoint).resolve(), self.cuts]
        return files + (self.lattice.inputs if self.lattice else [])

    def check(self) -> dict:
        """The options of the decoding YAML.

        Raises:
            LrsmsError: missing inputs or an unknown option.
        """
        check_method(self.method)
        options = read_options(self.config)
        model = self.asr_exp / self.checkpoint
        for path, remedy in ((model, "run stage 3 to its end"), (self.cuts, "run stage 1 first")):
            if not path.exists():
                there = ", ".join(sorted(found.name for found in self.asr_exp.glob("*.pth"))) or "no checkpoint"
                raise LrsmsError(f"{path}: not there; {remedy} ({self.asr_exp} holds {there})")
        if self.lattice:
            self.lattice.check()
        else:
            self._check_beam(options.get("beam_size", 20))
        return options

    def _check_beam(self, beam_size: int) -> None:
        check_beam(beam_size, len(read_yaml(self.asr_exp / "config.yaml")["token_list"]), str(self.config))

    def _decode(self, options: dict) -> None:
        cuts = self.sorted_cuts()
        load = decoding_loader(self.asr_exp, self.output_dir) or load_waveform
        more = self._prepare_lattice(cuts)
        began = time.perf_counter()
        with tqdm(total=len(cuts), desc=f"decoding {self.cuts.parent.name}", unit="utt", dynamic_ncols=True) as bar:
            found = []
            for hypothesis in self.hypotheses(options, {"": load}, [("", cut) for cut in cuts]):
                found.append(hypothesis)
                bar.update()
        self.write(self.output_dir, options, cuts, found, time.perf_counter() - began, **more)

    def _prepare_lattice(self, cuts: list[Cut]) -> dict:
        """Make the graph before several processes want it; returns entries of ``decode.json``."""
        if not self.lattice:
            return {}
        self.lattice.prepare()
        graph = self.lattice.graph
        more = about(self.method, asdict(self.lattice.options))
        if graph:
            outside = outside_lexicon(graph, self.lattice.config, (cut.supervisions[0].text or "" for cut in cuts))
            more["words_outside_lexicon"] = outside.total()
            if outside:
                examples = ", ".join(repr(word) for word, _ in outside.most_common(5))
                print(f"{self.cuts}: {outside.total()} words are not in the lexicon and are lost, such as {examples}")
        return more

    def sorted_cuts(self) -> list[Cut]:
        """The split, longest first, so that no process is left alone with a long one at the end."""
        return sorted(CutSet.from_file(self.cuts), key=lambda cut: -cut.duration)

    def write(
        self, folder: Path, options: Mapping, cuts: Iterable[Cut], found: list[Hypothesis], wall: float, **more
    ) -> None:
        """Leave the hypotheses and ``decode.json`` in ``folder``.

        Args:
            folder: where to.
            options: of the decoding YAML.
            cuts: what was decoded.
            found: the hypotheses, in any order.
            wall: seconds that it took.
            more: further entries of ``decode.json``.
        """
        found = sorted(found, key=lambda hypothesis: hypothesis.id)
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(folder, found)
        audio, spent = sum(cut.duration for cut in cuts), sum(hypothesis.seconds for hypothesis in found)
        report = {
            "split": self.cuts.parent.name,
            "checkpoint": self.checkpoint,
            "utterances": len(found),
            "audio_seconds": audio,
            "decode_seconds": spent,
            "wall_seconds": wall,
            "nj": self.nj,
            "device": "cuda" if self.ngpu else "cpu",
            "rtf": spent / audio,
            **_search(options if self.method == CTC_ATTENTION else None),
            "config": str(self.config),
            "seed": 0,
            **provenance(),
            **more,
        }
        write_json(folder / "decode.json", report)

    def hypotheses(
        self, options: dict, loads: Mapping[str, Load], jobs: Iterable[tuple[str, Cut]]
    ) -> Iterator[Hypothesis]:
        """The hypothesis of each job, in the jobs' order.

        Args:
            options: of the decoding YAML.
            loads: ways to load a cut, by name.
            jobs: name of a way to load, and the cut.
        """
        lattice = None
        if self.lattice:
            options = {}
            lattice = (self.lattice.config, self.method, self.lattice.options, self.lattice.graph)
        model = (str(self.asr_exp / "config.yaml"), str(self.asr_exp / self.checkpoint), options, self.ngpu, lattice)
        arguments = (loads, *model)
        if self.nj == 1:
            _configure(*arguments)
            yield from map(_recognise, jobs)
            return
        # A fork server that has imported ESPnet once; forking this process is unsafe after torch has used threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with ProcessPoolExecutor(self.nj, context, initializer=_configure, initargs=arguments) as pool:
            yield from pool.map(_recognise, jobs)


def _search(options: Mapping | None) -> dict:
    if options is None:
        return {}
    return {"beam_size": options.get("beam_size", 20), "ctc_weight": options.get("ctc_weight", 0.5)}


def read_options(config: Path) -> dict:
    """The options of a decoding YAML for ESPnet's search, its ``k2`` block checked and left out.

    Raises:
        LrsmsError: unreadable, or an unknown option.
    """
    return check_options(read_yaml(config), str(config))


def check_options(options: Mapping, where: str) -> dict:
    """The same of options that come from elsewhere; ``where`` names them in messages."""
    allowed = set(inspect.signature(Speech2Text).parameters) - {"asr_train_config", "asr_model_file", "device"}
    options = dict(options)
    K2Options.parse(options.pop("k2", None), f"{where}: k2")
    check_keys(options, allowed, where)
    return options


def read_k2_options(config: Path) -> K2Options:
    """The ``k2`` block of a decoding YAML, defaults where it has none.

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


def _configure(loads: Mapping[str, Load], *arguments) -> None:
    # Loading waits for the first utterance, whose caller gets its errors; an initialiser that fails has no caller.
    global _recogniser, _loads, _arguments
    _recogniser, _loads, _arguments = None, loads, arguments


def open_recogniser(
    asr_exp: Path,
    checkpoint: str,
    options: Mapping,
    precision: str = "fp32",
    change: Callable[[torch.nn.Module], object] | None = None,
    fast_search: bool = True,
) -> Speech2Text:
    """ESPnet's recogniser around a trained model, on the CPU.

    Args:
        asr_exp: the experiment's folder.
        checkpoint: file name in it.
        options: of ``Speech2Text``.
        precision: ``fp32``; ``bf16``, weights of encoder, decoder and CTC in bfloat16, scores in float32; or ``int8``,
            torch's dynamic quantisation of LSTM, and of Linear and the pointwise convolutions that have a fast path
            from :data:`LEAST_INT8` weights on: smaller ones, factors mostly, are faster as they are.
        change: what is done to the model in place before, such as merging its factors.
        fast_search: False for ESPnet's own search.

    Raises:
        LrsmsError: files are missing.
    """
    for path in (asr_exp / "config.yaml", asr_exp / checkpoint):
        if not path.exists():
            raise LrsmsError(f"{path}: not there; train first, or give --checkpoint")
    recogniser = Speech2Text(asr_exp / "config.yaml", asr_exp / checkpoint, **options)
    model = recogniser.asr_model  # its search holds the same decoder and CTC: they are changed in place
    if change is not None:
        change(model)
    if precision == "int8":
        pointwise_as_linear_(model)
        torch.ao.quantization.quantize_dynamic(model, _to_quantise(model), torch.qint8, inplace=True)
    elif precision == "bf16":
        _to_bfloat16(model)
    if fast_search:
        make_search_fast_(recogniser)
    return recogniser


def _to_quantise(model: torch.nn.Module) -> set[str]:
    """Paths of the layers."""
    return {
        path
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.LSTM) or type(layer) is torch.nn.Linear and layer.weight.numel() >= LEAST_INT8
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


def _load(
    config: str, model: str, options: dict, ngpu: int, lattice: tuple | None = None
) -> Speech2Text | LatticeRecogniser:
    torch.set_num_threads(1)
    number = next(iter(multiprocessing.current_process()._identity), 1) - 1
    device = f"cuda:{number % ngpu}" if ngpu else "cpu"
    recogniser = Speech2Text(config, model, device=device, **options)
    if lattice is None:
        make_search_fast_(recogniser)
        return recogniser
    return LatticeRecogniser(recogniser, *lattice)


def _recognise(job: tuple[str, Cut]) -> Hypothesis:
    name, cut = job
    global _recogniser
    if _recogniser is None:
        _recogniser = _load(*_arguments)
    speech = _loads[name](cut)
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            text, tokens, ids, hypothesis = _recogniser(speech)[0][:4]
        score = float(hypothesis.score)
    except Exception as error:
        if type(error).__name__ != "TooShortUttError":
            raise
        text, tokens, ids, score = "", [], [], 0.0
    return Hypothesis(cut.id, text or "", tokens, [int(i) for i in ids], score, time.perf_counter() - began)


def _write_tables(folder: Path, found: list[Hypothesis]) -> None:
    columns = {
        "text": lambda item: item.text,
        "token": lambda item: " ".join(item.tokens),
        "token_int": lambda item: " ".join(map(str, item.token_ids)),
        "score": lambda item: f"{item.score:.4f}",
    }
    for name, value in columns.items():
        write_text(folder / name, "".join(f"{item.id} {value(item)}".rstrip() + "\n" for item in found))
