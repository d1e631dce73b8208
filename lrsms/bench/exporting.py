"""Exported forms of models side by side: checkpoint, ONNX, int8 and sherpa-onnx; error rate, size and speed of each."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from lrsms.bench.decoding import beam_search, best_path, label
from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread
from lrsms.data.cut_files import read_cuts
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import read_yaml
from lrsms.espnet.export.onnx import OnnxModel, export_onnx
from lrsms.espnet.export.onnx_recognizer import open_onnx_recognizer
from lrsms.espnet.inference.open import open_recognizer
from lrsms.onnx import sherpa
from lrsms.onnx.files import PRECISIONS
from lrsms.scoring.alignment import align_tokens, count_pairs, to_words
from lrsms.scoring.bootstrap import paired_bootstrap

SEARCHES = ("ctc", "beam")
_LAYERS = {"faster": "the faster ones dense", "all": "dense", "none": "factored"}
_SAME = 0.99  # of utterances: an export in float32 has the checkpoint's text, rounding aside


@dataclass
class MeasuredForm:
    """One form of one model with one search.

    Attributes:
        experiment: its name.
        form: ``checkpoint``, ``onnx`` or ``sherpa-onnx``.
        precision: ``fp32`` or ``int8``.
        layers: which factored layers are how.
        search: ``ctc``, the best path, or ``beam``, ESPnet's.
        size: bytes of what the search needs.
        recognize: a waveform to text.
        texts, seconds: of each utterance, as they come.
    """

    experiment: str
    form: str
    precision: str
    layers: str
    search: str
    size: int
    recognize: Callable[[torch.Tensor], str]
    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def compare_exports(
    experiments: Sequence[Path],
    cuts: Path,
    decode_config: Path,
    checkpoint: str,
    folder: Path,
    work_dir: Path,
    *,
    merges: Sequence[str] = ("faster", "all", "none"),
    precisions: Sequence[str] = PRECISIONS,
    searches: Sequence[str] = SEARCHES,
    utterances: int | None = None,
    threads: int = 1,
) -> str:
    """Export each experiment in every form, then recognize every utterance with every one of them in turns.

    Args:
        experiments: trained; the first is what the others are compared with, form by form.
        cuts: manifest of the utterances.
        decode_config: options of ESPnet's ``Speech2Text``, for the beam.
        checkpoint: file name in each experiment.
        folder: for the results.
        work_dir: for the exported files.
        merges: of :data:`lrsms.espnet.export.onnx.MERGES`; of a model without factored layers, one.
        precisions: of ``fp32``, ``int8``.
        searches: of ``ctc``, ``beam``.
        utterances: how many of the manifest, the first; None for all.
        threads: of torch, onnxruntime and sherpa-onnx.

    Returns:
        The table.

    Raises:
        LrsmsError: no utterance, or an experiment that cannot be exported.
    """
    for search in searches:
        if search not in SEARCHES:
            raise LrsmsError(f"--searches: {search!r} is unknown; any of {', '.join(SEARCHES)}")
    if not cuts.exists():
        raise LrsmsError(f"{cuts}: not found; run stage 1 first")
    options = read_yaml(decode_config)
    notes: list[str] = []
    arms: list[MeasuredForm] = []
    for experiment in experiments:
        name, base = label(experiment), work_dir / label(experiment).replace("/", "_")
        trained = Experiment(experiment, checkpoint)
        arms += checkpoint_arms(trained, options, searches)
        for merge in merges:
            done = export_onnx(trained, base / f"onnx_{merge}", merge=merge, precisions=precisions)
            arms += onnx_arms(trained, options, done, merge, precisions, searches, threads)
            notes += [f"{name}: {note}." for note in done.notes if note not in "".join(notes)]
            if not done.layers:
                break
        try:
            done = export_onnx(trained, base / "sherpa", form="sherpa", merge=merges[0], precisions=precisions)
        except LrsmsError as error:
            notes.append(f"{name}: not for sherpa-onnx: {error}.")
            continue
        if "ctc" in searches:
            arms += sherpa_arms(trained, done, merges[0], precisions, threads)
            notes += [f"{name}: {note}." for note in done.notes]
    return measure(arms, cuts, folder, "export", notes, utterances=utterances, threads=threads)


def check_export(
    done: OnnxModel,
    experiment: Experiment,
    cuts: Path,
    decode_config: Path,
    *,
    merge: str,
    precisions: Sequence[str],
    utterances: int | None = None,
) -> str:
    """One export beside its checkpoint, on one thread; leaves ``check.md`` and ``check.json`` in its folder.

    Returns:
        The table.

    Raises:
        LrsmsError: in float32, more than one utterance in a hundred comes out as another text.
    """
    options = read_yaml(decode_config)
    searches = SEARCHES if done.decoder else ("ctc",)
    arms = checkpoint_arms(experiment, options, searches)
    if done.form == "sherpa":
        arms += sherpa_arms(experiment, done, merge, precisions, 1)
    else:
        arms += onnx_arms(experiment, options, done, merge, precisions, searches, 1)
    table = measure(arms, cuts, done.folder, "check", list(done.notes), utterances=utterances)
    for arm in arms:
        same = _same(arm, arms)
        if arm.precision == "fp32" and same < _SAME * len(arm.texts):
            raise LrsmsError(
                f"{done.folder}: {arm.form} with search {arm.search} has the checkpoint's text for {same} of "
                f"{len(arm.texts)} utterances only; see check.md there"
            )
    return table


def checkpoint_arms(experiment: Experiment, options: dict, searches: Sequence[str]) -> list[MeasuredForm]:
    """The model as it was trained, by ESPnet."""
    recognizer = open_recognizer(experiment, options)
    model = recognizer.asr_model
    parts = {"ctc": (model.encoder, model.ctc), "beam": (model.encoder, model.ctc, model.decoder)}
    return [
        MeasuredForm(
            *(label(experiment.folder), "checkpoint", "fp32", "as trained", search),
            sum(value.numel() * value.element_size() for part in parts[search] for value in part.parameters()),
            _recognize(recognizer, search),
        )
        for search in searches
    ]


def onnx_arms(
    experiment: Experiment,
    options: dict,
    done: OnnxModel,
    merge: str,
    precisions: Sequence[str],
    searches: Sequence[str],
    threads: int,
) -> list[MeasuredForm]:
    """The exported networks in ESPnet's search and on the best path."""
    arms = []
    for precision in precisions:
        recognizer = open_onnx_recognizer(experiment, options, done, precision, threads)
        for search in searches:
            if search == "ctc" or done.decoder:
                size = done.size(precision, decoder=search == "beam")
                layers = _layers(done, merge, precision)
                arm = MeasuredForm(
                    label(experiment.folder), "onnx", precision, layers, search, size, _recognize(recognizer, search)
                )
                arms.append(arm)
    return arms


