#!/usr/bin/env python3
"""EXPORTS.md: each export of an experiment against the experiment itself, on some clips of a split.

Usage: local/exports.py --asr_exp exp/original --split test

Files that lrsms export has left in <asr_exp>/export are opened by this package and, if they are installed, by the
libraries that they are for: sherpa-onnx, and of a model that hears 30 s, openai-whisper and transformers. Every opener
hears the clips one after the other, on one thread; the first clip, which wakes it, is not timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet

import lrsms.espnet  # noqa: F401
from lrsms.bench.results import write_results
from lrsms.bin import run_verb
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.inference.open import open_recognizer
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.scoring.normalizers import normalizer
from lrsms.whisper.dimensions import ENGLISH_VOCABULARY

HALF_HOP = 80  # samples: where Whisper's frame is centred at its beginning, sherpa-onnx's is at its middle
Says = Callable[[np.ndarray], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr_exp", type=Path, required=True)
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--others", nargs="*", default=[], metavar="NAME=FOLDER", help="other folders for sherpa-onnx: "
                        "encoder.onnx, decoder.onnx and tokens.txt")  # fmt: skip
    parser.add_argument("--output_dir", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment(args.asr_exp, args.checkpoint)
    clips = _clips(args)
    source = open_recognizer(experiment, {})
    expected = [source(speech)[0][0] for speech in clips]
    normalize = normalizer("whisper_english")
    rows = []
    openers = _openers(experiment)
    for name, _, folder in (other.partition("=") for other in args.others):
        openers[f"sherpa-onnx, {name}"] = _sherpa(Path(folder), "")
    for name, says in openers.items():
        says(clips[0])
        began = time.process_time()
        texts = [says(speech).strip() for speech in clips]
        seconds = time.process_time() - began
        same = sum(ours == text for ours, text in zip(expected, texts))
        alike = sum(normalize(ours) == normalize(text) for ours, text in zip(expected, texts))
        rows.append([name, f"{same} / {len(clips)}", f"{alike} / {len(clips)}", f"{seconds:.1f}"])
        for ours, text in zip(expected, texts):
            if ours != text:
                print(f"{name}: {text!r}, not {ours!r}")
    if not rows:
        raise LrsmsError(f"{experiment.folder / 'export'}: holds no export; run stage 8")
    notes = [f"Greedy search over {len(clips)} clips of {args.split}; alike is after Whisper's English normalizer."]
    header = ["opened by", "the same text", "alike", "CPU seconds"]
    name = "_".join(args.asr_exp.parts[-2 if args.asr_exp.name.startswith("iter") else -1 :])
    title = f"Exports of {name}"
    print(write_results(args.output_dir, f"EXPORTS_{name}", title, header, rows, notes, {"rows": rows}))


def _clips(args: argparse.Namespace) -> list[np.ndarray]:
    cuts = sorted(CutSet.from_file(args.data_dir / args.split / "cuts.jsonl.gz"), key=lambda cut: cut.id)
    return [load_waveform(cut) for cut in cuts[:: max(1, len(cuts) // args.clips)][: args.clips]]


def _openers(experiment: Experiment) -> dict[str, Says]:
    exports, openers = experiment.folder / "export", {}
    clip = experiment.options("encoder_conf").get("audio_context") == "clip"
    for form in ("openai", "transformers"):
        if (exports / form).is_dir():
            recognizer = Recognizer(exports / form, max_seconds=29)
            openers[f"{form}, lrsms.Recognizer"] = lambda speech, recognizer=recognizer: recognizer(speech).text
            foreign = form == "openai" and len(experiment.token_list) < ENGLISH_VOCABULARY  # to its own tokenizer
            if importlib.util.find_spec({"openai": "whisper"}.get(form, form)) and not clip and not foreign:
                openers[f"{form}, its own library"] = {"openai": _openai, "transformers": _transformers}[form](
                    exports / form
                )
    if (exports / "sherpa").is_dir() and importlib.util.find_spec("sherpa_onnx"):
        for precision in ("", ".int8"):
            if (exports / "sherpa" / f"encoder{precision}.onnx").is_file():
                openers[f"sherpa-onnx, {precision[1:] or 'fp32'}"] = _sherpa(exports / "sherpa", precision)
    return openers


def _openai(folder: Path) -> Says:
    import whisper

    model = whisper.load_model(str(folder / "model.pt"), device="cpu")
    options = whisper.DecodingOptions(language="en", fp16=False, without_timestamps=True)

    def says(speech: np.ndarray) -> str:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(speech)), model.dims.n_mels)
        return whisper.decode(model, mel, options).text

    return says


def _transformers(folder: Path) -> Says:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder)

    def says(speech: np.ndarray) -> str:
        features = processor(speech, sampling_rate=16000, return_tensors="pt").input_features
        return processor.batch_decode(model.generate(features), skip_special_tokens=True)[0]

    return says


def _sherpa(folder: Path, precision: str) -> Says:
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
        encoder=str(folder / f"encoder{precision}.onnx"),
        decoder=str(folder / f"decoder{precision}.onnx"),
        tokens=str(folder / "tokens.txt"),
        language="en",
        num_threads=1,
    )

    def says(speech: np.ndarray) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.pad(speech, (HALF_HOP, 0)))
        recognizer.decode_stream(stream)
        return stream.result.text

    return says


if __name__ == "__main__":
    with torch.inference_mode():
        run_verb(main)
