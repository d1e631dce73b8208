"""Run the points of a sweep, several at a time, here and on other machines that share its folder and its storage.

The experiments' folders say what is finished, :class:`Claims` who runs the rest. A killed run, here or elsewhere, costs
nothing but the epochs since the last checkpoints: the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import yaml
from optuna.exceptions import OptunaError
from tqdm import tqdm

from lrsms.data.tokens import lang_dir
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.files import write_text
from lrsms.scoring.decoding import decoding_folder, score_decoding
from lrsms.sweep.leases import Claims
from lrsms.sweep.points import Arm, Point, Sweep
from lrsms.sweep.processes import prepare, run_here, start, stop, threads_for_each
from lrsms.training_yaml import read_yaml

_POLL_SECONDS = 3


class _Claimed(NamedTuple):
    claim: int
    point: Point


class _Running(NamedTuple):
    process: BaseProcess
    claim: int
    point: Point


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
        only: pattern of the keys of the points to run, with the wildcards of :mod:`fnmatch`; candidates of ``tune``
            and the lengths that ``until`` tries are run whatever it says.
    """

    sweep: Sweep
    root: Path
    data_dir: Path
    train_split: str = "train"
    valid_split: str = "dev"
    test_splits: tuple[str, ...] = ("test",)
    decode_config: Path = Path("conf/decode.yaml")
    checkpoint: str = DEFAULT_CHECKPOINT
    nj: int = 1
    ngpu: int = 0
    storage: str | None = None
    only: str = "*"

    @property
    def folder(self) -> Path:
        """The folder of this sweep's experiments."""
        return self.root / self.sweep.folder

    def config(self, arm: Arm) -> Path:
        """The training YAML of an arm."""
        return self.folder / "configs" / f"{arm.name}.yaml"

    def cuts(self, split: str) -> Path:
        """The manifest of a split."""
        return self.data_dir / split / "cuts.jsonl.gz"

    def points(self) -> list[Point]:
        """All points, seed by seed, so that an unfinished sweep has whole columns of a table."""
        return [
            Point(arm, seed, self.folder / f"{arm.name}_seed{seed}")
            for seed in self.sweep.seeds
            for arm in self.sweep.arms
        ]

    def decode_folder(self, point: Point, split: str) -> Path:
        """Where stage 4 leaves the hypotheses of ``split``."""
        return decoding_folder(point.experiment, self.decode_config, self.checkpoint, split)

    def finished(self, point: Point) -> bool:
        """True when the point is trained and every test split decoded as ``decode_config`` now says."""
        folders = (self.decode_folder(point, split) for split in self.test_splits)
        return (point.experiment / "summary.json").exists() and all(map(self._is_decoded, folders))

    def _is_decoded(self, folder: Path) -> bool:
        config = hashlib.sha256(self.decode_config.read_bytes()).hexdigest()
        inputs = _inputs(folder)
        return (folder / "decode.json").exists() and inputs is not None and config in inputs.values()

    def check(self) -> None:
        """Compare what is trained already with what the sweep says now.

        Raises:
            LrsmsError: an arm's folder was trained with another config, on other splits or with other tokens; or the
                decoding YAML is missing.
        """
        if not self.decode_config.exists():
            raise LrsmsError(f"{self.decode_config}: no such decoding YAML")
        expected = {self.train_split, self.valid_split, self._lang_dir.name}
        for arm in self.sweep.arms:
            changed = self.config(arm).exists() and read_yaml(self.config(arm)) != arm.config
            for experiment in self._trained(arm):
                if changed:
                    raise LrsmsError(
                        f"{self.sweep.path}: arm {arm.name!r} is not as {experiment} was trained ({self.config(arm)} "
                        "has its config); give the arm another name, or remove its folders"
                    )
                splits = {Path(name).parent.name for name in _inputs(experiment) or {}} or expected
                if splits != expected:
                    raise LrsmsError(
                        f"{self.sweep.path}: folder: {self.sweep.folder}: {experiment} was trained with "
                        f"{', '.join(sorted(splits))}, this sweep is with {', '.join(sorted(expected))}; "
                        "name another folder"
                    )

    def tuning(self) -> Runner:
        """What tunes the arms: it trains the candidates at the first seed, and decodes dev."""
        return replace(self, sweep=self.sweep.tuning(), test_splits=(self.valid_split,), only="*")

    def tuned(self) -> Runner:
        """This runner with the best candidate of each arm: the fewest word errors on dev, the first of equals.

        Raises:
            LrsmsError: a candidate is not finished.
        """
        tuning = self.tuning()
        best: dict[str | None, tuple[float, Arm]] = {}
        for point in tuning.points():
            if not tuning.finished(point):
                raise LrsmsError(f"{self.sweep.path}: tune: {point.key} is not finished; run the same command again")
            rate = tuning.error_rate(point)
            if point.arm.of not in best or rate < best[point.arm.of][0]:
                best[point.arm.of] = (rate, point.arm)
        return replace(self, sweep=self.sweep.tuned([arm for _, arm in best.values()]))

    def error_rate(self, point: Point) -> float:
        """WER of the first test split in percent.

        Raises:
            LrsmsError: it cannot be scored.
        """
        split = self.test_splits[0]
        return score_decoding(self.decode_folder(point, split), self.cuts(split)).wer.rate

    def _trained(self, arm: Arm) -> list[Path]:
        """Folders of an arm's trainings, finished or begun, with this sweep's seeds or another's."""
        name = re.compile(re.escape(arm.name) + r"_seed\d+")
        folders = sorted(path for path in self.folder.glob("*_seed*") if name.fullmatch(path.name))
        return [path for path in folders if any(path.glob("*.pth")) or (path / "summary.json").exists()]

    @property
    def _lang_dir(self) -> Path:
        return lang_dir(self.data_dir, self.sweep.token_type, self.sweep.vocab_size)

    def run(self) -> list[Point]:
        """Run every point that :attr:`only` matches, that is not finished and that no other process has.

        Returns:
            Points that failed; each has a ``sweep.log`` that says why.

        Raises:
            LrsmsError: a missing input, a wrong config, an arm that is not as it was trained, a bad storage, or
                :attr:`only` matches nothing.
        """
        self.check()
        chosen = [point for point in self.points() if fnmatchcase(point.key, self.only)]
        if not chosen:
            keys = ", ".join(point.key for point in self.points())
            raise LrsmsError(f"--only {self.only}: no experiment of {self.sweep.path} matches; they are {keys}")
        if all(map(self.finished, chosen)):
            return []
        self._check_inputs()
        from lrsms.sweep.experiment import check_config, train_and_decode

        self._write_configs(check_config)
        storage = self.storage or self.folder / "optuna.journal"
        study = "/".join(self.folder.resolve().parts[-4:]) if self.storage else self.sweep.folder
        try:
            claims = Claims(storage, study)  # before asking what is finished: see Claims
            return self._work(claims, [p for p in chosen if not self.finished(p)], train_and_decode)
        except OptunaError as error:
            raise LrsmsError(f"{storage}: {' '.join(str(error).split())}; run the same command again") from error

    def _check_inputs(self) -> None:
        splits = (self.train_split, self.valid_split, *self.test_splits)
        needed = {**{self.cuts(split): 1 for split in splits}, self._lang_dir / "tokens.txt": 2}
        for path, stage in needed.items():
            if not path.exists():
                raise LrsmsError(f"{path}: not found; run stage {stage} first")
        if self.ngpu:
            import torch

            if self.ngpu > torch.cuda.device_count():
                raise LrsmsError(f"--ngpu {self.ngpu}: torch sees {torch.cuda.device_count()} GPUs here")

    def _write_configs(self, check_config: Callable[[Path], None]) -> None:
        """One training YAML per arm; all are checked before the first is trained."""
        (self.folder / "configs").mkdir(parents=True, exist_ok=True)
        for arm in self.sweep.arms:
            path = self.config(arm)
            if not path.exists() or read_yaml(path) != arm.config:
                write_text(path, yaml.safe_dump(dict(arm.config), sort_keys=False))  # others may be reading it
            try:
                check_config(path)
            except LrsmsError as error:
                raise LrsmsError(f"{self.sweep.path}: arm {arm.name!r}: {error}") from error

    def _work(self, claims: Claims, waiting: list[Point], work: Callable) -> list[Point]:
        """Run what can be claimed of ``waiting``; returns the points that failed."""
        threads = threads_for_each(self.nj)
        context = prepare(work.__module__, threads, self.ngpu)
        running: dict[int, _Running] = {}  # by slot
        failed: list[Point] = []
        try:
            with _Progress(self, waiting) as progress:
                while True:
                    while len(running) < self.nj and (claimed := _claim_first(claims, waiting)):
                        slot = min(set(range(self.nj)) - running.keys())
                        arguments = (work, claimed.point.log, self, claimed.point, threads)
                        process = context.Process(target=run_here, args=arguments)
                        running[slot] = _Running(process, *claimed)
                        start(process, slot % self.ngpu if self.ngpu else None)
                    if not running:
                        return failed
                    connection.wait(
                        [running_point.process.sentinel for running_point in running.values()], _POLL_SECONDS
                    )
                    progress.update([running_point.point for running_point in running.values()])
                    claims.heartbeat()
                    failed += self._collect(claims, running)
        finally:
            stop([running_point.process for running_point in running.values()])
            for running_point in running.values():
                claims.give_back(running_point.claim)

    def _collect(self, claims: Claims, running: dict[int, _Running]) -> list[Point]:
        """Take the processes that have ended out of ``running``; returns the points that failed."""
        failed = []
        mine = claims.still_mine(running_point.claim for running_point in running.values())
        for slot, running_point in list(running.items()):
            if running_point.claim not in mine:  # another machine took this one for dead, and has the point now
                stop([running_point.process])
                del running[slot]
            elif not running_point.process.is_alive():
                del running[slot]
                error_rate = self._error_rate(running_point)
                if error_rate is None:
                    failed.append(running_point.point)
                    claims.failed(running_point.claim)
                else:
                    claims.done(running_point.claim, error_rate)
        return failed

    def _error_rate(self, ended: _Running) -> float | None:
        """WER of the first test split in percent, which Optuna keeps; None if the point failed."""
        if ended.process.exitcode or not self.finished(ended.point):
            return None
        try:
            return self.error_rate(ended.point)
        except LrsmsError as error:
            with ended.point.log.open("a", encoding="utf-8") as log:
                print(f"error: {error}", file=log)
            return None


