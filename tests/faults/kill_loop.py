"""Kill the recipe again and again, run it to its end, and hold what it leaves against a run that nothing has disturbed.

    python tests/faults/kill_loop.py --kills 110 --output_dir benchmarks

A tiny model goes through stages 0 to 8, and once more through stage 3 with two processes. Each stage is started, killed
at a random moment in one of five ways, started again and killed again, and at last run to its end. Then

* **lost** counts files that are missing, **wrong** those whose content is another; compared is all that two undisturbed
  runs agree on, weights tensor by tensor;
* **waiting** counts commands that took more than ten times as long as undisturbed, and a minute;
* **left** counts kills after which a process of the recipe lived on for more than half a minute;
* **litter** counts locks and unfinished files that are still there at the end, **traces** stack traces after signals
  that a command can see.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RUN = [str(ROOT / "run.sh"), *"--num-train 24 --num-dev 4 --num-test 4 --speed-perturb 1.0 --nj 2".split(),
       *"--export-formats onnx".split()]  # fmt: skip
_ENDINGS = ("lost", "wrong", "waiting", "left", "litter", "traces")
_LIFE_AFTER_DEATH = 30  # seconds; a process that is importing ESPnet ends when it has
_SEEN = (signal.SIGINT, signal.SIGTERM)

TRAINING = {
    "frontend": "kaldi_fbank",
    "frontend_conf": {"fs": 16000, "num_filters": 20},
    "normalize": "utterance_mvn",
    "encoder": "lowrank_conformer",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "input_layer": "conv2d"},
        **{"macaron_style": True, "rel_pos_type": "latest", "cnn_module_kernel": 7},
        "low_rank": {"attention": 0.25, "feed_forward": 0.5, "multiple": 2},
    },
    "decoder": "lowrank_transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "low_rank": {"feed_forward": 0.5}},
    "model_conf": {"ctc_weight": 0.5},
    **{"max_duration": 20.0, "num_buckets": 2, "num_workers": 0, "grad_clip": 5, "max_epoch": 4, "num_att_plot": 0},
    **{"optim": "adam", "optim_conf": {"lr": 0.01}, "scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": 10}},
    **{"best_model_criterion": [["valid", "acc", "max"]], "keep_nbest_models": 2, "use_matplotlib": False},
}
COMPRESSION = {
    **{"compression": 1.2, "target": 1.4, "max_iterations": 1, "tolerance": 100.0, "retries": 0, "trials": 6},
    **{"calibration": {"split": "train", "utterances": 4}, "controller": "tpe", "survivors": 2},
    "search_set": {"split": "dev", "utterances": 2, "candidates": 2},
    "finetune": {"epochs": 1, "optim_conf": {"lr": 0.001}, "scheduler": None},
}
DECODING = {"beam_size": 2, "ctc_weight": 0.5, "maxlenratio": -8}


@dataclass(frozen=True)
class Stage:
    """A stage of run.sh: the name of its row, and its options."""

    name: str
    options: tuple[str, ...]


def stages() -> list[Stage]:
    """Stages 0 to 8, then a training of two processes."""
    single = [Stage(str(number), ("--stage", str(number), "--stop-stage", str(number))) for number in range(9)]
    two = ("--stage", "3", "--stop-stage", "3", "--tag", "two", "--num-processes", "2")
    return [*single, Stage("3, two processes", two)]


@dataclass
class Undisturbed:
    """What two runs that nothing has disturbed have shown.

    Attributes:
        before: stage -> a copy of the recipe's folder before it.
        seconds: stage -> how long it takes, at the least.
        first_write: stage -> when it first writes a file.
        files: stage -> path -> hash of what both runs leave alike; None if they do not.
    """

    before: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    first_write: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[str, str | None]] = field(default_factory=dict)


class Recipe:
    """A folder with a tiny configuration, for which run.sh is started."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self) -> None:
        """Write the configuration."""
        (self.folder / "conf").mkdir(parents=True)
        for name, content in (("train_tiny", TRAINING), ("compress", COMPRESSION), ("decode", DECODING)):
            (self.folder / f"conf/{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def restore(self, before: Path) -> None:
        """Take the state of a copy."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(before, self.folder, symlinks=True)

    def start(self, stage: Stage) -> subprocess.Popen:
        """The stage, in a session of its own, with all it says in ``said``."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LRSMS_PYTHON": sys.executable}
        environment.pop("LRSMS_COMMAND", None)
        command = [*RUN, "--recipe-dir", str(self.folder), "--train-config", "conf/train_tiny.yaml", *stage.options]
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )

    @property
    def said(self) -> str:
        """All that the last command has said."""
        return (self.folder / "said").read_text(errors="replace")

    def hashes(self) -> dict[str, str]:
        """Path -> hash of the content of every file that stages have left."""
        paths = sorted(path for name in ("data", "exp") for path in (self.folder / name).rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): _hash(path) for path in paths}

    def litter(self) -> list[str]:
        """Locks and unfinished files."""
        paths = self.folder.rglob("*")
        return [str(path) for path in paths if path.name.startswith(".unfinished-") or path.suffix == ".lock"]


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".pth":
        content = repr(list(_tensors(path))).encode()
    return hashlib.sha256(content).hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of the weights in a checkpoint; one that ESPnet resumes from also holds times."""
    import torch

    from lrsms.espnet.checkpoints.checkpoint import read_checkpoint

    content = read_checkpoint(path)
    for name, value in content.get("model", content).items():
        if isinstance(value, torch.Tensor):
            yield name, hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()


def undisturbed(folder: Path) -> Undisturbed:
    """Run all stages twice.

    Raises:
        RuntimeError: a stage fails.
    """
    seen = Undisturbed()
    recipe = Recipe(folder / "recipe")
    first: dict[str, dict[str, str]] = {}
    for turn in range(2):
        shutil.rmtree(recipe.folder, ignore_errors=True)
        recipe.make()
        for stage in stages():
            if turn == 0:
                seen.before[stage.name] = folder / f"before_{len(seen.before)}"
                shutil.copytree(recipe.folder, seen.before[stage.name], symlinks=True)
            known, began = set(recipe.folder.rglob("*")), time.monotonic()
            process = recipe.start(stage)
            wrote = None
            while process.poll() is None:
                if wrote is None and set(recipe.folder.rglob("*")) - known:
                    wrote = time.monotonic() - began
                time.sleep(0.05)
            if process.returncode:
                raise RuntimeError(f"stage {stage.name} fails undisturbed:\n{recipe.said}")
            seconds = time.monotonic() - began
            seen.seconds[stage.name] = min(seconds, seen.seconds.get(stage.name, seconds))
            seen.first_write[stage.name] = min(wrote or 0.0, seconds, seen.first_write.get(stage.name, seconds))
            now = recipe.hashes()
            if turn == 0:
                first[stage.name] = now
            else:
                before = first[stage.name]
                in_both = before.keys() & now.keys()  # others have the time in their name
                seen.files[stage.name] = {
                    path: before[path] if before[path] == now[path] else None for path in sorted(in_both)
                }
            print(f"undisturbed {turn + 1}: stage {stage.name}: {seconds:.1f} s", flush=True)
    return seen


def kill_stage(recipe: Recipe, stage: Stage, seen: Undisturbed, kills: int, chance: random.Random) -> Counter:
    """Kill a stage so many times in one folder, run it to its end, and count what is not as it should be."""
    found: Counter = Counter()
    recipe.restore(seen.before[stage.name])
    limit = 60 + 10 * seen.seconds[stage.name]
    for _ in range(kills):
        process = recipe.start(stage)
        begin = seen.first_write[stage.name] if chance.random() < 0.8 else 0.0
        time.sleep(begin + chance.random() * (seen.seconds[stage.name] - begin))
        if process.poll() is not None:
            recipe.restore(seen.before[stage.name])
            continue
        found["kills"] += 1
        signaled = _kill(process, chance)
        found["left"] += not _gone(process)
        if signaled in _SEEN and "Traceback" in recipe.said:
            found["traces"] += 1
            print(recipe.said[-3000:], flush=True)
    process = recipe.start(stage)
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        found["waiting"] += 1
        _end_session(process)
        return found
    if process.returncode:
        print(recipe.said)
    now = recipe.hashes()
    expected = seen.files[stage.name]
    lost = [path for path in expected if path not in now]
    wrong = [path for path, value in expected.items() if value is not None and now.get(path, value) != value]
    litter = recipe.litter()
    found["lost"] += len(lost) + bool(process.returncode)
    found["wrong"] += len(wrong)
    found["litter"] += len(litter)
    found["runs to the end"] += 1
    for what, paths in (("lost", lost), ("wrong", wrong), ("litter", litter)):
        if paths:
            print(f"stage {stage.name}: {what}: {', '.join(paths[:5])}", flush=True)
    return found


def _kill(process: subprocess.Popen, chance: random.Random) -> int:
    """End a recipe in one of five ways; returns the signal."""
    python = next((number for number in session(process.pid) if number != process.pid), process.pid)
    ways = [
        (os.killpg, process.pid, signal.SIGKILL),  # as if the machine lost its power
        (os.kill, process.pid, signal.SIGKILL),
        (os.kill, python, signal.SIGKILL),
        (os.kill, process.pid, signal.SIGTERM),
        (os.killpg, process.pid, signal.SIGINT),  # Ctrl-C
    ]
    kill, number, signaled = chance.choice(ways)
    try:
        kill(number, signaled)
    except ProcessLookupError:
        return 0
    return signaled


def session(number: int) -> list[int]:
    """Processes of a session that have not ended, the oldest first."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == number and state != "Z":
            members.append((int(fields[18]), int(path.name)))
    return [process for _, process in sorted(members)]


