"""What the corpora share as commands."""

import json

import pytest

from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.errors import LrsmsError


@pytest.fixture
def parser():
    parser = CorpusParser("grid", "A corpus.")
    parser.add_source("--corpus_dir")
    parser.add_count("--mouth_size")
    return parser


@pytest.mark.parametrize(
    ("option", "readers"),
    [
        (["--num_train", "5"], "--num_train is for digits, talking_digits; --corpus grid"),
        (["--num-train=5"], "--num_train is for digits, talking_digits; --corpus grid"),
        (["--mini"], "--mini is for librispeech; --corpus grid"),
        (["--kaldi-dir", "x", "--mini", "false"], "--kaldi_dir is for own_data; --corpus grid"),
    ],
)
def test_options_of_other_corpora_are_refused(parser, option, readers):
    with pytest.raises(LrsmsError, match=f"{readers} does not read it"):
        parser.parse(["--output_dir", "data", *option])


def test_empty_options_of_other_corpora_and_switches_that_are_off_do_no_harm(parser):
    args = parser.parse(["--output-dir", "data", "--mini", "false", "--train-parts", "", "--corpus-dir", ""])
    assert args.corpus_dir is None and not hasattr(args, "mini")


def test_unknown_options_are_argparse_errors(parser, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse(["--output_dir", "data", "--mouht-size", "9"])
    assert stop.value.code == 2 and "unrecognized arguments: --mouht-size" in capsys.readouterr().err


def test_the_name_of_another_corpus_is_refused(parser):
    assert parser.parse(["--output_dir", "data", "--corpus", "grid"]).mouth_size is None
    with pytest.raises(LrsmsError, match="--corpus yesno: this is grid; run the recipe in egs/yesno"):
        parser.parse(["--output_dir", "data", "--corpus", "yesno"])


@pytest.mark.parametrize("option", ["--mouth_size", "--num_jobs"])
def test_counts_start_at_1(parser, option):
    with pytest.raises(LrsmsError, match=f"{option} 0: must be at least 1"):
        parser.parse(["--output_dir", "data", option, "0"])


def test_a_stage_runs_again_when_options_sources_or_outputs_change(parser, tmp_path, capsys):
    calls = []
    source, output = tmp_path / "corpus", tmp_path / "data"
    source.mkdir()

    def prepare(args):
        calls.append(args.mouth_size)
        (output / "train").mkdir(parents=True, exist_ok=True)
        (output / "train" / "recordings.jsonl.gz").write_bytes(b"")

    def run(*options):
        before = len(calls)
        run_corpus(parser, prepare, ["--output_dir", str(output), "--corpus_dir", str(source), *options])
        assert ("skipped" in capsys.readouterr().out) == (len(calls) == before)
        return len(calls) - before

    assert [run(), run(), run("--num_jobs", "3"), run("--force"), run("--mouth_size", "48")] == [1, 0, 0, 1, 1]
    (source / "new.wav").touch()
    assert [run("--mouth_size", "48"), run("--mouth_size", "48")] == [1, 0]
    (output / "train" / "recordings.jsonl.gz").unlink()
    assert [run("--mouth_size", "48"), run("--mouth_size", "48")] == [1, 0]


def test_stamps_are_those_of_the_parser_that_all_corpora_shared(parser, tmp_path):
    """A folder that was prepared before each corpus had options of its own is not prepared again."""
    run_corpus(parser, lambda args: None, ["--output_dir", str(tmp_path)])
    stamp = json.loads((tmp_path / ".stamps/prepare.json").read_text())
    absent = ("corpus_dir", "download_dir", "kaldi_dir", "lists_dir", "manifest_dir", "mouth_size", "train_parts")
    counts = ("num_train", "num_dev", "num_test")
    expected = dict.fromkeys((*absent, *counts), "None")
    assert stamp["arguments"] == {**expected, "corpus": "grid", "mini": "False", "seed": "0"}
