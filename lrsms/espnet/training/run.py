"""Stage 3: train through ESPnet's task, on one process, several GPUs, several machines or several CPU processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml

from lrsms import stamp
from lrsms.command_line import error_of_user
from lrsms.defaults import CONFIG, WHISPER_TYPES
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import CHECKPOINT, PREVIOUS, read_checkpoint
from lrsms.espnet.compat import seconds
from lrsms.espnet.config import check_training_config, read_training_yaml, read_yaml
from lrsms.espnet.training import preflight
from lrsms.espnet.training.overruled import notes
from lrsms.espnet.training.task import ASRTask
from lrsms.files import exclusive, write_json, write_text
from lrsms.processes import be_helper, interrupts_blocked
from lrsms.whisper.files import TOKENIZER


@dataclass(frozen=True)
class Training:
    """What to train, on what, where.

    Attributes:
        config: training YAML.
        output_dir: the experiment's folder.
        train_cuts, valid_cuts: manifests of stage 1.
        lang_dir: folder of stage 2, with ``tokens.txt`` and for sub-words ``bpe.model``, for Whisper its
            ``tokenizer.json``.
        token_type: ``char``, ``word``, ``bpe`` (unigram and bpe models both), ``whisper_en``, ``whisper_multilingual``.
        seed: of weights, order and dropout.
        ngpu: GPUs of this machine, 0 for CPU.
        num_nodes: machines that train together (torchrun's, slurm's or MASTER_ADDR/MASTER_PORT/RANK variables).
        num_processes: CPU processes of this machine that train together, when ``ngpu`` is 0.
        espnet_options: further options of ``espnet2.bin.asr_train``, as on its command line.
        warmup_epochs: train dense for so many of the config's epochs, in the folder ``warmup`` of the experiment, and
            go on from the truncated SVD of its weights (Pufferfish, Wang et al. 2021); None for what the config's
            ``warmup_epochs`` says, 0 for no warm-up.
    """

    config: Path
    output_dir: Path
    train_cuts: Path
    valid_cuts: Path
    lang_dir: Path
    token_type: str
    seed: int = 0
    ngpu: int = 0
    num_nodes: int = 1
    num_processes: int = 1
    espnet_options: list[str] = field(default_factory=list)
    warmup_epochs: int | None = None

    def run(self, force: bool = False) -> None:
        """Train, or go on from the last checkpoint, or say that nothing has changed since it finished.

        Raises:
            LrsmsError: a bad config, missing inputs, or a folder that holds a training of something else.
        """
        config = check_training_config(self.config, ASRTask)
        self._check_inputs()
        main = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0
        for note in notes(self.config, config, {"seed": self.seed, "ngpu": self.ngpu, "token_type": self.token_type}):
            if main:
                print(note)
        if not force and self._is_finished(main):
            return
        with self._alone() if main else nullcontext():
            self._begin(force, main)
            after = self._after_warmup(main)
            if main:
                after._prepare()
            after._launch()
            if main:
                summarize(self)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second training in one folder: each would overwrite the other's checkpoints.

        Raises:
            LrsmsError: another process trains there.
        """

        def busy() -> None:
            raise LrsmsError(f"{self.output_dir}: another process is training in this folder; wait for it or end it")

        folder = self.output_dir.absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / f".{self.output_dir.name}.lock", busy):
            yield

    def _after_warmup(self, main: bool) -> Training:
        """Train the dense warm-up, if one is asked for; returns what is left to train."""
        config = read_training_yaml(self.config)
        epochs = config.get("warmup_epochs", 0) if self.warmup_epochs is None else self.warmup_epochs
        if not epochs:
            return self
        total = config.get("max_epoch", 40)  # ESPnet's default
        if not 0 < epochs < total:
            raise LrsmsError(f"warmup_epochs: {epochs!r} is not a whole number between 0 and max_epoch, {total}")
        folder = self.output_dir / "warmup"
        path = folder / "train.yaml"
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, yaml.safe_dump(_dense(config) | {"max_epoch": epochs}, sort_keys=False))
        dense = replace(self, config=path, output_dir=folder, warmup_epochs=0)
        dense.run()
        rest = ["--max_epoch", str(total - epochs), "--init_param", str(folder / f"{epochs}epoch.pth")]
        rest += ["--warmup_epochs", str(epochs)]  # the data go on from that epoch
        return replace(self, espnet_options=[*self.espnet_options, *rest])

    def _check_inputs(self) -> None:
        for path, stage in ((self.train_cuts, 1), (self.valid_cuts, 1), (self.lang_dir / "tokens.txt", 2)):
            if not path.exists():
                raise LrsmsError(f"{path}: not found; run stage {stage} first")
        if self.ngpu > torch.cuda.device_count():
            raise LrsmsError(f"--ngpu {self.ngpu}: torch sees {torch.cuda.device_count()} GPUs here")
        if self.ngpu and self.num_processes > 1:
            raise LrsmsError("--num_processes is for CPU training; with GPUs there is one process for each of --ngpu")

    @property
    def _stamp(self) -> tuple[Path, dict, list[Path]]:
        """What the training is made from: a comment of the config does not count, nor does the number of epochs."""
        config = {key: value for key, value in read_training_yaml(self.config).items() if key != "max_epoch"}
        arguments = {"config": config, "seed": self.seed, "espnet_options": self.espnet_options}
        if self.warmup_epochs is not None:
            arguments["warmup_epochs"] = self.warmup_epochs
        inputs = [self.train_cuts, self.valid_cuts, self.lang_dir / "tokens.txt"]
        return self.output_dir / "inputs.json", arguments, inputs

    def _is_finished(self, main: bool) -> bool:
        """Whether nothing has changed since the training has finished; says so."""
        max_epoch = read_training_yaml(self.config).get("max_epoch")
        if not stamp.is_current(*self._stamp) or self._finished_epochs() != max_epoch:
            return False
        print(f"stage 3: {self.output_dir} is trained and its inputs have not changed; skipped")
        if main:
            with suppress(LrsmsError, OSError):  # a folder that may only be read
                stamp.write(*self._stamp)  # an earlier version's hashes were of compressed bytes
        return True

    def _begin(self, force: bool, main: bool) -> None:
        """Every process that trains decides alike; only the main one touches the folder."""
        begun = (self.output_dir / CHECKPOINT).exists() or (self.output_dir / PREVIOUS).exists()
        if force:
            if main:
                shutil.rmtree(self.output_dir, ignore_errors=True)
        elif begun and not stamp.is_current(*self._stamp):
            raise LrsmsError(
                f"{self.output_dir} holds a training of another config, seed or data; "
                f"choose another --tag, or --force true to start it again"
            )
        elif begun and main:
            print(f"stage 3: {self.output_dir} goes on from its last checkpoint")
        if main:
            stamp.write(*self._stamp)

    def _finished_epochs(self) -> int | None:
        """The ``max_epoch`` of a training that has finished, -1 if it has not."""
        summary = self.output_dir / "summary.json"
        return json.loads(summary.read_text()).get("max_epoch") if summary.exists() else -1

    def _prepare(self) -> None:
        """Check the data once, in this process: those that train begin together, and so wait for it."""
        args = ASRTask.get_parser().parse_args(self._espnet_command())
        preflight.prepare(args, ASRTask, self.config, self.num_nodes * self.ngpu or self.num_processes)

    def _launch(self) -> None:
        command = self._espnet_command()
        under_launcher = "LOCAL_RANK" in os.environ
        if under_launcher:  # torchrun started one process per GPU (or per CPU rank)
            backend = "nccl" if self.ngpu else "gloo"
            command += ["--multiprocessing_distributed", "false", "--dist_backend", backend]
            command += ["--ngpu", str(min(self.ngpu, 1))]
            ASRTask.main(cmd=command)
        elif self.num_processes > 1:
            arguments = (self.num_processes, _free_port(), command + ["--ngpu", "0"])
            try:
                with interrupts_blocked():
                    training = torch.multiprocessing.spawn(
                        _cpu_process, args=arguments, nprocs=self.num_processes, join=False
                    )
                while not training.join():
                    pass
            except torch.multiprocessing.ProcessExitedException as error:
                how = f"was ended by {error.signal_name}" if error.signal_name else "stopped, see above"
                raise LrsmsError(
                    f"{self.output_dir}: a process of the training {how}; run the same command again to go on"
                ) from error
        else:
            command += ["--ngpu", str(self.ngpu), "--multiprocessing_distributed", "true"]
            command += ["--dist_backend", "nccl" if self.ngpu else "gloo"]
            if self.num_nodes > 1:
                command += self._several_machines()
            ASRTask.main(cmd=command)

    def _espnet_command(self) -> list[str]:
        command = ["--config", str(self.config), "--output_dir", str(self.output_dir)]
        command += ["--train_cuts", str(self.train_cuts), "--valid_cuts", str(self.valid_cuts)]
        command += ["--token_list", str(self.lang_dir / "tokens.txt"), "--token_type", self.token_type]
        if self.token_type == "bpe":
            command += ["--bpemodel", str(self.lang_dir / "bpe.model")]
        elif self.token_type in WHISPER_TYPES:
            command += ["--bpemodel", str(self.lang_dir / TOKENIZER)]
        command += ["--use_preprocessor", "true", "--resume", "true", "--seed", str(self.seed)]
        return command + self.espnet_options

    def _several_machines(self) -> list[str]:
        if "SLURM_PROCID" in os.environ:
            return ["--dist_launcher", "slurm"]
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK") if name not in os.environ]
        if missing:
            raise LrsmsError(
                f"--num_nodes {self.num_nodes}: {', '.join(missing)} not set; start with torchrun or srun, or export "
                f"MASTER_ADDR and MASTER_PORT of the first machine and RANK, this machine's number from 0"
            )
        return ["--dist_world_size", str(self.num_nodes)]


