"""How fast trained models decode: real-time factor of beam search and of greedy CTC, side by side."""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread
from lrsms.data.cut_files import read_cuts
from lrsms.errors import LrsmsError
from lrsms.espnet.bench.dummy import write_dummy_model
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import read_yaml
from lrsms.espnet.inference.beam_search import make_search_fast_
from lrsms.espnet.inference.open import open_recognizer
from lrsms.espnet.models.cost import rows_in_decoding, trainable_parameters
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.merge import merge_
from lrsms.scoring.alignment import align_tokens, count_pairs, to_words
from lrsms.scoring.bootstrap import paired_bootstrap

PRECISIONS = ("fp32", "bf16", "int8")
WEIGHTS = ("stored", "merged", "faster")
SEARCHES = ("beam", "fast", "espnet", "ctc")
_BEAMS = {"fast": "beam", "espnet": "beam, ESPnet's"}


def decode_speed(
    experiments: Sequence[Path],
    cuts: Path,
    decode_config: Path,
    checkpoint: str,
    folder: Path,
    *,
    utterances: int | None = None,
    precisions: Sequence[str] = ("fp32", "int8"),
    weights: Sequence[str] = ("stored",),
    threads: Sequence[int] = (1,),
    searches: Sequence[str] = ("beam", "ctc"),
    device: str = "cpu",
    batches: Sequence[int] = (1,),
) -> str:
    """Every model decodes every utterance, in turns, by beam search and by its best CTC path.

    Args:
        experiments: folders; the first is what the others are compared with. A training YAML stands for a model of
            that size with random weights, whose errors are not counted.
        cuts: manifest of the utterances.
        decode_config: options of ESPnet's ``Speech2Text``.
        checkpoint: file name in each experiment.
        folder: for the results.
        utterances: how many of the manifest, the first; None for all.
        precisions: of :func:`lrsms.espnet.inference.open.open_recognizer`.
        weights: of low-rank models: ``stored`` as they are, ``merged`` into dense ones, or merged where that runs
            ``faster`` (:func:`lrsms.lowrank.merge.merge_`).
        threads: of torch; with several, each in turn.
        searches: ``beam``, what decodes such a model by default: ESPnet's beam search around ESPnet's classes, this
            package's around its own; ``espnet`` and ``fast``, one of the two around all; ``ctc``, the best path.
        device: ``cpu`` or ``cuda``.
        batches: utterances at a time; of more than one only the best path.

    Returns:
        The table.

    Raises:
        LrsmsError: an unknown precision, kind of weights or search, int8 on a GPU, or no utterance.
    """
    if device == "cuda" and "int8" in precisions:
        raise LrsmsError("--precisions: torch's int8 is a CPU's; with --device cuda write fp32 or bf16")
    if max(batches) > 1 and "ctc" not in searches:
        raise LrsmsError(f"--batch {max(batches)}: a search takes one utterance; several are for --searches ctc")
    for option, given, known in (
        ("precisions", precisions, PRECISIONS),
        ("weights", weights, WEIGHTS),
        ("searches", searches, SEARCHES),
    ):
        unknown = set(given) - set(known)
        if unknown:
            raise LrsmsError(f"--{option}: {sorted(unknown)[0]!r} is unknown; any of {', '.join(known)}")
    chosen = list(read_cuts(cuts))[:utterances]
    if not chosen:
        raise LrsmsError(f"{cuts}: holds no cut to decode")
    torch.set_num_threads(threads[0])
    options = read_yaml(decode_config)
    models: dict[tuple[str, str], Any] = {}
    parameters: dict[str, int] = {}
    for experiment in experiments:
        for name, precision, model, size in _models(experiment, checkpoint, precisions, weights, options, device):
            models[name, precision], parameters[name] = model, parameters.get(name, size)
    untrained = any(experiment.suffix == ".yaml" for experiment in experiments)
    ways = {key: _ways(model, searches) for key, model in models.items()}
    arms = [
        (*key, way, count, batch)
        for key in models
        for way in ways[key]
        for count in threads
        for batch in batches
        if batch == 1 or _kind(way) == "ctc"
    ]
    seconds: dict[tuple, list[float]] = {arm: [] for arm in arms}
    errors: dict[tuple, list[int]] = {arm: [] for arm in arms}
    references = [to_words(cut.supervisions[0].text) for cut in chosen]
    words = [len(reference) for reference in references]
    with tqdm(total=len(chosen) * len(arms), desc="decoding", unit="utt") as bar:
        for batch in batches:
            mine = [arm for arm in arms if arm[4] == batch]
            for number, start in enumerate(range(0, len(chosen), batch)):
                audio = [torch.from_numpy(cut.load_audio()[0]) for cut in chosen[start : start + batch]]
                turn = number % max(1, len(mine))
                for arm in mine[turn:] + mine[:turn]:
                    recognize, model = ways[arm[:2]][arm[2]]
                    torch.set_num_threads(arm[3])
                    if number == 0:
                        recognize(model, *audio)  # warm-up
                    spent, texts = _timed(recognize, model, audio)
                    seconds[arm].append(spent)
                    for reference, text in zip(references[start:], texts):
                        errors[arm].append(count_pairs(align_tokens(reference, to_words(text))).errors)
                    bar.update(len(audio))
    durations = [cut.duration for cut in chosen]
    first = next(iter(models))
    results = []
    for arm in arms:
        base = next(
            other for other in arms if other[:2] == first and other[3:] == arm[3:] and _kind(other[2]) == _kind(arm[2])
        )
        difference = paired_bootstrap(errors[base], errors[arm], words)
        wer = [100.0 * sum(errors[arm]) / sum(words), difference.difference, difference.low, difference.high]
        results.append(
            {
                **dict(zip(("experiment", "precision", "search", "threads", "batch"), arm)),
                "parameters": parameters[arm[0]],
                "rtf": sum(seconds[arm]) / sum(durations),
                "latency": Spread.of(seconds[arm]).__dict__,
                "times_faster": sum(seconds[base]) / sum(seconds[arm]),
                "wer": None if untrained else wer[0],
                "wer_difference": None if untrained else wer[1:],
            }
        )
    return write_results(
        folder,
        "decode",
        "Decoding speed",
        (
            *("experiment", "precision", "search", "threads", "batch", "parameters", "RTF"),
            *("seconds per batch [quartiles]", "x faster", "WER %", "difference, points [95 %]"),
        ),
        [_row(result) for result in results],
        [
            f"{len(chosen)} utterances of {sum(durations) / len(chosen):.1f} s on average, on a "
            f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}; "
            f"each utterance by every model in turns. Faster and difference: than {first[0]} in {first[1]} by its "
            f"first beam search, or by its best path, with the same threads and batch. Search: ESPnet's, or this "
            f"package's with the same scores; ctc is the best path."
            f"{' Random weights: there is no WER.' if untrained else ''} "
            f"Beam {options.get('beam_size', 20)}, CTC weight {options.get('ctc_weight', 0.5)}."
        ],
        {"results": results, "utterances": len(chosen), "threads": list(threads), "device": device, "options": options},
        left=3,
    )


