"""How fast trained models decode: real-time factor of beam search and of greedy CTC, fp32 and int8, side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lhotse import CutSet
from tqdm import tqdm

from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread
from lrsms.errors import LrsmsError
from lrsms.espnet.config_check import read_yaml
from lrsms.espnet.decoding import open_recogniser
from lrsms.espnet.made_up import write_made_up
from lrsms.espnet.measure import trainable_parameters
from lrsms.scoring.alignment import align_tokens, count_pairs, to_words
from lrsms.scoring.bootstrap import paired_bootstrap

PRECISIONS = ("fp32", "int8")


def decode_speed(
    experiments: Sequence[Path],
    cuts: Path,
    decode_config: Path,
    checkpoint: str,
    folder: Path,
    *,
    utterances: int | None = None,
    precisions: Sequence[str] = PRECISIONS,
    threads: int = 1,
) -> str:
    """Every model decodes every utterance, in turns, by ESPnet's beam search and by its best CTC path.

    Args:
        experiments: folders; the first is what the others are compared with. A training YAML stands for a model of
            that size with random weights, whose errors are not counted.
        cuts: manifest of the utterances.
        decode_config: options of ESPnet's ``Speech2Text``.
        checkpoint: file name in each experiment.
        folder: for the results.
        utterances: how many of the manifest, the first; None for all.
        precisions: of ``fp32``, ``int8`` (torch's dynamic quantisation of Linear and LSTM).
        threads: of torch.

    Returns:
        The table.

    Raises:
        LrsmsError: an unknown precision, or no utterance.
    """
    unknown = set(precisions) - set(PRECISIONS)
    if unknown:
        raise LrsmsError(f"--precisions: {sorted(unknown)[0]!r} is unknown; any of {', '.join(PRECISIONS)}")
    chosen = list(CutSet.from_file(cuts))[:utterances]
    if not chosen:
        raise LrsmsError(f"{cuts}: holds no cut to decode")
    torch.set_num_threads(threads)
    options = read_yaml(decode_config)
    models = {
        (label(experiment), precision): model
        for experiment in experiments
        for precision, model in _models(experiment, checkpoint, precisions, options)
    }
    made_up = any(experiment.suffix == ".yaml" for experiment in experiments)
    arms = [(*key, way) for key in models for way in ("beam", "ctc")]
    seconds: dict[tuple, list[float]] = {arm: [] for arm in arms}
    errors: dict[tuple, list[int]] = {arm: [] for arm in arms}
    words = []
    for number, cut in enumerate(tqdm(chosen, desc="decoding", unit="utt")):
        audio = torch.from_numpy(cut.load_audio()[0])
        reference = to_words(cut.supervisions[0].text)
        words.append(len(reference))
        turn = number % len(arms)
        for arm in arms[turn:] + arms[:turn]:
            recognise = beam_search if arm[2] == "beam" else best_path
            if number == 0:
                recognise(models[arm[:2]], audio)  # warm-up
            spent, text = _timed(recognise, models[arm[:2]], audio)
            seconds[arm].append(spent)
            errors[arm].append(count_pairs(align_tokens(reference, to_words(text))).errors)
    durations = [cut.duration for cut in chosen]
    first = next(iter(models))
    results = []
    for arm in arms:
        base = (*first, arm[2])
        difference = paired_bootstrap(errors[base], errors[arm], words)
        wer = [100.0 * sum(errors[arm]) / sum(words), difference.difference, difference.low, difference.high]
        results.append(
            {
                **dict(zip(("experiment", "precision", "search"), arm)),
                "parameters": trainable_parameters(models[arm[0], precisions[0]].asr_model),
                "rtf": sum(seconds[arm]) / sum(durations),
                "latency": Spread.of(seconds[arm]).__dict__,
                "times_faster": sum(seconds[base]) / sum(seconds[arm]),
                "wer": None if made_up else wer[0],
                "wer_difference": None if made_up else wer[1:],
            }
        )
    return write_results(
        folder,
        "decode",
        "Decoding speed",
        (
            *("experiment", "precision", "search", "parameters", "RTF", "seconds per utterance [quartiles]"),
            *("x faster", "WER %", "difference, points [95 %]"),
        ),
        [_row(one) for one in results],
        [
            f"{len(chosen)} utterances of {sum(durations) / len(chosen):.1f} s on average, {threads} thread(s) of CPU; "
            f"each utterance by every model in turns. Faster and difference: than {first[0]} in {first[1]} with the "
            f"same search.{' Random weights: there is no WER.' if made_up else ''} "
            f"Beam {options.get('beam_size', 20)}, CTC weight {options.get('ctc_weight', 0.5)}."
        ],
        {"results": results, "utterances": len(chosen), "threads": threads, "options": options},
        left=3,
    )


def label(experiment: Path) -> str:
    """Name of an experiment; of an iteration of a compression, with the compression's."""
    if experiment.suffix == ".yaml":
        return experiment.stem
    return f"{experiment.parent.name}/{experiment.name}" if experiment.name.startswith("iter") else experiment.name


def _models(experiment: Path, checkpoint: str, precisions: Sequence[str], options: dict) -> list:
    with tempfile.TemporaryDirectory() as scratch:
        if experiment.suffix == ".yaml":
            config, experiment = experiment, Path(scratch) / "made_up"
            write_made_up(config, experiment, checkpoint)
        return [(precision, open_recogniser(experiment, checkpoint, options, precision)) for precision in precisions]


def _timed(recognise: Callable, model, audio: torch.Tensor) -> tuple[float, str]:
    began = time.perf_counter()
    text = recognise(model, audio)
    return time.perf_counter() - began, text


@torch.no_grad()
def beam_search(model, audio: torch.Tensor) -> str:
    """Text of ESPnet's search; empty where it finds none."""
    found = model(audio)
    return (found[0][0] if found else "") or ""


@torch.no_grad()
def best_path(model, audio: torch.Tensor) -> str:
    """Text of CTC's best path."""
    encoded, _ = model.asr_model.encode(audio[None], torch.tensor([len(audio)]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    best = torch.unique_consecutive(model.asr_model.ctc.argmax(encoded)[0])
    tokens = model.converter.ids2tokens([int(number) for number in best if number != 0])
    return model.tokenizer.tokens2text(tokens)


def _row(one: dict) -> tuple[str, ...]:
    latency, difference = one["latency"], one["wer_difference"]
    wer = "-" if one["wer"] is None else f"{one['wer']:.2f}"
    return (
        *(one["experiment"], one["precision"], one["search"], f"{one['parameters']:,}", f"{one['rtf']:.4f}"),
        f"{latency['median']:.3f} [{latency['low']:.3f}, {latency['high']:.3f}]",
        *(f"{one['times_faster']:.2f}", wer),
        "-" if difference is None else f"{difference[0]:+.2f} [{difference[1]:+.2f}, {difference[2]:+.2f}]",
    )
