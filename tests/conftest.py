"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``waves_yesno``, ``speechocean762`` and ``grid`` beside the repository; skips where it is not."""
    folder = Path(os.environ.get("LRSMS_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "waves_yesno").is_dir():
        pytest.skip(
            f"no real speech at {folder}; set LRSMS_REAL_DATA to a folder with waves_yesno, speechocean762, grid"
        )
    return folder