def sherpa_arms(
    experiment: Experiment, done: OnnxModel, merge: str, precisions: Sequence[str], threads: int
) -> list[MeasuredForm]:
    """sherpa-onnx: its features, its onnxruntime, its search."""
    features = done.features
    if features is None:
        raise ValueError(f"{done.folder}: written in another form than sherpa")
    arms = []
    for precision in precisions:
        model = done.encoder_file(precision)
        recognizer = sherpa.open_recognizer(model, features, threads)
        layers = _layers(done, merge, precision)
        size = model.stat().st_size
        recognize = _sherpa_recognize(recognizer, features.sampling_rate)
        arms.append(MeasuredForm(label(experiment.folder), "sherpa-onnx", precision, layers, "ctc", size, recognize))
    return arms


def _layers(done: OnnxModel, merge: str, precision: str) -> str:
    if not done.layers:
        return "dense"
    return f"{done.merged[precision]} of {done.layers} dense" if merge == "faster" else _LAYERS[merge]


def _recognize(recognizer, search: str) -> Callable[[torch.Tensor], str]:
    return lambda audio: (beam_search if search == "beam" else best_path)(recognizer, audio)[0]


def _sherpa_recognize(recognizer, sampling_rate: int) -> Callable[[torch.Tensor], str]:
    def recognize(audio: torch.Tensor) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(sampling_rate, audio.numpy())
        recognizer.decode_stream(stream)
        return stream.result.text.strip()

    return recognize


