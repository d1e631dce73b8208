"""A recipe folder after stage 2 and sweeps whose experiments are made up, so that nothing is trained."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent

# What `python -m lrsms.bin.sweep` does, with the made-up experiments in place of ESPnet's.
VERB = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import made_up_experiment
sys.modules["lrsms.sweep.experiment"] = made_up_experiment
from lrsms.bin import run_verb, sweep
run_verb(sweep.main)
"""


@pytest.fixture
def made_up(monkeypatch):
    """The module of made-up experiments, in the place of ESPnet's."""
    monkeypatch.syspath_prepend(str(HERE))
    import made_up_experiment

    monkeypatch.setitem(sys.modules, "lrsms.sweep.experiment", made_up_experiment)
    return made_up_experiment


@pytest.fixture
def recipe(tmp_path, made_up) -> Path:
    """Folder with ``data`` and ``conf``."""
    made_up.write_data(tmp_path / "data")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/decode.yaml").write_text("beam_size: 3\n")
    (tmp_path / "conf/base.yaml").write_text(
        yaml.safe_dump({"max_epoch": 3, "wrong": 2, "encoder_conf": {"blocks": 2, "low_rank": {"attention": 0.5}}})
    )
    return tmp_path


@pytest.fixture
def write_sweep(recipe) -> Callable:
    """``write_sweep(name, **content)``: the path of a sweep's YAML; without arms, of one dense and one small."""

    def write(name: str = "sweep", **content) -> Path:
        arms = {"dense": {"wrong": 2}, "small": {"wrong": 6, "parameters": 250, "macs": 1e6}}
        content = {"base": "conf/base.yaml", "folder": "grid", "seeds": [0, 1], "arms": arms} | content
        path = recipe / "conf" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def make_runner(recipe, write_sweep) -> Callable:
    """``make_runner(name, content, **attributes)``: a Runner of a sweep with that content."""
    from lrsms.sweep.points import Sweep
    from lrsms.sweep.runner import Runner

    def make(name: str = "sweep", content: dict | None = None, **attributes) -> Runner:
        sweep = Sweep.read(write_sweep(name, **(content or {})))
        folders = {"root": recipe / "sweeps", "data_dir": recipe / "data"}
        return Runner(**{"sweep": sweep, **folders, "decode_config": recipe / "conf/decode.yaml", **attributes})

    return make


@pytest.fixture
def start_verb(recipe, root) -> Callable:
    """``start_verb(sweep, *options)``: ``lrsms.bin.sweep`` in a session of its own, in the recipe."""
    started = []

    def start(sweep: Path, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-c", VERB, str(sweep), *options]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A shell's background job ignores the interrupt, and so would what it starts.
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(command, cwd=recipe, start_new_session=True, **streams, **heed)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def runs(recipe) -> Callable:
    """``runs()``: key, process, threads and GPU of every training that was begun."""

    def read() -> list[list[str]]:
        path = recipe / "sweeps/runs.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    return read
