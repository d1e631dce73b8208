"""utils/parse_options.sh: the options of every recipe."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = r"""#!/usr/bin/env bash
# Usage: recipe.sh [options]
#
# Two lines of help.
set -eu
stage=0        # first stage
stop_stage=5
corpus_dir=
max_duration=100.0
force=false    # run again
opts="--a b"
here=$(pwd)
. PARSER
later=1
echo "$stage|$stop_stage|$corpus_dir|$max_duration|$force|$opts|$#"
"""


@pytest.fixture
def recipe(tmp_path):
    script = tmp_path / "recipe.sh"
    script.write_text(SCRIPT.replace("PARSER", str(ROOT / "utils/parse_options.sh")))
    return lambda *args: subprocess.run(["bash", script, *args], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "0|5||100.0|false|--a b|0"),
        (["--stage", "2", "--stop-stage", "3"], "2|3||100.0|false|--a b|0"),
        (["--stop_stage=4", "--stop-stage=3"], "0|3||100.0|false|--a b|0"),
        (["--corpus-dir", "/my data/x=y"], "0|5|/my data/x=y|100.0|false|--a b|0"),
        (["--corpus-dir="], "0|5||100.0|false|--a b|0"),
        (["--max-duration", "62.5", "--stage", "-1"], "-1|5||62.5|false|--a b|0"),
        (["--force", "true"], "0|5||100.0|true|--a b|0"),
        (["--force", "--stage", "1"], "1|5||100.0|true|--a b|0"),
        (["--opts", "--max_epoch 3 $(touch never)"], "0|5||100.0|false|--max_epoch 3 $(touch never)|0"),
    ],
)
def test_options(recipe, args, expected):
    done = recipe(*args)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (["--stages", "1"], ["unknown option --stages", "--stage", "--stop_stage", "--force"]),
        (["--later", "2"], ["unknown option --later"]),
        (["--here", "/tmp"], ["unknown option --here"]),
        (["--PATH", "x"], ["unknown option --PATH"]),
        (["--force", "maybe"], ["--force maybe: write true or false"]),
        (["--stage", "two"], ["--stage 'two': write a whole number"]),
        (["--stage", "1.5"], ["--stage '1.5': write a whole number"]),
        (["--max-duration", "long"], ["--max-duration 'long': write a number"]),
        (["--stage"], ["--stage needs a value"]),
        (["--stage", "--force"], ["--stage needs a value"]),
        (["train"], ["unexpected argument 'train'"]),
    ],
)
def test_wrong_options_are_named(recipe, args, messages):
    done = recipe(*args)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: recipe.sh: ") and len(done.stderr.splitlines()) == 1
    assert all(message in done.stderr for message in messages)


def test_help_is_the_leading_comment_and_the_options(recipe):
    done = recipe("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: recipe.sh [options]\n\nTwo lines of help.\n")
    assert re.search(r"^  --stage +0 +# first stage$", done.stdout, re.MULTILINE)
    assert "--later" not in done.stdout
