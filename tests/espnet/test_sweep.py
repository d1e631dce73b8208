"""A sweep of real trainings: two arms of the tiny model, two seeds, one epoch; interrupted once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from lrsms.errors import LrsmsError

KEYS = ("low_seed0", "dense_seed0", "low_seed1", "dense_seed1")


@pytest.fixture
def recipe(tmp_path, corpus, write_config) -> Path:
    """Folder with ``data`` and a sweep."""
    (tmp_path / "data").symlink_to(corpus)
    (tmp_path / "conf").mkdir()
    write_config(tmp_path / "conf/base.yaml", max_epoch=1, keep_nbest_models=1)
    (tmp_path / "conf/decode.yaml").write_text("beam_size: 2\nctc_weight: 0.3\n")
    dense = {"encoder_conf.low_rank": None, "decoder_conf.low_rank": None}
    sweep = {"base": "conf/base.yaml", "seeds": [0, 1], "arms": {"low": None, "dense": dense}}
    (tmp_path / "conf/sweep_tiny.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return tmp_path


@pytest.fixture
def runner(recipe):
    from lrsms.sweep.points import Sweep
    from lrsms.sweep.runner import Runner

    sweep = Sweep.read(recipe / "conf/sweep_tiny.yaml")
    return Runner(sweep, recipe / "sweeps", recipe / "data", decode_config=recipe / "conf/decode.yaml")


def test_a_point_is_an_ordinary_training_and_decoding(runner, monkeypatch):
    from lrsms.sweep import experiment

    seen = []
    monkeypatch.setattr(experiment.Training, "run", lambda self: seen.append(self))
    monkeypatch.setattr(experiment.Decoding, "run", lambda self: seen.append(self))
    point = runner.points()[2]
    experiment.train_and_decode(runner, point, 1)
    training, decoding = seen
    assert (training.config, training.output_dir) == (runner.folder / "configs/low.yaml", runner.folder / "low_seed1")
    assert (training.seed, training.token_type, training.ngpu) == (1, "char", 0)
    assert training.train_cuts.parts[-2] == "train" and training.valid_cuts.parts[-2] == "dev"
    assert training.lang_dir == runner.data_dir / "lang_char"
    assert decoding.output_dir == runner.decode_folder(point, "test")
    assert torch.get_num_threads() == 1


def test_an_option_that_espnet_does_not_have_is_named_with_sweep_and_arm(recipe, runner):
    sweep = yaml.safe_load((recipe / "conf/sweep_tiny.yaml").read_text())
    sweep["arms"]["low"] = {"encoder_conf.low_rank.atention": 0.5}
    (recipe / "conf/sweep_tiny.yaml").write_text(yaml.safe_dump(sweep))
    wrong = dataclasses.replace(runner, sweep=type(runner.sweep).read(recipe / "conf/sweep_tiny.yaml"))
    with pytest.raises(
        LrsmsError,
        match=r"sweep_tiny.yaml: arm 'low': .*low.yaml: line \d+: encoder_conf.low_rank.atention: unknown key",
    ):
        wrong.run()
    assert not list(wrong.folder.glob("low_seed*"))


def start(recipe: Path, root: Path, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "lrsms.bin.sweep", "conf/sweep_tiny.yaml", "--checkpoint", "valid.acc.best.pth"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *options], cwd=recipe, env=environment, start_new_session=True, **streams)


def trained(recipe: Path) -> set[str]:
    return {path.parent.name for path in recipe.glob("sweeps/sweep_tiny/*/summary.json")}


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_reports(recipe, root):
    process = start(recipe, root)
    try:
        while not trained(recipe):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    first = {key: (recipe / "sweeps/sweep_tiny" / key / "summary.json").stat().st_mtime_ns for key in trained(recipe)}
    assert 0 < len(first) < 4

    process = start(recipe, root, "--results_dir", ".")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert trained(recipe) == set(KEYS)
    for key, when in first.items():
        assert (recipe / "sweeps/sweep_tiny" / key / "summary.json").stat().st_mtime_ns == when
    found = json.loads((recipe / "findings/sweep_tiny.json").read_text())
    low, dense = found["arms"]
    assert low["arm"] == "low" and len(low["wer"]) == len(dense["wer"]) == 2 and found["unfinished"] == []
    assert low["parameters"] < dense["parameters"] == dense["dense_parameters"]
    assert dense["differs_from_reference"]["encoder_conf.low_rank.attention"] is None
    assert "lrsms.bin.sweep conf/sweep_tiny.yaml" in low["experiments"][0]["command"]
    assert "| dense " in output and (recipe / "findings/sweep_tiny_curves.png").exists()
