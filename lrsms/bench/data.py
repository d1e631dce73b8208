"""From cuts to batches: utterances a second, against ESPnet's dump; growth from 1 h to 1,000 h; what training waits."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from lrsms.bench.results import write_results
from lrsms.bench.workers import workers
from lrsms.data.jsonl import write_jsonl
from lrsms.errors import LrsmsError
from lrsms.espnet.bench.dummy import DummyTraining, peak_memory
from lrsms.espnet.bench.loaders import Batches, FromCuts, FromDump
from lrsms.files import atomic_write
from lrsms.scoring.report import markdown_table
from lrsms.text_files import read_lines

FS = 16000
_SHORTEST, _LONGEST = 2.0, 18.0  # seconds of made-up utterances; 10 on average


def data_speed(
    cuts: Path,
    config: Path,
    folder: Path,
    *,
    hours: Sequence[float],
    max_duration: float = 60.0,
    threads: int = 1,
    steps: int = 8,
) -> str:
    """Three tables: both ways to batches of one split, growth over made-up manifests, and the loader's share of a step.

    Args:
        cuts: manifest of a split with ``lang_char`` beside its folder.
        config: training YAML, for ESPnet's statistics and for the steps.
        folder: for the results.
        hours: of audio in the made-up manifests.
        max_duration: seconds of audio in a batch.
        threads: of torch, in the steps.
        steps: trained on the split's batches.

    Returns:
        The tables.

    Raises:
        LrsmsError: no manifest or token list.
    """
    tokens = cuts.parent.parent / "lang_char" / "tokens.txt"
    for path, stage in ((cuts, 1), (tokens, 2)):
        if not path.exists():
            raise LrsmsError(f"{path}: not found; run stage {stage} first, with --token-type char")
    with tempfile.TemporaryDirectory() as scratch:
        ways = _both_ways(cuts, tokens, config, Path(scratch), max_duration)
        growth = [_growth(number, tokens, Path(scratch), max_duration) for number in tqdm(hours, desc="manifests")]
    share = _share(cuts, tokens, config, max_duration, threads, steps)
    header = ("way", "prepare s", "first batch s", "utterances per s, loaded in the process", "by one worker")
    second = _growth_table(growth)
    third = (
        f"Of {share['steps']} steps of `{config.stem}` ({share['step']:.2f} s each, {threads} thread(s)) on batches of "
        f"{max_duration:g} s that one worker process loads, training waited for data {share['share']:.2%} of the time."
    )
    table = write_results(
        folder,
        "data",
        "Data loading",
        header,
        [
            (
                *(result["way"], f"{result['prepare']:.1f}", f"{result['first']:.2f}"),
                *(f"{result['per_second'][count]:.0f}" for count in (0, 1)),
            )
            for result in ways
        ],
        [
            f"{ways[0]['utterances']} utterances; batches of {max_duration:g} s of audio. Prepare: FLAC, lists of "
            "files and collected statistics, which ESPnet wants once for a corpus.",
            "\n## Growth\n",
            second,
            f"\nMade-up manifests (utterances of {_SHORTEST:g} to {_LONGEST:g} s, all of one sound file), each in a "
            "process of its own. Memory: what the process has grown by, at most, since it had imported everything.",
            "\n## Waiting\n",
            third,
        ],
        {"ways": ways, "growth": growth, "share": share, "max_duration": max_duration},
    )
    return f"{table}\n\n{second}\n\n{third}"


def _both_ways(cuts: Path, tokens: Path, config: Path, scratch: Path, max_duration: float) -> list[dict]:
    from_cuts = [FromCuts(cuts, tokens, max_duration, workers) for workers in (0, 1)]
    from_dump = [FromDump(scratch / "dump", tokens, max_duration, workers) for workers in (0, 1)]
    began = time.perf_counter()
    from_dump[0].dump(cuts)
    from_dump[0].collect(config)
    prepared = time.perf_counter() - began
    results = []
    for name, prepare, way in (("ESPnet's dump", prepared, from_dump), ("straight from cuts", 0.0, from_cuts)):
        passes = [_timed_pass(loader.batches) for loader in way]
        results.append(
            {
                **{"way": name, "prepare": prepare, "first": passes[0]["first"], "utterances": passes[0]["utterances"]},
                "per_second": [timed["utterances"] / timed["seconds"] for timed in passes],
            }
        )
    return results


def _timed_pass(batches: Callable[[], Batches]) -> dict:
    began, first, count = time.perf_counter(), 0.0, 0
    for ids, _ in batches():
        first = first or time.perf_counter() - began
        count += len(ids)
    return {"first": first, "seconds": time.perf_counter() - began, "utterances": count}


class FirstBatch:
    """In a process of its own: one manifest, how long its first batch takes, and how much memory."""

    def __init__(self, cuts: Path, tokens: Path, max_duration: float):
        self.way, self.before = FromCuts(cuts, tokens, max_duration), peak_memory()

    def seconds(self) -> float:
        """Until the first batch of an epoch."""
        began = time.perf_counter()
        next(iter(self.way.batches()))
        return time.perf_counter() - began

    def whole_pass(self) -> float:
        """Seconds to read the manifest once."""
        began = time.perf_counter()
        self.way.count()
        return time.perf_counter() - began

    def grown(self) -> int:
        """Bytes."""
        return peak_memory() - self.before


def _growth(hours: float, tokens: Path, scratch: Path, max_duration: float) -> dict:
    manifest = scratch / f"{hours:g}h.jsonl.gz"
    count = write_manifest(manifest, hours)
    with workers({"": (FirstBatch, (manifest, tokens, max_duration), {})}) as started:
        (worker,) = started.values()
        first, grown, whole = worker.call("seconds"), worker.call("grown"), worker.call("whole_pass")
        measured = {"hours": hours, "utterances": count, "first": first, "memory": grown, "pass": whole}
        measured["memory_pass"] = worker.call("grown")
    manifest.unlink()
    return measured


def write_manifest(manifest: Path, hours: float, seed: int = 0) -> int:
    """Write cuts of made-up lengths that add up to so many hours, all of one file of noise; returns their number."""
    sound = manifest.with_name("noise.flac")
    if not sound.exists():
        noise = np.random.default_rng(0).standard_normal(round(_LONGEST * FS)) * 0.1
        soundfile.write(sound, noise.astype(np.float32), FS)
    source = {"sources": [{"type": "file", "channels": [0], "source": str(sound)}], "sampling_rate": FS}
    source |= {"num_samples": round(_LONGEST * FS), "duration": _LONGEST, "channel_ids": [0]}

    def cuts() -> Iterator[dict]:
        draw, left, count = random.Random(seed), hours * 3600, 0
        while left > 0:
            duration, name = round(draw.uniform(_SHORTEST, _LONGEST), 2), f"u{count:07d}"
            supervision = {"id": name, "recording_id": name, "start": 0.0, "duration": duration, "channel": 0}
            supervision |= {"text": "BIN BLUE AT F TWO NOW"}
            cut = {"id": name, "start": 0.0, "duration": duration, "channel": 0, "supervisions": [supervision]}
            yield {**cut, "recording": {"id": name, **source}, "type": "MonoCut"}
            left, count = left - duration, count + 1

    with atomic_write(manifest) as unfinished:
        return write_jsonl(unfinished, cuts(), compresslevel=1)


def _growth_table(growth: Sequence[dict]) -> str:
    rows = [
        (
            *(f"{row['hours']:g}", f"{row['utterances']:,}", f"{row['first']:.2f}", f"{row['memory'] / 2**20:.0f}"),
            *(f"{row['pass']:.1f}", f"{row['memory_pass'] / 2**20:.0f}"),
        )
        for row in growth
    ]
    header = ("hours", "utterances", "first batch s", "memory MiB", "one pass s", "MiB after it")
    return markdown_table(header, rows)


def _share(cuts: Path, tokens: Path, config: Path, max_duration: float, threads: int, steps: int) -> dict:
    """Share of the time in which a training waits for its next batch, the first left out."""
    vocab_size = len(read_lines(tokens))
    training = DummyTraining(config, vocab_size=vocab_size, threads=threads)
    batches = _endless(FromCuts(cuts, tokens, max_duration, num_workers=1))
    waited = trained = 0.0
    for number in tqdm(range(-1, steps), desc="steps on loaded batches", unit="step", delay=2):
        began = time.perf_counter()
        _, batch = next(batches)
        loaded = time.perf_counter()
        training.step(**batch, audio=float(batch["speech_lengths"].sum()) / FS)
        if number >= 0:
            waited, trained = waited + loaded - began, trained + time.perf_counter() - loaded
    return {"steps": steps, "step": trained / steps, "share": waited / (waited + trained)}


def _endless(way: FromCuts):
    epoch = 0
    while True:
        epoch += 1
        yield from way.batches(epoch)
