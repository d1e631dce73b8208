"""The package as pip installs it, run from a folder that holds nothing: no file of the checkout is in reach."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from lrsms import __version__
from lrsms.__main__ import verbs

if int(setuptools.__version__.partition(".")[0]) < 71:
    pytest.importorskip("wheel", reason="setuptools below 71 builds wheels with this package only")


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory) -> Path:
    """Folder of an installation of the wheel alone."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "lrsms", source / "lrsms", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True, cwd=source)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def lrsms(installed, tmp_path):
    """``lrsms(*words)``: what the command prints in an empty folder; it must succeed."""

    def run(*words: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [str(installed / "bin" / "lrsms"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_every_file_of_the_package(installed, root):
    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(folder)) for path in found}

    assert files(installed / "lrsms") == files(root / "lrsms")
    assert "bench/configs/arms.yaml" in files(installed / "lrsms") and "py.typed" in files(installed / "lrsms")


def test_every_verb_is_there(lrsms):
    assert lrsms("--version") == f"lrsms {__version__}\n"
    listed = lrsms("--help")
    for verb, sentence in verbs().items():
        assert f"{verb} " in listed and sentence in listed
        assert lrsms(verb, "--help").split()[:3] == ["usage:", "lrsms", verb]


def test_plan_of_a_yaml(lrsms, tmp_path, root):
    shutil.copy(root / "conf/train_lrsms.yaml", tmp_path / "mine.yaml")
    shutil.copy(root / "conf/train_dense.yaml", tmp_path)  # its base
    assert "vocabulary        30 tokens" in lrsms("plan", "--config", "mine.yaml", "--vocab-size", "30")


def test_benchmark_of_a_size(lrsms, tmp_path):
    """``layer`` takes the YAML of a size as ``train`` does, and is quicker."""
    lrsms("bench", "layer", "--size", "tiny", "--frames", "8", "--rounds", "1", "--output-dir", "speed")
    assert "32 x 64" in (tmp_path / "speed/layer.md").read_text()


def test_corpora(lrsms, tmp_path):
    lrsms("prepare", "--corpus", "digits", "--output-dir", "data", "--num-train", "2", "--num-dev=1", "--num-test=1")
    assert (tmp_path / "data/train/recordings.jsonl.gz").exists()
    assert "--lists_dir" in lrsms("prepare", "--corpus", "grid", "--help")
