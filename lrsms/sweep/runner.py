"""Run the points of a sweep, several at a time, on this machine and on others that share the storage.

Optuna's storage holds which point is taken by whom; the experiments' folders say what is finished. A killed run,
here or elsewhere, costs nothing but the epochs since the last checkpoint: the same command goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from lrsms.errors import LrsmsError
from lrsms.scoring.decoding import decoding_folder
from lrsms.sweep.points import Arm, Sweep

_POLL_SECONDS = 0.5
_HEARTBEAT_SECONDS = 60
_DEAD_SECONDS = 15 * 60  # another machine that has not been heard of for so long has lost its point


@dataclass(frozen=True)
class Point:
    """One training and its decodings."""

    arm: Arm
    seed: int
    experiment: Path

    @property
    def key(self) -> str:
        return self.experiment.name


@dataclass(frozen=True)
class Runner:
    """How and where to run a sweep.

    Attributes:
        sweep: what to run.
        root: folder of all sweeps of a recipe.
        data_dir: the recipe's data.
        train_split, valid_split, test_splits: names under ``data_dir``.
        decode_config: decoding YAML.
        checkpoint: file of each experiment that is decoded.
        nj: points at a time on this machine; its cores are shared among them.
        ngpu: GPUs of this machine; point i of those running uses GPU i modulo this.
        storage: URL of Optuna's storage; None for a journal file in the sweep's folder.
    """

    sweep: Sweep
    root: Path
    data_dir: Path
    train_split: str = "train"
    valid_split: str = "dev"
    test_splits: tuple[str, ...] = ("test",)
    decode_config: Path = Path("conf/decode.yaml")
    checkpoint: str = "valid.acc.ave.pth"
    nj: int = 1
    ngpu: int = 0
    storage: str | None = None

    @property
    def folder(self) -> Path:
        """Where this sweep's experiments are."""
        return self.root / self.sweep.folder

    def points(self) -> list[Point]:
        """Seed by seed, so that an unfinished sweep has whole columns of a table."""
        return [
            Point(arm, seed, self.folder / f"{arm.name}_seed{seed}")
            for seed in self.sweep.seeds
            for arm in self.sweep.arms
        ]

    def decode_folder(self, point: Point, split: str) -> Path:
        """Where stage 4 leaves the hypotheses of ``split``."""
        return decoding_folder(point.experiment, self.decode_config, self.checkpoint, split)

    def finished(self, point: Point) -> bool:
        """True when the point is trained and every test split decoded."""
        decoded = (self.decode_folder(point, split) / "decode.json" for split in self.test_splits)
        return (point.experiment / "summary.json").exists() and all(path.exists() for path in decoded)

    def run(self) -> list[Point]:
        """Run every point that is not finished and not running elsewhere.

        Returns:
            Points that failed; each has a ``sweep.log`` that says why.

        Raises:
            LrsmsError: a config is wrong, or an arm's config is not the one its folder was trained with.
        """
        self._write_configs()
        open_points = {point.key: point for point in self.points() if not self.finished(point)}
        if not open_points:
            return []
        study = self._study()
        _requeue_lost(study)
        taken = {trial.user_attrs.get("point") for trial in study.get_trials(deepcopy=False, states=_OPEN_STATES)}
        for key in open_points:
            if key not in taken:
                study.enqueue_trial({}, user_attrs={"point": key})
        return self._work(study, open_points)

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if self.storage is None:
            from optuna.storages.journal import JournalFileBackend

            storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.folder / "optuna.journal")))
        else:
            storage = self.storage
        return optuna.create_study(storage=storage, study_name=self.sweep.folder, load_if_exists=True)

    def _write_configs(self) -> None:
        """One training YAML per arm; all are checked before the first is trained."""
        from lrsms.espnet.config_check import check_training_config
        from lrsms.espnet.task import ASRTask

        (self.folder / "configs").mkdir(parents=True, exist_ok=True)
        for arm in self.sweep.arms:
            path = self._config(arm)
            if path.exists() and yaml.safe_load(path.read_text()) != arm.config:
                trained = [
                    p.experiment for p in self.points() if p.arm is arm and (p.experiment / "config.yaml").exists()
                ]
                if trained:
                    raise LrsmsError(
                        f"{self.sweep.path}: arm {arm.name!r} is not as {trained[0]} was trained "
                        f"({path} has its config); give the arm another name, or remove its folders"
                    )
            path.write_text(yaml.safe_dump(dict(arm.config), sort_keys=False))
            check_training_config(path, ASRTask)

    def _config(self, arm: Arm) -> Path:
        return self.folder / "configs" / f"{arm.name}.yaml"

    def _work(self, study: optuna.Study, open_points: dict[str, Point]) -> list[Point]:
        threads = max(1, (os.cpu_count() or 1) // self.nj)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the fork server imports torch
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lrsms.espnet.training", "lrsms.espnet.decoding"])
        running: dict[int, tuple[BaseProcess, FrozenTrial, Point]] = {}
        failed: list[Point] = []
        with _Progress(open_points.values()) as progress:
            while True:
                for slot in set(range(self.nj)) - running.keys():
                    claimed = next(self._claims(study, open_points), None)
                    if claimed is None:
                        break
                    trial, point = claimed
                    process = context.Process(target=_run_point, args=(self, point, slot, threads), daemon=False)
                    process.start()
                    running[slot] = process, trial, point
                if not running:
                    break
                progress.update([point for _, _, point in running.values()])
                time.sleep(_POLL_SECONDS)
                _heartbeat(study, [trial for _, trial, _ in running.values()])
                for slot, (process, trial, point) in list(running.items()):
                    if not process.is_alive():
                        del running[slot]
                        done = process.exitcode == 0 and self.finished(point)
                        study.tell(trial.number, self._value(point) if done else None, _STATES[done])
                        if not done:
                            failed.append(point)
        return failed

    def _claims(self, study: optuna.Study, open_points: dict[str, Point]) -> Iterator[tuple[FrozenTrial, Point]]:
        """Points that this process has just taken; Optuna hands each waiting trial to one process only."""
        while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = study.ask()
            key = trial.user_attrs.get("point")
            if key is None:  # another process took the last one: Optuna made a trial of its own
                study.tell(trial.number, state=TrialState.FAIL)
                return
            trial.set_user_attr("owner", _owner())
            trial.set_user_attr("alive", time.time())
            if key in open_points:
                yield trial, open_points[key]
            else:  # of an arm that the file no longer has, or finished meanwhile
                study.tell(trial.number, state=TrialState.FAIL)

    def _value(self, point: Point) -> float:
        report = json.loads((self.decode_folder(point, self.test_splits[0]) / "decode.json").read_text())
        return report["rtf"]  # Optuna only keeps score of what is done; error rates come from the report


_OPEN_STATES = (TrialState.WAITING, TrialState.RUNNING)
_STATES = {True: TrialState.COMPLETE, False: TrialState.FAIL}


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_lost(trial: FrozenTrial) -> bool:
    host, _, pid = trial.user_attrs.get("owner", "").rpartition(":")
    if host == socket.gethostname() and pid.isdigit():
        return not Path(f"/proc/{pid}").exists() if Path("/proc").is_dir() else not _signals(int(pid))
    return time.time() - trial.user_attrs.get("alive", 0) > _DEAD_SECONDS


def _signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _requeue_lost(study: optuna.Study) -> None:
    """Give back the points of processes that were killed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_lost(trial):
            study.tell(trial.number, state=TrialState.FAIL)


_last_heartbeat = 0.0


def _heartbeat(study: optuna.Study, trials: list) -> None:
    global _last_heartbeat
    if time.time() - _last_heartbeat > _HEARTBEAT_SECONDS:
        _last_heartbeat = time.time()
        for trial in trials:
            trial.set_user_attr("alive", _last_heartbeat)


def _run_point(runner: Runner, point: Point, slot: int, threads: int) -> None:
    """Train and decode one point, in a process of its own; what it prints goes to ``sweep.log``."""
    point.experiment.mkdir(parents=True, exist_ok=True)
    log = (point.experiment / "sweep.log").open("a", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    if runner.ngpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % runner.ngpu)
    import torch

    from lrsms.data.tokens import lang_dir
    from lrsms.espnet.decoding import Decoding
    from lrsms.espnet.training import Training

    torch.set_num_threads(threads)
    sweep, data = runner.sweep, runner.data_dir
    try:
        Training(
            config=runner._config(point.arm),
            output_dir=point.experiment,
            train_cuts=data / runner.train_split / "cuts.jsonl.gz",
            valid_cuts=data / runner.valid_split / "cuts.jsonl.gz",
            lang_dir=lang_dir(data, sweep.token_type, sweep.vocab_size),
            token_type="bpe" if sweep.token_type == "unigram" else sweep.token_type,
            seed=point.seed,
            ngpu=min(1, runner.ngpu),
        ).run()
        for split in runner.test_splits:
            cuts = data / split / "cuts.jsonl.gz"
            Decoding(point.experiment, cuts, runner.decode_config, runner.checkpoint, 1, min(1, runner.ngpu)).run()
    except LrsmsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


class _Progress:
    """A bar over the epochs of all open points."""

    def __init__(self, points):
        self.points = list(points)
        self.total = sum(point.arm.config.get("max_epoch") or 40 for point in self.points)  # 40: ESPnet's default

    def __enter__(self) -> _Progress:
        self.bar = tqdm(total=self.total, unit="epoch", dynamic_ncols=True)
        self.bar.update(sum(map(_epochs_done, self.points)))
        self.bar.unpause()
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def update(self, running: list[Point]) -> None:
        if time.time() - getattr(self, "last", 0) < 3:
            return
        self.last = time.time()
        self.bar.set_description(", ".join(point.key for point in running))
        self.bar.update(max(0, sum(map(_epochs_done, self.points)) - self.bar.n))


def _epochs_done(point: Point) -> int:
    images = point.experiment / "train.log"
    return images.read_text(errors="replace").count("epoch results: ") if images.exists() else 0
