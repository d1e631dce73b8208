"""What release 0.1.0 wrote, opened by this version. See 0.1.0/README.md."""

import argparse
import json
import shutil
import tarfile
from pathlib import Path

import optuna
import pytest
import torch
import yaml

HERE = Path(__file__).parent / "0.1.0"
CHECKPOINT = "valid.acc.ave.pth"
DATA = ("--data_dir", "data")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """The recipe's folder, as 0.1.0 left it."""
    folder = tmp_path_factory.mktemp("recipe")
    with tarfile.open(HERE / "recipe.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("inputs.json"):
        path.write_text(path.read_text().replace("FOLDER", str(folder)))
    for path in HERE.glob("*.yaml"):
        shutil.copy(path, folder)
    torch.set_num_threads(1)
    return folder


@pytest.fixture(scope="module")
def expected() -> dict:
    """What 0.1.0 made of its models."""
    return json.loads((HERE / "expected.json").read_text())


@pytest.fixture
def verb(recipe, run_module):
    """``verb(name, *options)``: what a verb prints in the recipe's folder; it must succeed."""

    def run(name: str, *options: str) -> str:
        done = run_module(f"lrsms.bin.{name}", *options, cwd=recipe)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("model", ["exp/tiny", "exp/tiny_compressed/iter1", "exp/tiny/export/pack/tiny.zip"])
def test_models_recognize_the_same(model, recipe, expected):
    from lrsms import Recognizer

    transcript = Recognizer(recipe / model, decode=recipe / "decode.yaml")(
        recipe / "data/audio/dev/digits-dev-000001.flac"
    )
    assert transcript.text == expected[model]["text"] != ""
    words = [[word.word, round(word.start, 3), round(word.end, 3)] for word in transcript.words]
    assert words == expected[model]["words"]


@pytest.mark.parametrize("model", ["exp/tiny", "exp/tiny_compressed/iter1"])
def test_encoders_compute_the_same(model, recipe, expected):
    from espnet2.tasks.asr import ASRTask

    import lrsms.espnet  # noqa: F401

    folder = recipe / model
    built, _ = ASRTask.build_model_from_file(folder / "config.yaml", folder / CHECKPOINT)
    tone = torch.sin(torch.arange(4000) / 5.0)[None] / 2
    with torch.no_grad():
        encoded, _ = built.eval().encode(tone, torch.tensor([4000]))
    assert encoded[0, -1].tolist() == pytest.approx(expected[model]["encoded"], abs=2e-5)


def test_the_state_of_a_training_goes_on(recipe, tmp_path):
    """Weights, moments of Adam, learning rate and epochs are what a training of today would go on from."""
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.reporter import Reporter

    from lrsms.espnet.training.trainer import LowRankTrainer

    folder = tmp_path / "tiny"  # ESPnet 202611 writes the epochs anew, under its own names
    shutil.copytree(recipe / "exp/tiny", folder, symlinks=True)
    args = argparse.Namespace(**yaml.safe_load((folder / "config.yaml").read_text()))
    model = ASRTask.build_model(args)
    (optimizer,) = ASRTask.build_optimizers(args, model)
    reporter = Reporter()
    parts = {"model": model, "optimizers": [optimizer], "schedulers": [None], "reporter": reporter, "scaler": None}
    LowRankTrainer.resume(folder / "checkpoint.pth", **parts)
    weights = torch.load(folder / "1epoch.pth", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert reporter.get_epoch() == 1 and "valid" in reporter.stats[1]
    states = optimizer.state_dict()["state"].values()
    assert len(states) == len(list(model.parameters())) and all(int(state["step"]) > 0 for state in states)


def test_no_stage_runs_again(verb):
    """Stamps, also of files that were compared by their bytes in a ``.gz`` then."""
    assert "up to date" in verb("prepare", *("--corpus", "digits", "--output_dir", "data"), *_digits())
    assert "up to date" in verb("cuts", *DATA, "--fs", "8000")
    assert "up to date" in verb("tokenize", *DATA)
    assert "have not changed" in verb("train", "--config", "train.yaml", "--output_dir", "exp/tiny")
    decode = ("--asr_exp", "exp/tiny", "--splits", "dev test", "--config", "decode.yaml")
    assert verb("decode", *decode).count("have not changed") == 2
    assert "have not changed" in verb("export", "--asr_exp", "exp/tiny", "--format", "pack")


def _digits() -> tuple[str, ...]:
    return ("--num_train", "4", "--num_dev", "2", "--num_test", "2")


def test_a_compression_reports_the_same(verb, recipe):
    options = ("--config", "compress.yaml", "--decode_config", "decode.yaml")
    report = verb("compress", "--asr_exp", "exp/tiny", *options)
    (row,) = [line.split("|") for line in report.splitlines() if line.startswith("| iter1")]
    assert [cell.strip() for cell in row[2:6]] == ["tiny", "2,614", "1.06", "4"] and row[-2].strip() == "accepted"
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(recipe / "exp/tiny_compressed/optuna.journal"))
    )
    (study,) = optuna.get_all_study_summaries(storage)
    assert study.study_name == "tiny_compressed/iter1" and study.n_trials == 4


def test_a_sweep_reports_the_same(verb, recipe):
    def rows(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("| ") and "seeds" not in line]

    before = rows((recipe / "sweeps/sweep/sweep.md").read_text())
    report = verb("sweep", "sweep.yaml", "--decode_config", "decode.yaml", "--report_only")
    assert [line for line in rows(report) if "low" in line or "dense" in line] == [
        line for line in before if line.startswith(("| low ", "| dense "))
    ]


def test_the_text_parts_of_a_decoding_graph_are_the_same(recipe, tmp_path):
    from lrsms.fsa.lang import LEXICON, MISSING, MODEL, make_language
    from lrsms.fsa.ngram import read_arpa

    before = recipe / "data/lang_char/hlg_3gram"
    language = make_language(recipe / "data/lang_char", [recipe / "data/train/cuts.jsonl.gz"])
    language.write(tmp_path)
    for name in (LEXICON, MISSING, MODEL):
        assert (tmp_path / name).read_text() == (before / name).read_text()
    assert read_arpa(before / MODEL).log10.keys() == language.model.log10.keys()
