"""Options of the recipes and of the verbs: what one may give is given by the option, not by what came before it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("egs/*/*/run.sh"))
COUNTS = "must be at least 1|write a whole number of at least 1"
OR_NONE = "must be at least 0|write a whole number of at least 0"

SHELL = [
    # option, values that run.sh takes whatever a recipe has given first, values that it refuses
    ("--speed-perturb", ["1.0", "0.9 1.0 1.1", "", "1"], []),
    ("--test-splits", ["test", "test other"], []),
    ("--token-type", ["char", "word"], []),
    ("--snrs", ["", "clean 0", "0"], []),
    ("--tag", ["1", "1.5", "x y", "true"], []),
    ("--stage", ["9", "10"], ["", "1.5", "1e3", "two", "nan", "0x9", "9 9", "true"]),
    ("--seed", ["0", "7"], ["", "0.5", "x", "1e3"]),
    ("--ngpu", ["0"], ["0.5", "cuda", ""]),
    ("--fs", ["8000"], ["8e3", "8k"]),
    ("--num-processes", ["2"], ["two", "1.5"]),
    ("--force", ["true", "false"], ["yes", "1", ""]),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(recipe, *options)``: a recipe that does nothing, with a Python that does nothing."""
    python = tmp_path_factory.mktemp("bin") / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)

    def run(recipe: Path, *options: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "LRSMS_PYTHON": str(python)}
        command = [str(recipe), "--stage", "9", "--stop-stage", "10", *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_every_recipe_takes_the_speeds_that_the_root_takes(recipe, run):
    done = run(recipe, "--speed-perturb", "0.9 1.0 1.1")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("option", "good", "bad"), SHELL)
def test_an_option_is_typed_once(option, good, bad, run):
    recipe = ROOT / "egs/own_data/asr1/run.sh"
    for value in good:
        done = run(recipe, option, value)
        assert (done.returncode, done.stderr) == (0, ""), value
    for value in bad:
        done = run(recipe, option, value)
        assert done.returncode == 1, value
        assert re.fullmatch(rf"error: run.sh: {option} .*: write (a whole number|true or false)\n", done.stderr)


VERBS = [
    # verb, its other options, option, bad values, what is said
    ("decode", ["--asr_exp", "x"], "--nj", ["0", "-1", "1.5", "two", "nan", ""], COUNTS),
    ("decode", ["--asr_exp", "x"], "--ngpu", ["-1", "0.5", "all"], OR_NONE),
    ("conditions", ["--asr_exp", "x"], "--nj", ["0"], COUNTS),
    ("conditions", ["--asr_exp", "x"], "--voices", ["0", "few"], COUNTS),
    ("compress", ["--asr_exp", "x"], "--nj", ["0", "-3"], COUNTS),
    ("cuts", ["--data_dir", "x"], "--num_jobs", ["0", "many"], COUNTS),
    ("cuts", ["--data_dir", "x"], "--fs", ["1", "0", "-16000", "999", "2000000"], r"--fs -?\d+: expected 1000 to"),
    ("cuts", ["--data_dir", "x"], "--min_utterance", ["nan", "-1", "31", "inf"], "expected seconds"),
    ("cuts", ["--data_dir", "x"], "--max_utterance", ["nan", "0", "-1"], "expected seconds"),
    ("cuts", ["--data_dir", "x"], "--speed_perturb", ["nan", "inf", "0", "-1", "0.9 0.9", "fast", "1.0 nan", "100"],
     "expected (numbers|different factors near 1)"),
    ("train", ["--config", "x", "--output_dir", "y"], "--num_processes", ["0", "-1", "1.5"], COUNTS),
    ("train", ["--config", "x", "--output_dir", "y"], "--num_nodes", ["0"], COUNTS),
    ("train", ["--config", "x", "--output_dir", "y"], "--ngpu", ["-1"], OR_NONE),
    ("train", ["--config", "x", "--output_dir", "y"], "--warmup_epochs", ["-1", "0.5"], OR_NONE),
    ("tokenize", ["--data_dir", "x", "--train_splits", "t", "--eval_splits", "e"], "--vocab_size", ["0", "-5", "1e3"],
     COUNTS),
    ("transcribe", ["m", "a.wav"], "--channel", ["-1", "left"], OR_NONE),
    ("export_kaldi", ["--cuts", "x", "--output_dir", "y"], "--num_jobs", ["0"], COUNTS),
    ("prepare", ["--corpus", "digits", "--output_dir", "x"], "--num_jobs", ["0"], "must be at least 1"),
    ("prepare", ["--corpus", "digits", "--output_dir", "x"], "--num_train", ["0", "-1"], "must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "others", "option", "value", "expected"),
    [
        pytest.param(verb, others, option, value, expected, id=f"{verb} {option} {value}")
        for verb, others, option, values, expected in VERBS
        for value in values
    ],
)
def test_a_wrong_number_is_named_with_what_is_right(verb, others, option, value, expected, run_module, tmp_path):
    done = run_module(f"lrsms.bin.{verb}", *others, f"{option}={value}", cwd=tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert option in last and re.search(expected, last)
    assert not list(tmp_path.iterdir())