def _gone(process: subprocess.Popen) -> bool:
    """Whether all processes of the recipe have ended by themselves; they have afterwards."""
    deadline = time.monotonic() + _LIFE_AFTER_DEATH
    while session(process.pid) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.05)
    left = session(process.pid)
    _end_session(process)
    return not left


def _end_session(process: subprocess.Popen) -> None:
    for number in session(process.pid):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def kill_loop(kills: int, seed: int = 0, in_a_row: int = 5, only: Sequence[str] = ()) -> dict[str, Counter]:
    """Kill every stage, ``in_a_row`` times before each run to the end; what was found, by stage.

    Each has about as much time, so that those that take long are killed less often.
    """
    chance = random.Random(seed)
    chosen = [stage for stage in stages() if not only or stage.name in only]
    found: dict[str, Counter] = {stage.name: Counter(dict.fromkeys(("kills", *_ENDINGS), 0)) for stage in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        seen = undisturbed(Path(scratch))
        recipe = Recipe(Path(scratch) / "recipe")
        while sum(counts["kills"] for counts in found.values()) < kills:
            stage = min(chosen, key=lambda one: (found[one.name]["kills"] + 1) * seen.seconds[one.name])
            found[stage.name].update(kill_stage(recipe, stage, seen, in_a_row, chance))
            print(f"stage {stage.name}: {json.dumps(found[stage.name])}", flush=True)
    return found


def write_table(found: dict[str, Counter], folder: Path) -> str:
    """Write ``kills.md`` and ``kills.json``; returns the table."""
    from lrsms.bench.results import write_results

    header = ("stage", "kills", "runs to the end", *_ENDINGS)
    total: Counter = sum(found.values(), Counter())
    rows = [(name, *(str(counts[key]) for key in header[1:])) for name, counts in found.items()]
    rows.append(("all", *(str(total[key]) for key in header[1:])))
    notes = ["".join(str(__doc__).partition("A tiny model")[1:]).strip()]
    return write_results(
        folder,
        "kills",
        "Kills",
        header,
        rows,
        notes,
        {"stages": {name: dict(counts) for name, counts in found.items()}},
    )


def main() -> None:
    """Parse options, kill, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), help="names of stages")
    parser.add_argument("--output_dir", type=Path, help="also write kills.md and kills.json there")
    args = parser.parse_args()
    found = kill_loop(args.kills, args.seed, only=args.only)
    if args.output_dir:
        print(write_table(found, args.output_dir))


if __name__ == "__main__":
    main()