def measure(
    arms: Sequence[MeasuredForm],
    cuts: Path,
    folder: Path,
    name: str,
    notes: Sequence[str],
    *,
    utterances: int | None = None,
    threads: int = 1,
) -> str:
    """Recognize every utterance with every arm in turns and write the results.

    Args:
        arms: of the same experiments' forms; error rates are compared with the first arm of the same form.
        cuts: manifest.
        folder, name: of the results.
        notes: below the table.
        utterances: how many, the first; None for all.
        threads: of torch, for the note.

    Returns:
        The table.
    """
    if not cuts.exists():
        raise LrsmsError(f"{cuts}: not found; run stage 1 first")
    chosen = list(read_cuts(cuts))[:utterances]
    if not chosen:
        raise LrsmsError(f"{cuts}: holds no cut to decode")
    torch.set_num_threads(threads)
    references = [to_words(cut.supervisions[0].text or "") for cut in chosen]
    for number, cut in enumerate(tqdm(chosen, desc=f"{len(arms)} forms", unit="utt", dynamic_ncols=True)):
        audio = torch.from_numpy(cut.load_audio()[0])
        turn = number % len(arms)
        for arm in [*arms[turn:], *arms[:turn]]:
            if number == 0:
                arm.recognize(audio)  # warm-up
            began = time.perf_counter()
            arm.texts.append(arm.recognize(audio))
            arm.seconds.append(time.perf_counter() - began)
    duration = sum(cut.duration for cut in chosen)
    results = [_result(arm, arms, references, duration) for arm in _grouped(arms)]
    return write_results(
        folder,
        name,
        "Exported models",
        (
            *("form", "precision", "search", "experiment", "layers", "MB", "WER %", "difference, points [95 %]"),
            *("same text", "RTF", "seconds per utterance [quartiles]"),
        ),
        [_row(result, len(chosen)) for result in results],
        [
            f"{len(chosen)} utterances of {duration / len(chosen):.1f} s on average, {threads} thread(s) of CPU, "
            f"each utterance by every form in turns, from waveform to text. `ctc`: the best path; `beam`: ESPnet's. "
            f"MB: of the networks that the search needs. Difference: than {arms[0].experiment} in the same form. "
            f"Same text: utterances that come out as from the checkpoint with the same search. {_versions()}.",
            *notes,
        ],
        {"results": results, "utterances": len(chosen), "threads": threads},
        left=5,
    )


def _versions() -> str:
    packages = ("onnx", "onnxruntime", "sherpa-onnx")
    installed = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is not None]
    return ", ".join(f"{name} {metadata.version(name)}" for name in installed)


def _grouped(arms: Sequence[MeasuredForm]) -> list[MeasuredForm]:
    """Forms of all experiments beside each other."""
    order: dict[tuple, int] = {}
    for arm in arms:
        order.setdefault((arm.search, arm.form, arm.precision), len(order))
    return sorted(arms, key=lambda arm: (SEARCHES.index(arm.search), order[arm.search, arm.form, arm.precision]))


def _same(arm: MeasuredForm, arms: Sequence[MeasuredForm]) -> int:
    """Utterances whose text is that of the checkpoint with the same search."""
    (reference,) = (
        other
        for other in arms
        if (other.experiment, other.form, other.search) == (arm.experiment, "checkpoint", arm.search)
    )
    return sum(mine.split() == its.split() for mine, its in zip(arm.texts, reference.texts))


def _errors(arm: MeasuredForm, references: Sequence[list[str]]) -> list[int]:
    return [count_pairs(align_tokens(words, to_words(text))).errors for words, text in zip(references, arm.texts)]


def _result(arm: MeasuredForm, arms: Sequence[MeasuredForm], references: Sequence[list[str]], duration: float) -> dict:
    base = next(
        other for other in arms if (other.form, other.precision, other.search) == (arm.form, arm.precision, arm.search)
    )
    words = [len(reference) for reference in references]
    errors = _errors(arm, references)
    difference = paired_bootstrap(_errors(base, references), errors, words)
    return {
        **{key: getattr(arm, key) for key in ("form", "precision", "search", "experiment", "layers")},
        "bytes": arm.size,
        "wer": 100.0 * sum(errors) / sum(words),
        "wer_difference": [difference.difference, difference.low, difference.high],
        "compared_with": [base.experiment, base.layers],
        "same_text": _same(arm, arms),
        "rtf": sum(arm.seconds) / duration,
        "latency": Spread.of(arm.seconds).__dict__,
    }


def _row(result: dict, utterances: int) -> tuple[str, ...]:
    difference, latency = result["wer_difference"], result["latency"]
    return (
        *(result[key] for key in ("form", "precision", "search", "experiment", "layers")),
        *(f"{result['bytes'] / 1e6:.2f}", f"{result['wer']:.2f}"),
        f"{difference[0]:+.2f} [{difference[1]:+.2f}, {difference[2]:+.2f}]",
        *(f"{result['same_text']} of {utterances}", f"{result['rtf']:.4f}"),
        f"{latency['median']:.4f} [{latency['low']:.4f}, {latency['high']:.4f}]",
    )
