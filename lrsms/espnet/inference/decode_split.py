"""Stage 4: CTC/attention beam search over a split, several processes at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from lhotse.cut import Cut
from tqdm import tqdm

import lrsms.espnet  # noqa: F401  (worker processes import this module, and must register)
from lrsms import stamp
from lrsms.data.cut_files import read_cuts
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.av_batches import decoding_loader
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.inference.k2_lattice import LatticeDecoding, LatticeRecognizer, about, outside_lexicon
from lrsms.espnet.inference.open import check_beam, open_recognizer, read_k2_options, read_options
from lrsms.files import write_json, write_text
from lrsms.fsa.options import CTC_ATTENTION, check_method
from lrsms.processes import be_helper, one_thread, start_context
from lrsms.provenance import provenance
from lrsms.scoring.decoding import decoding_folder

Load = Callable[[Cut], np.ndarray]  # a cut to what the model takes as speech

_recognizer: Speech2Text | LatticeRecognizer | None = None
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

    @cached_property
    def experiment(self) -> Experiment:
        """The model's."""
        return Experiment(self.asr_exp, self.checkpoint)

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
        """What k2 needs; None if ESPnet searches."""
        if self.method == CTC_ATTENTION:
            return None
        options = read_k2_options(self.config)
        return LatticeDecoding(self.method, options, self.experiment, self.cuts.parent.parent, self.train_splits)

    @property
    def inputs(self) -> list[Path]:
        """Files that the hypotheses depend on."""
        files = [self.config, self.experiment.weights.resolve(), self.cuts]
        return files + (self.lattice.inputs if self.lattice else [])

    def check(self) -> dict:
        """The options of the decoding YAML.

        Raises:
            LrsmsError: missing inputs or an unknown option.
        """
        check_method(self.method)
        options = read_options(self.config)
        self.experiment.check()
        if not self.cuts.exists():
            raise LrsmsError(f"{self.cuts}: not found; run stage 1 first")
        if self.lattice:
            self.lattice.check()
        else:
            check_beam(options.get("beam_size", 20), len(self.experiment.token_list), str(self.config))
        return options

    def _decode(self, options: dict) -> None:
        cuts = self.sorted_cuts()
        load = decoding_loader(self.experiment, self.output_dir) or load_waveform
        of_lattice = self._prepare_lattice(cuts)
        began = time.perf_counter()
        with tqdm(total=len(cuts), desc=f"decoding {self.cuts.parent.name}", unit="utt", dynamic_ncols=True) as bar:
            hypotheses = []
            for hypothesis in self.hypotheses(options, {"": load}, [("", cut) for cut in cuts]):
                hypotheses.append(hypothesis)
                bar.update()
        self.write(self.output_dir, options, cuts, hypotheses, time.perf_counter() - began, **of_lattice)

    def _prepare_lattice(self, cuts: list[Cut]) -> dict:
        """Make the graph before several processes want it; returns entries of ``decode.json``."""
        if not self.lattice:
            return {}
        self.lattice.prepare()
        graph = self.lattice.graph
        entries = about(self.method, asdict(self.lattice.options))
        if graph:
            outside = outside_lexicon(graph, self.experiment, (cut.supervisions[0].text or "" for cut in cuts))
            entries["words_outside_lexicon"] = outside.total()
            if outside:
                examples = ", ".join(repr(word) for word, _ in outside.most_common(5))
                print(f"{self.cuts}: {outside.total()} words are not in the lexicon and are lost, such as {examples}")
        return entries

    def sorted_cuts(self) -> list[Cut]:
        """The split, longest first, so that no process is left alone with a long one at the end."""
        cuts = read_cuts(self.cuts, self.experiment.sampling_rate)
        return sorted(cuts, key=lambda cut: -cut.duration)

    def write(
        self, folder: Path, options: Mapping, cuts: Iterable[Cut], hypotheses: list[Hypothesis], wall: float, **further
    ) -> None:
        """Leave the hypotheses and ``decode.json`` in ``folder``.

        Args:
            folder: where to.
            options: of the decoding YAML.
            cuts: what was decoded.
            hypotheses: in any order.
            wall: seconds that it took.
            further: other entries of ``decode.json``.
        """
        hypotheses = sorted(hypotheses, key=lambda hypothesis: hypothesis.id)
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(folder, hypotheses)
        audio, spent = sum(cut.duration for cut in cuts), sum(hypothesis.seconds for hypothesis in hypotheses)
        report = {
            "split": self.cuts.parent.name,
            "checkpoint": self.checkpoint,
            "utterances": len(hypotheses),
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
            **further,
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
            lattice = (self.experiment, self.method, self.lattice.options, self.lattice.graph)
        arguments = (loads, self.experiment, options, self.ngpu, lattice)
        if self.nj == 1:
            _configure(*arguments)
            with one_thread():
                yield from map(_recognize, jobs)
            return
        context = start_context(__name__, on_gpu=bool(self.ngpu))
        with ProcessPoolExecutor(self.nj, context, initializer=_configure_helper, initargs=arguments) as pool:
            yield from pool.map(_recognize, jobs)


def _search(options: Mapping | None) -> dict:
    if options is None:
        return {}
    whisper = options.get("whisper")
    if whisper is not None:
        named = {"normalizer": whisper["normalizer"]} if whisper.get("normalizer") else {}
        return {"beam_size": options.get("beam_size", 1), "ctc_weight": 0.0, "whisper": whisper, **named}
    return {"beam_size": options.get("beam_size", 20), "ctc_weight": options.get("ctc_weight", 0.5)}


def _configure(loads: Mapping[str, Load], *arguments) -> None:
    # Loading waits for the first utterance, whose caller gets its errors; an initializer that fails has no caller.
    global _recognizer, _loads, _arguments
    _recognizer, _loads, _arguments = None, loads, arguments


def _configure_helper(*arguments) -> None:
    be_helper()
    _configure(*arguments)


def _load(
    experiment: Experiment, options: dict, ngpu: int, lattice: tuple | None = None
) -> Speech2Text | LatticeRecognizer:
    torch.set_num_threads(1)
    number = next(iter(multiprocessing.current_process()._identity), 1) - 1
    device = f"cuda:{number % ngpu}" if ngpu else "cpu"
    recognizer = open_recognizer(experiment, options, device=device)
    return recognizer if lattice is None else LatticeRecognizer(recognizer, *lattice)


def _recognize(job: tuple[str, Cut]) -> Hypothesis:
    name, cut = job
    global _recognizer
    if _recognizer is None:
        _recognizer = _load(*_arguments)
    speech = _loads[name](cut)
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            text, tokens, ids, hypothesis = _recognizer(speech)[0][:4]
        score = float(hypothesis.score)
    except Exception as error:
        if type(error).__name__ != "TooShortUttError":
            raise
        text, tokens, ids, score = "", [], [], 0.0
    return Hypothesis(cut.id, text or "", tokens, [int(i) for i in ids], score, time.perf_counter() - began)


def _write_tables(folder: Path, hypotheses: list[Hypothesis]) -> None:
    columns = {
        "text": lambda item: item.text,
        "token": lambda item: " ".join(item.tokens),
        "token_int": lambda item: " ".join(map(str, item.token_ids)),
        "score": lambda item: f"{item.score:.4f}",
    }
    for name, value in columns.items():
        write_text(folder / name, "".join(f"{item.id} {value(item)}".rstrip() + "\n" for item in hypotheses))
