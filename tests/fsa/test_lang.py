"""Lexicon and language model of the training text, which need no k2."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lhotse import AudioSource, CutSet, Recording, SupervisionSegment
from lhotse.testing.dummies import dummy_cut, dummy_recording

from lrsms.data.tokens import build_lang
from lrsms.errors import LrsmsError
from lrsms.fsa.lang import LEXICON, MISSING, MODEL, graph_folder, prepare_lang
from lrsms.fsa.ngram import read_arpa


def sound(number: int) -> Recording:
    """A recording whose file is never read."""
    return replace(dummy_recording(number, duration=1.0), sources=[AudioSource("file", [0], f"{number}.wav")])


@pytest.fixture
def cuts(tmp_path) -> Path:
    texts = ["a cat sat", "a cat", "cat a"]
    segments = [SupervisionSegment(f"u{number}", "r", 0, 1, text=text) for number, text in enumerate(texts)]
    path = tmp_path / "data/train/cuts.jsonl.gz"
    path.parent.mkdir(parents=True)
    CutSet.from_cuts(
        dummy_cut(i, duration=1.0, recording=sound(i), supervisions=[s]) for i, s in enumerate(segments)
    ).to_file(path)
    return path


@pytest.fixture
def lang(cuts) -> Path:
    return build_lang(cuts.parents[1], train_splits=["train"], eval_splits=[], token_type="char")


def test_lexicon_and_model_are_written_once(lang, cuts, capsys):
    folder = prepare_lang(lang, [cuts], order=2)
    assert folder == graph_folder(lang, 2) and "3 words, " in capsys.readouterr().out
    assert (folder / LEXICON).read_text() == "a\ta\ncat\tc a t\nsat\ts a t\n"
    assert (folder / MISSING).read_text() == "word\tcount\n"
    assert read_arpa(folder / MODEL).vocabulary == ["a", "cat", "sat"]
    prepare_lang(lang, [cuts], order=2)
    assert "skipped" in capsys.readouterr().out
    prepare_lang(lang, [cuts], order=2, force=True)
    assert "skipped" not in capsys.readouterr().out
    (folder / LEXICON).unlink()
    prepare_lang(lang, [cuts], order=2)
    assert (folder / LEXICON).exists()


def test_words_without_tokens_are_listed(lang, cuts, tmp_path):
    arpa = tmp_path / "mine.arpa"
    arpa.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n-1\tcat\n-1\tdog\n\n\\end\\\n")
    folder = prepare_lang(lang, [cuts], arpa=arpa)
    assert folder == lang / "hlg_mine" and (folder / MISSING).read_text() == "word\tcount\ndog\t0\n"
    with pytest.raises(LrsmsError, match="cannot be read"):
        prepare_lang(lang, [cuts], arpa=tmp_path / "absent.arpa")


def test_the_recipe_s_script(lang, root):
    command = [sys.executable, root / "local/prepare_lang.py", "--token_type", "char"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=lang.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (lang / "hlg_3gram" / LEXICON).exists() and "data/lang_char/hlg_3gram: 3 words" in done.stdout
