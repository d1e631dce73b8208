"""The data of audio-visual training: which window of which regions, with which noise, and what to do without video."""

from __future__ import annotations

import argparse
import fcntl
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from lrsms.avsr.config import AvConfig
from lrsms.avsr.loading import Loader, mouth_of
from lrsms.avsr.noise import Babble
from lrsms.data.mouths import WITHOUT_VIDEO, regions_path
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.models.av_region import encoder_region

_MOST_OF_IT = 0.75


@dataclass(frozen=True)
class ProblemList:
    """Writes utterances whose video fails as it is read to a table, each once, from any process.

    Attributes:
        path: the table, ``id`` and ``detail``.
    """

    path: Path

    def __call__(self, name: str, detail: str) -> None:
        """List ``name``; its sound alone is used."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            listed = {line.split("\t", 1)[0] for line in file}
            if name in listed:
                return
            file.write(f"{name}\t{' '.join(detail.split())}\n")
        logging.warning(f"{name}: its video is left out, {len(listed) + 1} such so far: {detail}")


def make_loader(args: argparse.Namespace, train: bool) -> Loader | None:
    """What turns cuts into the arrays of ``args``'s model; None for a model of audio, which takes waveforms.

    Raises:
        LrsmsError: a bad ``av_conf``, one without an audio-visual encoder, or too few utterances to make noise of.
    """
    region = encoder_region(args)
    if region is None:
        if getattr(args, "av_conf", None):
            raise LrsmsError(f"av_conf: is for the audio-visual encoders; encoder: {args.encoder} reads audio")
        return None
    config = AvConfig.parse(getattr(args, "av_conf", None))
    babble = None
    if config.noisy:
        babble = Babble.from_manifest(Path(args.train_cuts), voices=config.babble_voices, seed=args.seed)
    return Loader(
        region,
        config,
        train=train,
        seed=args.seed,
        babble=babble,
        report=ProblemList(Path(args.output_dir) / WITHOUT_VIDEO),
    )


def decoding_loader(experiment: Experiment, output_dir: Path) -> Loader | None:
    """What turns cuts into the arrays of a trained model: no noise, the window in the center; None for one of audio.

    Args:
        experiment: of the model.
        output_dir: where utterances whose video cannot be read are listed; they are decoded by their sound.
    """
    region = encoder_region(experiment.config)
    if region is None:
        return None
    config = replace(AvConfig.parse(experiment.config.get("av_conf")), snrs=(None,), valid_snrs=(None,))
    return Loader(region, config, report=ProblemList(output_dir / WITHOUT_VIDEO))


class VideoCheck:
    """Looks over the cuts of a split before training: are there mouth regions, large enough, and still on the disk?

    Args:
        loader: what will load the cuts.
        manifest: of the cuts, for error messages.
    """

    def __init__(self, loader: Loader, manifest: Path):
        self.region, self.resize, self.manifest = loader.region, loader.config.resize, manifest
        self.cuts = self.with_video = 0
        self.seen = 1.0  # share of a region's side that the window covers
        self.gone: list[str] = []

    def __call__(self, cut: Cut) -> None:
        """Look at one cut.

        Raises:
            LrsmsError: its regions are smaller than the encoder's.
        """
        self.cuts += 1
        mouth = mouth_of(cut)
        if mouth is None:
            return
        sides = (self.resize,) * 2 if self.resize else tuple(mouth.shape[1:])
        if min(np.subtract(sides, self.region)) < 0:
            available, wanted = (" x ".join(map(str, size)) for size in (sides, self.region))
            raise LrsmsError(
                f"encoder_conf.region: {wanted} pixels do not fit into the {available} of {cut.id} in {self.manifest}"
                f"{' after av_conf.resize' if self.resize else ''}; write at most {min(sides)}, or "
                f"{'a larger av_conf.resize' if self.resize else 'run stages 0 and 1 with a larger --mouth-size'}"
            )
        self.seen = min(np.divide(self.region, sides))
        if mouth.array.storage_type == "numpy_files" and not regions_path(mouth).is_file():
            self.gone.append(cut.id)
        else:
            self.with_video += 1

    def finish(self) -> None:
        """Print the counts.

        Raises:
            LrsmsError: no cut has video.
        """
        split = self.manifest.parent.name
        print(f"{split}: {self.with_video} of {self.cuts} utterances with video")
        if self.gone:
            print(f"{split}: {len(self.gone)} whose mouth regions are gone, such as {self.gone[0]}; run stage 0 again")
        if self.seen < _MOST_OF_IT:
            window = " x ".join(map(str, self.region))
            print(
                f"{split}: the window of {window} pixels covers {self.seen:.0%} of a region's side; if this cuts "
                f"off lips, av_conf.resize makes the regions smaller first"
            )
        if not self.with_video:
            raise LrsmsError(
                f"{self.manifest}: no utterance has mouth regions; run stages 0 and 1 of an audio-visual recipe, or "
                f"choose an encoder of audio"
            )
