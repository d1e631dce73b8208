"""What holds for every corpus, found by its module and its recipes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lrsms.data.corpus_command import corpus_names, parser_of

ROOT = Path(__file__).resolve().parents[3]
CORPORA = corpus_names()
SCRIPTS = {path: path.read_text() for path in sorted([*ROOT.glob("egs/*/*/local/data.sh"), ROOT / "local/data.sh"])}
_CORPUS = re.compile(r"lrsms\.data\.corpora\.(\w+) --output_dir data|--corpus (\w+) --output_dir data")
_OPTION = re.compile(r"^#   (--[\w-]+) (\S+) +\S.*$", re.MULTILINE)


def corpus_of(script: str) -> str:
    names, *_ = _CORPUS.findall(script)  # others may stand beside it
    return "".join(names)


def test_there_are_corpora_and_each_has_a_recipe():
    assert len(CORPORA) >= 8 and {corpus_of(script) for script in SCRIPTS.values()} == set(CORPORA)


@pytest.mark.parametrize("corpus", CORPORA)
def test_help_imports_nothing_heavy(corpus):
    code = (
        f"import sys, runpy; sys.argv = ['{corpus}', '--help']\n"
        f"try: runpy.run_module('lrsms.data.corpora.{corpus}', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'lhotse', 'espnet2', 'sentencepiece'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"lrsms.data.corpora.{corpus}" in out and out.strip().endswith("[]")


@pytest.mark.parametrize("corpus", CORPORA)
def test_options_are_written_with_dashes_or_underscores(corpus):
    parser = parser_of(corpus)
    for dir_option in ("--output-dir", "--output_dir"):
        for jobs in (["--num-jobs", "3"], ["--num_jobs=3"]):
            args = parser.parse([dir_option, "some-where", *jobs, "--force"])
            assert (args.output_dir, args.num_jobs, args.force) == (Path("some-where"), 3, True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_name_the_options_of_their_corpus(path):
    """run.sh reads the comment to know which options are the corpus's, and what each of them takes."""
    parser = parser_of(corpus_of(SCRIPTS[path]))
    named = dict(_OPTION.findall(SCRIPTS[path]))
    named.pop("--corpus", None)  # of lrsms.bin.prepare
    # Of lrsms.bin.import_whisper, and of the corpus beside it.
    for option in ("--whisper-model", "--whisper-vocabulary", "--speechocean-dir"):
        named.pop(option, None)
    shared = {"--help", "--corpus", "--output_dir", "--seed", "--num_jobs", "--force", "--download_dir", "--lists_dir"}
    options = {name for action in parser._actions for name in action.option_strings if name.startswith("--")} - shared
    assert {name.replace("-", "_").replace("__", "--", 1) for name in named} == options
    for name, value in named.items():
        option = name[2:].replace("-", "_")
        assert (value == "DIR") == (option in parser.sources) and (value == "N") == (option in parser.counts)
        assert (value == "true|false") == (parser.get_default(option) is False)
    assert path.stat().st_mode & 0o100, f"{path} cannot be executed"
