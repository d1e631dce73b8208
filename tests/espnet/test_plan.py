"""``lrsms plan``: whose vocabulary it counts."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from lrsms.bin.plan import ASSUMED_VOCABULARY, vocabulary
from lrsms.errors import LrsmsError


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The working folder, a recipe's; ``recipe.lang(name, tokens)`` is what its stage 2 leaves."""
    monkeypatch.chdir(tmp_path)

    class Recipe:
        def lang(self, name: str, tokens: int, folder: str = "data") -> None:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "tokens.txt").write_text("x\n" * tokens)

    return Recipe()


def count(**given) -> tuple[int, str]:
    """What the plan says of the vocabulary."""
    names = ("data_dir", "token_type", "token_list", "vocab_size")
    return vocabulary(argparse.Namespace(**{"config": Path("conf/x.yaml"), **dict.fromkeys(names), **given}))


def test_parameters_are_those_of_the_trained_model(experiment, run_module, tmp_path):
    prepared = json.loads((experiment.output_dir / "prepared.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(experiment.lang_dir, data / "lang_char")
    done = run_module("lrsms.bin.plan", "--config", experiment.config, "--data-dir", data, cwd=experiment.output_dir)
    assert done.returncode == 0, done.stderr
    assert f"parameters        {prepared['parameters']:,} of dense's {prepared['dense_parameters']:,}" in done.stdout
    assert f"tokens, of {data}/lang_char/tokens.txt" in done.stdout


def test_an_assumed_vocabulary_is_said(recipe):
    size, source = count()
    assert size == ASSUMED_VOCABULARY
    assert source.startswith("assumed") and "no data/lang_*" in source and "give --data_dir, --token_list" in source
    recipe.lang("lang_char", 30)
    recipe.lang("lang_word", 13)
    size, source = count()
    assert size == ASSUMED_VOCABULARY and "data has lang_char, lang_word; give --token_type" in source


def test_the_recipes_only_tokens_are_taken(recipe):
    recipe.lang("lang_word", 13)
    assert count() == (13, "of data/lang_word/tokens.txt")
    recipe.lang("lang_char", 30, "egs/x/asr1/data")
    config = Path("egs/x/asr1/conf/train.yaml")
    assert count(config=config) == (30, "of egs/x/asr1/data/lang_char/tokens.txt")
    assert count(config=Path("egs/y/asr1/conf/train.yaml"))[0] == 13


def test_options_say_which_tokens(recipe):
    recipe.lang("lang_char", 30)
    recipe.lang("lang_unigram50", 50)
    assert count(token_type="char")[0] == 30
    assert count(token_type="unigram", vocab_size=50)[0] == 50
    assert count(token_list=Path("data/lang_char/tokens.txt"), vocab_size=7)[0] == 30
    assert count(vocab_size=7) == (7, "of --vocab_size")


def test_tokens_that_are_not_found_are_named(recipe):
    with pytest.raises(LrsmsError, match="data/lang_word/tokens.txt: not found; run stage 2 first"):
        count(token_type="word")
    with pytest.raises(LrsmsError, match="--data_dir elsewhere: not found"):
        count(data_dir=Path("elsewhere"))
    with pytest.raises(LrsmsError, match="no.txt: not found"):
        count(token_list=Path("no.txt"))
