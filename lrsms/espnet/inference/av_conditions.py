"""Decode one split under many conditions with one checkpoint: noise at several ratios, either stream missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lrsms import stamp
from lrsms.avsr.conditions import Condition, ConditionLoader
from lrsms.avsr.loading import mouth_of
from lrsms.avsr.noise import Babble
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.av_batches import decoding_loader
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.models.av_conformer import MODALITIES
from lrsms.scoring.conditions import conditions_folder


def modalities_of(experiment: Experiment) -> tuple[str, ...]:
    """What the trained encoder can be given: the modality that it was built for, or all.

    Raises:
        LrsmsError: the experiment has no config.
    """
    modality = experiment.options("encoder_conf").get("modality", MODALITIES[-1])
    return MODALITIES if modality == "audiovisual" else (modality,)


@dataclass(frozen=True)
class ConditionsDecoding:
    """What to decode under which conditions.

    Attributes:
        decoding: model, split and options; its own ``output_dir`` is not used.
        conditions: see :func:`lrsms.avsr.conditions.grid`.
        train_cuts: manifest whose utterances the babble is made of.
        voices: how many talk at once in the noise.
        seed: of the noise.
    """

    decoding: Decoding
    conditions: Sequence[Condition]
    train_cuts: Path
    voices: int = 4
    seed: int = 0

    @property
    def output_dir(self) -> Path:
        """Holds one folder for each condition."""
        decoding = self.decoding
        return conditions_folder(decoding.asr_exp, decoding.config, decoding.checkpoint, decoding.cuts.parent.name)

    def run(self, force: bool = False) -> None:
        """Decode every condition that is not decoded yet, and leave in its folder what stage 4 leaves.

        Raises:
            LrsmsError: a model of audio, a condition that its encoder cannot take, or missing inputs.
        """
        options = self.decoding.check()
        self._check_modality()
        arguments = {"voices": self.voices, "seed": self.seed}
        inputs = [*self.decoding.inputs, self.train_cuts]
        left = [
            condition
            for condition in self.conditions
            if force or not stamp.is_current(self.output_dir / condition.name / "inputs.json", arguments, inputs)
        ]
        if len(left) < len(self.conditions):
            done = len(self.conditions) - len(left)
            print(f"{self.output_dir}: {done} of {len(self.conditions)} conditions are decoded already; skipped")
        if not left:
            return
        loads = self._loads(left)
        cuts = self.decoding.sorted_cuts()
        blind = sum(mouth_of(cut) is None for cut in cuts)
        jobs = [(condition.name, cut) for condition in left for cut in cuts]
        hypotheses = self.decoding.hypotheses(options, loads, jobs)
        split = self.decoding.cuts.parent.name
        with tqdm(total=len(jobs), desc=f"decoding {split}", unit="utt", dynamic_ncols=True) as bar:
            for condition in left:
                folder, began, decoded = self.output_dir / condition.name, time.perf_counter(), []
                bar.set_postfix_str(condition.name)
                for _ in cuts:
                    decoded.append(next(hypotheses))
                    bar.update()
                about = {
                    "modality": condition.modality,
                    "snr_db": condition.snr_db,
                    "babble_voices": self.voices,
                    "seed": self.seed,
                    "without_video": blind,
                }
                wall = time.perf_counter() - began
                self.decoding.write(folder, options, cuts, decoded, wall, **about)
                stamp.write(folder / "inputs.json", arguments, inputs)

    def _check_modality(self) -> None:
        allowed = modalities_of(self.decoding.experiment)
        for condition in self.conditions:
            if condition.modality not in allowed:
                raise LrsmsError(
                    f"{self.decoding.experiment.config_file}: encoder_conf.modality is {allowed[0]}, which cannot "
                    f"decode {condition.modality}; leave it out of --modalities"
                )

    def _loads(self, conditions: Sequence[Condition]) -> dict[str, ConditionLoader]:
        loader = decoding_loader(self.decoding.experiment, self.output_dir)
        if loader is None:
            raise LrsmsError(
                f"{self.decoding.experiment.config_file}: not an audio-visual encoder; decode it with "
                f"python -m lrsms.bin.decode"
            )
        babble = None
        if any(condition.snr_db is not None for condition in conditions):
            babble = Babble.from_manifest(self.train_cuts, voices=self.voices, seed=self.seed)
        return {condition.name: ConditionLoader.make(loader, condition, babble) for condition in conditions}
