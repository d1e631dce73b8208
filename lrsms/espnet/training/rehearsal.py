"""One utterance through everything that a training will do, before it begins.

ESPnet builds its parts from a config and finds out one by one, some only when the training has ended, what does not go
together. Here a model of the same config takes one step at the start, and what fails is said with the YAML's key.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet2.torch_utils.device_funcs import to_device
from lhotse import CutSet
from torch import nn

from lrsms.data.cut_files import read_cuts
from lrsms.errors import LrsmsError
from lrsms.espnet.config import explained, read_training_yaml, sampling_rate
from lrsms.espnet.data.av_batches import make_loader
from lrsms.espnet.data.cut_batches import CutsDataset, CutsIterFactory, load_waveform, usable_cuts
from lrsms.espnet.models.encoder_lengths import EncoderLength
from lrsms.espnet.option_values import wrong_values
from lrsms.espnet.training.distillation import DEFAULTS
from lrsms.espnet.training.edit_distance import provide_editdistance
from lrsms.training_yaml import locate

_PACKAGES = {"use_wandb": "wandb", "sharded_ddp": "fairscale", "use_deepspeed": "deepspeed"}
EXCLUDED = "excluded.tsv"  # of the experiment; that beside the cuts is stage 1's
_CUTS = 20  # of which the longest is taken
# Statistics that ESPnet's trainer adds to the model's own in the phase "train".
_OF_TRAINER = {"iter_time", "forward_time", "backward_time", "optim_step_time", "train_time", "grad_norm", "clip"}


class Rehearsal:
    """Builds what a training consists of and tries it.

    Args:
        args: of the task, with ``train_cuts``.
        task: :class:`lrsms.espnet.training.task.ASRTask`.
        path: the training YAML that ``args`` come from.
    """

    def __init__(self, args: argparse.Namespace, task: Any, path: Path):
        self.args, self.task, self.path = args, task, path
        self.config = read_training_yaml(path)

    def build(self) -> nn.Module:
        """The model, as the training will build it.

        Raises:
            LrsmsError: an option has a wrong value, a file or a package is not there, or ESPnet cannot build it.
        """
        for keys, wrong in wrong_values(vars(self.args)):  # those of the command line; the YAML's have been looked at
            raise LrsmsError(f"--{'.'.join(keys)}: {wrong}")
        self._check_teacher()
        self._check_files()
        self._check_packages()
        try:
            return self.task.build_model(self.args)
        except LrsmsError as error:
            raise error if str(self.path) in str(error) else LrsmsError(f"{self.path}: {error}") from error
        except Exception as error:  # each class of ESPnet's refuses its options with exceptions of its own
            raise self._explained(error, "ESPnet cannot build the model") from error

    def lengths(self, model: nn.Module) -> EncoderLength:
        """How many frames the model's encoder makes of an utterance.

        Raises:
            LrsmsError: it cannot take two seconds of sound.
        """
        try:
            return EncoderLength(model, sampling_rate(self.args.frontend_conf))
        except Exception as error:
            raise self._explained(error, "the model cannot take two seconds of silence") from error

    def run(self, model: nn.Module, processes: int = 1) -> None:
        """Build optimizer and scheduler, and take one utterance through the model, forward and backward.

        Args:
            model: is changed by it.
            processes: that train together.

        Raises:
            LrsmsError: something fails, nothing is left to train, no step would be taken, or a criterion names a
                statistic that there is not.
        """
        self._freeze(model)
        self._build_optimizer(model)
        self._check_accumulation(processes)
        names = self._step(model)
        if names is not None:
            self._check_criteria(names)

    def _check_accumulation(self, processes: int) -> None:
        """An ``accum_grad`` above the batches of an epoch would never take a step."""
        wanted = self.args.accum_grad
        if wanted == 1:
            return
        usable = usable_cuts(Path(self.args.train_cuts), Path(self.args.output_dir) / EXCLUDED, "train_cuts")
        options = {"max_duration": self.args.max_duration, "num_buckets": self.args.num_buckets}
        batches = CutsIterFactory(usable, self._dataset(), shuffle=False, seed=0, **options).sampler(1)
        found = sum(1 for _ in itertools.islice(batches, wanted * processes)) // processes
        if found < wanted:
            each = " for each process" if processes > 1 else ""
            raise self._refused("accum_grad", f"an epoch has {found} batches{each}; write at most {max(1, found)}")

    def _refused(self, key: str, why: str) -> LrsmsError:
        return LrsmsError(f"{locate(self.path, key)}: {key}: {getattr(self.args, key)!r}: {why}")

    def _explained(self, error: Exception, what: str) -> LrsmsError:
        parts: dict[str, type] = {}
        for choices in self.task.class_choices_list:
            cls = choices.classes.get(getattr(self.args, choices.name, None))
            parts |= {choices.name: cls} if cls is not None else {}
        return explained(self.path, self.config, parts, error, what)

    def _check_teacher(self) -> None:
        for key, default in DEFAULTS.items() if self.args.distill_from is None else ():
            if getattr(self.args, key) != default:  # an experiment's config.yaml has all of them
                raise self._refused(key, "has no teacher; write distill_from: and its checkpoint")

    def _check_files(self) -> None:
        for key, values in (("distill_from", [self.args.distill_from]), ("init_param", self.args.init_param)):
            for value in values:
                file = value and Path(str(value).split(":", 1)[0])
                if value is not None and not (file and file.is_file()):
                    raise self._refused(key, f"{file or 'an empty name'}: no such file")

    def _check_packages(self) -> None:
        for key, package in _PACKAGES.items():
            if getattr(self.args, key) and importlib.util.find_spec(package) is None:
                raise self._refused(key, f"needs the package {package}, which is not installed")

    def _freeze(self, model: nn.Module) -> None:
        for start in self.args.freeze_param:
            found = [value for name, value in model.named_parameters() if f"{name}.".startswith(f"{start}.")]
            if not found:
                parts = ", ".join(name for name, _ in model.named_children())
                raise self._refused("freeze_param", f"the model has no parameter {start!r}; its parts are {parts}")
            for parameter in found:
                parameter.requires_grad = False
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise self._refused("freeze_param", "nothing is left to train")

    def _build_optimizer(self, model: nn.Module) -> None:
        args = self.args
        kind, name, classes = "optim", args.optim, optim_classes
        try:
            optimizer = self.task.build_optimizers(args, model)[0]
            kind, name, classes = "scheduler", args.scheduler, scheduler_classes
            if name is not None:
                classes[name](optimizer, **args.scheduler_conf)
        except Exception as error:
            what = f"{classes[name].__name__} cannot be built"
            raise explained(self.path, self.config, kind, error, what) from error

    def _step(self, model: nn.Module) -> dict[str, set[str]] | None:
        """Names of the statistics of each phase; None if the cuts are too short for the model."""
        provide_editdistance()
        device = "cuda" if self.args.ngpu > 0 else "cpu"
        model.to(device, getattr(torch, self.args.train_dtype))
        names: dict[str, set[str]] = {}
        try:
            batch = to_device(self._batch(), device)
            for phase in ("valid", "train"):
                model.train(phase == "train")
                # ESPnet's mixed precision is that of a GPU.
                mixed = torch.autocast(device, enabled=self.args.use_amp and device == "cuda")
                with torch.set_grad_enabled(phase == "train"), mixed:
                    loss, statistics, _ = model(**batch)
                names[phase] = {name for name, value in statistics.items() if value is not None}
            loss.backward()
        except LrsmsError:
            raise
        except Exception as error:
            if type(error).__name__ == "TooShortUttError":  # the check of lengths will say it
                return None
            raise self._explained(error, "the model cannot take a training step") from error
        if torch.isnan(loss):
            raise LrsmsError(f"{self.path}: the loss of the first utterance is NaN before any step")
        return names

    def _batch(self) -> dict[str, Any]:
        cuts = itertools.islice(read_cuts(Path(self.args.train_cuts)), _CUTS)
        longest = max(cuts, key=lambda cut: cut.duration)
        ids, batch = self._dataset()[CutSet.from_cuts([longest])]
        return {**batch, "utt_id": ids}

    def _dataset(self) -> CutsDataset:
        task, args = self.task, self.args
        load = make_loader(args, train=True) or load_waveform
        return CutsDataset(task.build_preprocess_fn(args, train=True), task.build_collate_fn(args, train=True), load)

    def _check_criteria(self, names: Mapping[str, set[str]]) -> None:
        asked = {"best_model_criterion": self.config.get("best_model_criterion") or []}
        if self.args.patience is not None:
            asked["early_stopping_criterion"] = [self.args.early_stopping_criterion]
        scheduler = scheduler_classes.get(self.args.scheduler)
        if isinstance(scheduler, type) and issubclass(scheduler, AbsValEpochStepScheduler):
            asked["val_scheduler_criterion"] = [self.args.val_scheduler_criterion]
        for key, criteria in asked.items():
            for phase, name, *_ in criteria:
                of_trainer = phase == "train" and (name in _OF_TRAINER or name.startswith("optim"))
                if name not in names[phase] and not of_trainer:
                    known = ", ".join(sorted(names[phase]))
                    raise self._refused(key, f"{phase} has no statistic {name!r}; this model's are {known}")
