"""How long commands take to start: each on one utterance, in processes of their own, beside another checkout."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from lrsms.defaults import CONFIG
from lrsms.errors import LrsmsError

HERE = Path(__file__).resolve().parents[2]
_FIRST_EPOCH = "epoch started"  # ESPnet's words in train.log, before it takes the first batch
VERBS = ("transcribe", "decode", "train", "import", "torch", "help")


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds of processor time, its helpers included.
        memory: most that it had, in MB.
    """

    seconds: float
    cpu: float
    memory: float


def start_speed(
    experiment: Path,
    cuts: Path,
    config: Path,
    decode_config: Path,
    checkpoint: str,
    output_dir: Path,
    work_dir: Path,
    *,
    verbs: Sequence[str] = VERBS,
    against: Path | None = None,
    rounds: int = 10,
    threads: int = 1,
) -> str:
    """Run each verb in turns with this checkout and another, and leave ``start.md`` and ``start.json``.

    Args:
        experiment: a trained model's folder, to transcribe and decode with.
        cuts: manifest whose first utterance all verbs get.
        config: training YAML.
        decode_config: decoding YAML.
        checkpoint: file name in ``experiment``.
        output_dir: where table and JSON go.
        work_dir: scratch; emptied first.
        verbs: some of :data:`VERBS`; ``import`` is that of lrsms.espnet, ``torch`` that of torch alone, ``help`` that
            of decode.
        against: root of another checkout, run by the same Python.
        rounds: that count; one before them does not.
        threads: of torch.

    Returns:
        The table.

    Raises:
        LrsmsError: an unknown verb, missing files, or a process that fails.
    """
    for verb in verbs:
        if verb not in VERBS:
            raise LrsmsError(f"--verbs: {verb!r} is unknown; any of {', '.join(VERBS)}")
    if against is not None and not (against / "lrsms/bin").is_dir():
        raise LrsmsError(f"--against: {against} is no checkout: it has no lrsms/bin")
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    # Elsewhere, and first of all: what this process has when it starts another counts as that one's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        apart.submit(_prepare, work_dir.resolve(), experiment, cuts, checkpoint).result()
    roots = {"here": HERE} | ({} if against is None else {"against": against.resolve()})
    given = (work_dir.resolve(), config.resolve(), decode_config.resolve(), checkpoint)
    commands = {verb: _command(verb, *given) for verb in verbs}
    runs: dict[str, dict[str, list[Run]]] = {verb: {name: [] for name in roots} for verb in verbs}
    jobs = [(turn, verb) for turn in range(-1, rounds) for verb in verbs]
    for turn, verb in tqdm(jobs, desc="starts", unit="turn", dynamic_ncols=True):
        for name in list(roots)[:: 1 if turn % 2 else -1]:
            shutil.rmtree(work_dir / "trained", ignore_errors=True)
            log = work_dir / "trained" / "train.log" if verb == "train" else None
            run = _run(commands[verb], roots[name], threads, until=log)
            if turn >= 0:
                runs[verb][name].append(run)
    medians = {verb: {name: _median(measured) for name, measured in by_root.items()} for verb, by_root in runs.items()}
    header = ["start of", *(f"{what} {name}" for what in ("s", "CPU s", "MB") for name in _columns(roots))]
    rows = [[verb, *_cells(medians[verb])] for verb in verbs]
    notes = [
        f"Medians of {rounds} runs in turns, {threads} thread(s); a run is a process of its own from start to end. "
        "Transcribe and decode recognize one utterance, train is ended when its first epoch begins, import is that of "
        "lrsms.espnet, torch that of torch alone, help decode's --help.",
    ]
    from lrsms.bench.results import write_results

    every = {
        verb: {name: [asdict(run) for run in measured] for name, measured in by.items()} for verb, by in runs.items()
    }
    return write_results(output_dir, "start", "Start-up", header, rows, notes, {"runs": every, "rounds": rounds})


def _columns(roots: Mapping[str, Path]) -> list[str]:
    return [*roots, "ratio"] if len(roots) > 1 else list(roots)