def _dense(config: dict) -> dict:
    """A training config without low rank: the classes are the same, and so are the names of their weights."""
    config = {key: value for key, value in config.items() if key not in ("warmup_epochs", "init_param")}
    for key in ("encoder_conf", "decoder_conf"):
        config[key] = {name: value for name, value in (config.get(key) or {}).items() if name != "low_rank"}
    return config


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _cpu_process(rank: int, world_size: int, port: int, command: list[str]) -> None:
    """One of several CPU processes that train together over gloo; ESPnet reads torchrun's variables."""
    be_helper()
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(max(1, torch.get_num_threads() // world_size))
    command = command + ["--multiprocessing_distributed", "false", "--dist_backend", "gloo"]
    try:
        ASRTask.main(cmd=command)
    except Exception as error:  # in this process, or its parent would show a stack trace
        message = error_of_user(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def summarize(training: Training) -> None:
    """Write ``curves.json`` and ``summary.json`` from the finished training's last checkpoint.

    Raises:
        LrsmsError: it has not finished: ESPnet gives up, with a line in its log, if no gradient of an epoch is finite.
    """
    folder = training.output_dir
    stats = read_checkpoint(folder / CHECKPOINT)["reporter"]["stats"]
    epochs = sorted(stats)
    options = read_yaml(folder / CONFIG)
    if epochs[-1] < options["max_epoch"] and options.get("patience") is None:
        raise LrsmsError(
            f"{folder}: stopped after epoch {epochs[-1]} of {options['max_epoch']}: not one step of it had finite "
            f"gradients; try a smaller learning rate, and --force true to start again"
        )
    curves = {phase: _curve(stats, epochs, phase) for phase in ("train", "valid")}
    write_json(folder / "curves.json", curves)
    summary = {
        "experiment": folder.name,
        "config": str(training.config),
        **json.loads((folder / preflight.PREPARED).read_text()),
        "train_step_seconds": statistics.median(curves["train"]["train_time"]),
        "epochs": len(epochs),
        "max_epoch": read_training_yaml(training.config).get("max_epoch"),
        "wall_seconds": sum(seconds(part["time"]) for epoch in epochs for part in stats[epoch].values()),
        "seed": training.seed,
    }
    warmup = folder / "warmup" / "summary.json"
    if warmup.exists():
        dense = json.loads(warmup.read_text())
        summary["warmup_epochs"] = dense["epochs"]
        summary["epochs"] += dense["epochs"]
        summary["wall_seconds"] += dense["wall_seconds"]
    write_json(folder / "summary.json", summary)


def _curve(stats: dict, epochs: list[int], phase: str) -> dict[str, list]:
    names = sorted({name for epoch in epochs for name in stats[epoch].get(phase, {})} - {"time", "total_count"})
    curve: dict[str, list] = {"epoch": epochs}
    for name in names:
        values = [stats[epoch].get(phase, {}).get(name) for epoch in epochs]
        curve[name] = [float(value) if value is not None and value == value else None for value in values]
    return curve
