"""The verbs of stages 0 to 2, as the shell runs them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from lrsms.bin import cuts, prepare, tokenize
from lrsms.data.corpora import digits
from lrsms.errors import LrsmsError


@pytest.fixture
def run(monkeypatch, capsys):
    def run_main(module, *options):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
        module.main()
        return capsys.readouterr().out

    return run_main


@pytest.fixture
def yesno_dir(tmp_path):
    folder = tmp_path / "waves_yesno"
    folder.mkdir()
    for bits in itertools.islice(itertools.product("10", repeat=8), 60):
        soundfile.write(folder / f"{'_'.join(bits)}.wav", np.zeros(1600), 8000)
    return folder


def test_stages_0_to_2_run_then_skip_then_run_when_forced_or_changed(run, yesno_dir, tmp_path):
    data = tmp_path / "data"
    stages = [
        (prepare, "--corpus", "yesno", "--corpus_dir", yesno_dir, "--output_dir", data),
        (cuts, "--data_dir", data, "--speed_perturb", "0.9 1.0 1.1"),
        (tokenize, "--data_dir", data, "--token_type", "word"),
    ]
    for stage in stages:
        assert "skipped" not in run(*stage)
        assert "up to date, skipped" in run(*stage)
    before = {path: path.read_bytes() for path in data.glob("*/*.jsonl.gz")}
    for stage in stages:
        assert "skipped" not in run(*stage, "--force", "true")
    assert len(before) == 9 and before == {path: path.read_bytes() for path in data.glob("*/*.jsonl.gz")}
    assert "skipped" not in run(cuts, "--data_dir", data, "--speed_perturb", "1.0")
    assert "skipped" not in run(*stages[2])  # the cuts have changed
    (data / "dev" / "supervisions.jsonl.gz").unlink()
    assert "skipped" not in run(*stages[0])
    assert (data / "lang_word" / "tokens.txt").read_text().split() == ["<blank>", "<unk>", "YES", "NO", "<sos/eos>"]


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("speechocean762", "expected train/wav.scp"),
        ("librispeech", "expected train-clean-100, dev-clean"),
        ("grid", "expected alignments"),
    ],
)
def test_each_corpus_says_what_layout_it_expects(run, tmp_path, corpus, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LrsmsError, match=message):
        run(prepare, "--corpus", corpus, "--output_dir", tmp_path / "data", "--corpus_dir", tmp_path / "empty")


def test_own_data_needs_a_folder(run, tmp_path):
    with pytest.raises(LrsmsError, match="one of --kaldi_dir and --manifest_dir"):
        run(prepare, "--corpus", "own_data", "--output_dir", tmp_path)


def test_digits_options_reach_the_generator(run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(digits, "prepare_digits", lambda output_dir, **options: calls.append((output_dir, options)))
    run(prepare, "--corpus", "digits", "--output_dir", tmp_path, "--num_train", 5, "--seed", 3, "--num_jobs", 1)
    assert calls == [(tmp_path, {"num_train": 5, "seed": 3, "num_jobs": 1})]  # the rest has defaults there


@pytest.mark.parametrize("num_jobs", [0, -1])
def test_num_jobs(run, tmp_path, num_jobs):
    with pytest.raises(LrsmsError, match="must be at least 1"):
        run(prepare, "--corpus", "grid", "--output_dir", tmp_path, "--num_jobs", num_jobs)


def test_an_option_of_another_corpus_is_refused(run, tmp_path):
    with pytest.raises(LrsmsError, match="--num_train is for digits, talking_digits; --corpus grid does not read it"):
        run(prepare, "--corpus", "grid", "--output_dir", tmp_path, "--num_train", 5)


def test_empty_corpus_dir_is_the_same_as_none(run, tmp_path):
    with pytest.raises(LrsmsError, match="--corpus_dir is not given"):
        run(prepare, "--corpus", "grid", "--output_dir", tmp_path, "--corpus_dir", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--speed_perturb", "fast"), "expected numbers"),
        (("--speed_perturb", "1.0 1.0"), "expected different factors"),
        (("--fs", "0"), "--fs 0"),
        (("--train_splits", ""), "name at least one split"),
        (("--eval_splits", "train"), "share train"),
    ],
)
def test_cuts_options(run, tmp_path, options, message):
    with pytest.raises(LrsmsError, match=message):
        run(cuts, "--data_dir", tmp_path, *options)


@pytest.mark.parametrize("verb", ["prepare", "cuts", "tokenize"])
def test_help_imports_nothing_heavy(verb):
    code = (
        f"import sys, runpy; sys.argv = ['{verb}', '--help']\n"
        f"try: runpy.run_module('lrsms.bin.{verb}', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'lhotse', 'espnet2', 'sentencepiece'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")


def test_an_error_is_one_line_and_status_1(tmp_path, run_module):
    options = ["--corpus", "yesno", "--output_dir", tmp_path / "data", "--corpus_dir", tmp_path / "nowhere"]
    done = run_module("lrsms.bin.prepare", *options, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