def _ways(recognizer, searches: Sequence[str]) -> dict[str, tuple[Callable, object]]:
    """Name of each search that is asked for -> function, and what it is called with."""
    own = "fast" if any(hasattr(part, "low_rank_config") for part in recognizer.asr_model.children()) else "espnet"
    searchers = {}
    for search in dict.fromkeys(own if asked == "beam" else asked for asked in searches):
        if search == "ctc":
            searchers[search] = (best_path, recognizer)
            continue
        searching = copy.copy(recognizer)
        searching.beam_search = copy.copy(recognizer.beam_search)
        if search == "fast":
            make_search_fast_(searching)
        searchers[_BEAMS[search]] = (beam_search, searching)
    return searchers


def _kind(search: str) -> str:
    return "ctc" if search == "ctc" else "beam"


def label(experiment: Path) -> str:
    """Name of an experiment; of an iteration of a compression, with the compression's."""
    if experiment.suffix == ".yaml":
        return experiment.stem
    return f"{experiment.parent.name}/{experiment.name}" if experiment.name.startswith("iter") else experiment.name


def _models(
    experiment: Path, checkpoint: str, precisions: Sequence[str], weights: Sequence[str], options: dict, device: str
) -> Iterator[tuple[str, str, object, int]]:
    """Name, precision, recognizer and parameters of each form of an experiment that is asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        trained = Experiment(experiment, checkpoint)
        if experiment.suffix == ".yaml":
            trained = Experiment(Path(scratch) / "untrained", checkpoint)
            write_dummy_model(experiment, trained.folder, checkpoint)
        low_rank = any(low_rank_layers(open_recognizer(trained, options).asr_model))
        for kind in weights if low_rank else ("stored",):
            name = label(experiment)
            if kind != "stored":
                name += ", merged" if kind == "merged" else ", merged where faster"
            parameters = 0

            def change(model, kind=kind) -> None:
                nonlocal parameters
                if kind != "stored":
                    merge_(model, only="all" if kind == "merged" else kind, frames=rows_in_decoding)
                parameters = trainable_parameters(model)

            for precision in precisions:
                model = open_recognizer(trained, options, precision, change, fast_search=False, device=device)
                yield name, precision, model, parameters


def _timed(recognize: Callable, model, audio: Sequence[torch.Tensor]) -> tuple[float, list[str]]:
    began = time.perf_counter()
    texts = recognize(model, *audio)
    return time.perf_counter() - began, texts


@torch.inference_mode()
def beam_search(model, audio: torch.Tensor) -> list[str]:
    """Text of the recognizer's search; empty if it finds none."""
    hypotheses = model(audio)
    return [(hypotheses[0][0] if hypotheses else "") or ""]


@torch.inference_mode()
def best_path(model, *audio: torch.Tensor) -> list[str]:
    """Texts of CTC's best paths through utterances ``(samples,)`` of one batch."""
    lengths = torch.tensor([len(one) for one in audio])
    speech = torch.nn.utils.rnn.pad_sequence(list(audio), batch_first=True)
    encoded, frames = model.asr_model.encode(speech.to(model.device), lengths.to(model.device))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    texts = []
    for path, count in zip(model.asr_model.ctc.argmax(encoded).tolist(), frames.tolist(), strict=True):
        best = [number for number, _ in itertools.groupby(path[:count])]
        tokens = model.converter.ids2tokens([number for number in best if number != 0])
        texts.append(model.tokenizer.tokens2text(tokens))
    return texts


def _row(result: dict) -> tuple[str, ...]:
    latency, difference = result["latency"], result["wer_difference"]
    wer = "-" if result["wer"] is None else f"{result['wer']:.2f}"
    return (
        *(result["experiment"], result["precision"], result["search"], str(result["threads"]), str(result["batch"])),
        *(f"{result['parameters']:,}", f"{result['rtf']:.4f}"),
        f"{latency['median']:.3f} [{latency['low']:.3f}, {latency['high']:.3f}]",
        *(f"{result['times_faster']:.2f}", wer),
        "-" if difference is None else f"{difference[0]:+.2f} [{difference[1]:+.2f}, {difference[2]:+.2f}]",
    )