def _claim_first(claims: Claims, waiting: list[Point]) -> _Claimed | None:
    """Claim the first of ``waiting`` that is free, and take it out."""
    for point in waiting:
        claim = claims.take(point.key)
        if claim is not None:
            waiting.remove(point)
            return _Claimed(claim, point)
    return None


def _inputs(folder: Path) -> dict[str, str] | None:
    """Fingerprints of what ``folder`` was made from, by path; None if that is not recorded."""
    try:
        return json.loads((folder / "inputs.json").read_text())["inputs"]
    except (OSError, ValueError, KeyError):
        return None


class _Progress:
    """A bar over the epochs of the points that were open at the start, in whatever process they run."""

    def __init__(self, runner: Runner, points: list[Point]) -> None:
        self._runner, self._points = runner, list(points)

    def __enter__(self) -> _Progress:
        total = sum(map(_max_epoch, self._points))
        self._bar = tqdm(total=total, initial=self._done(), unit="epoch", dynamic_ncols=True)
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self, running: list[Point]) -> None:
        self._bar.set_description(", ".join(point.key for point in running), refresh=False)
        self._bar.update(max(0, self._done() - self._bar.n))

    def _done(self) -> int:
        return sum(_max_epoch(p) if self._runner.finished(p) else _epochs(p) for p in self._points)


def _max_epoch(point: Point) -> int:
    return point.arm.config.get("max_epoch") or 40  # ESPnet's default


def _epochs(point: Point) -> int:
    logs = [point.experiment / "warmup" / "train.log", point.experiment / "train.log"]
    done = sum(log.read_text(errors="replace").count("epoch results: ") for log in logs if log.exists())
    return min(_max_epoch(point), done)
