"""Cuts with mouth regions, made by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def make_cut(tmp_path: Path) -> Callable:
    """``make_cut(name, samples, regions)``: a cut at 16 kHz; without regions it is one of sound alone."""
    from lhotse import MonoCut, Recording, SupervisionSegment

    from lrsms.data.mouths import FIELD, save_regions

    def make(name, samples, regions=None, speaker="somebody"):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        recording = Recording.from_file(path, recording_id=name)
        custom = None if regions is None else {FIELD: save_regions(tmp_path / "mouth" / f"{name}.npy", regions)}
        supervision = SupervisionSegment(name, name, 0.0, recording.duration, text="TEXT", speaker=speaker)
        return MonoCut(
            name, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision], custom=custom
        )  # fmt: skip

    return make


@pytest.fixture
def voices(make_cut) -> list:
    """Five utterances of 0.8 s by five speakers, colored noise of different powers."""
    rng = np.random.default_rng(5)
    return [make_cut(f"voice{i}", rng.normal(0, 0.02 * (i + 1), 12800), speaker=f"speaker{i}") for i in range(5)]