def _median(runs: Sequence[Run]) -> Run:
    return Run(*(statistics.median(getattr(run, key) for run in runs) for key in ("seconds", "cpu", "memory")))


def _cells(medians: Mapping[str, Run]) -> list[str]:
    cells = []
    for key, digits in (("seconds", 2), ("cpu", 2), ("memory", 0)):
        values = [getattr(median, key) for median in medians.values()]
        cells += [f"{value:.{digits}f}" for value in values]
        cells += [f"{values[0] / values[1]:.2f}x"] if len(values) > 1 else []
    return cells


def _prepare(folder: Path, experiment: Path, cuts: Path, checkpoint: str) -> None:
    """One utterance as sound and as splits, its characters as tokens, and a copy of the model."""
    import soundfile
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    from lrsms.data.cut_files import read_cuts

    for path in (experiment / CONFIG, experiment / checkpoint, cuts):
        if not path.exists():
            raise LrsmsError(f"{path}: not found; bench start needs a trained experiment and its data")
    cut = next(iter(read_cuts(cuts)))
    sound = folder / "utterance.flac"
    soundfile.write(sound, cut.load_audio()[0], cut.sampling_rate)
    recording = Recording.from_file(sound, recording_id="utterance")
    text, length = cut.supervisions[0].text, recording.duration
    said = SupervisionSegment("utterance", "utterance", 0.0, length, text=text)
    alone = CutSet.from_cuts([MonoCut("utterance", 0.0, length, 0, supervisions=[said], recording=recording)])
    for split in ("train", "dev", "test"):
        (folder / "data" / split).mkdir(parents=True)
        alone.to_file(folder / "data" / split / "cuts.jsonl.gz")
    tokens = ["<blank>", "<unk>", "<space>", *sorted(set(text) - {" "}), "<sos/eos>"]
    (folder / "data/lang_char").mkdir()
    (folder / "data/lang_char/tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "exp").mkdir()
    shutil.copy(experiment / CONFIG, folder / "exp")
    shutil.copy((experiment / checkpoint).resolve(), folder / "exp" / checkpoint)


def _command(verb: str, folder: Path, config: Path, decode_config: Path, checkpoint: str) -> list[str]:
    if verb in ("import", "torch"):
        return ["-c", "import lrsms.espnet" if verb == "import" else "import torch"]
    if verb == "help":
        return ["-m", "lrsms.bin.decode", "--help"]
    options = {
        "transcribe": [str(folder / "exp"), str(folder / "utterance.flac"), "--checkpoint", checkpoint],
        "decode": ["--asr_exp", str(folder / "exp"), "--checkpoint", checkpoint, "--splits", "test", "--force", "true"]
        + ["--data_dir", str(folder / "data"), "--config", str(decode_config)],
        "train": ["--config", str(config), "--output_dir", str(folder / "trained"), "--token_type", "char"]
        + ["--data_dir", str(folder / "data"), "--", "--max_epoch", "1"],
    }
    return ["-m", f"lrsms.bin.{verb}", *options[verb]]


def _run(command: Sequence[str], root: Path, threads: int, until: Path | None = None) -> Run:
    """Run a command to its end, or until ESPnet writes into the log ``until`` that its first epoch begins."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    with open(os.devnull, "rb") as nothing, open(os.devnull, "wb") as null:
        # In the checkout: -m looks for modules in the working directory first.
        process = subprocess.Popen(
            [sys.executable, *command], cwd=root, env=environment, stdin=nothing, stdout=null, stderr=null
        )
        reached = until is not None and _wait_for(process.pid, until)
        seconds = time.perf_counter() - began
        if reached:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = seconds if reached else time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not reached:
        raise LrsmsError(f"{root}: exit status {process.returncode} of python {' '.join(command)}; run it to see why")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _wait_for(process: int, log: Path) -> bool:
    """Whether the first epoch begins before the process ends; it is left for its parent to reap."""
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if log.exists() and _FIRST_EPOCH in log.read_text(errors="replace"):
            return True
        time.sleep(0.01)
    return False
