"""Options of a recipe that are its corpus's: run.sh knows them from local/data.sh and hands them on to it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAYS = 'set -euo pipefail\nprintf \'%s|\' "$(realpath -- "$0")" "$@"\n'
SHARED = ["--seed", "0", "--num_jobs", "2", "--force", "false"]


@pytest.fixture
def tree(tmp_path):
    """Shell of the repository whose local/data.sh print their arguments, and an environment that needs no Python."""
    root = tmp_path / "lr sms"
    root.mkdir()
    shutil.copy2(ROOT / "run.sh", root)
    shutil.copytree(ROOT / "utils", root / "utils")
    (root / "path.sh").write_text(f"export LRSMS_ROOT='{root}'\npython=false\n")
    for path in (Path("local"), *(path.relative_to(ROOT) for path in ROOT.glob("egs/*/*/local"))):
        source = ROOT / path / "data.sh"
        data = root / path / "data.sh"
        data.parent.mkdir(parents=True)
        comment = [line for line in source.read_text().splitlines() if line.startswith("#")]
        data.write_text("\n".join(comment) + "\n" + SAYS)
        data.chmod(0o755)
        if (ROOT / path.parent / "run.sh").exists() and path.parent.name:
            shutil.copy2(ROOT / path.parent / "run.sh", root / path.parent)
    return root


def run(tree, *command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "LRSMS_COMMAND"}
    command = [str(tree / command[0]), *command[1:], "--nj", "2", "--stop-stage", "0"]
    return subprocess.run(command, cwd=cwd or tree, env=environment, capture_output=True, text=True)


def handed_on(tree, *command, cwd=None):
    """Which data.sh was called, and with what beside the options that all corpora share."""
    done = run(tree, *command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    script, *arguments = done.stdout.removesuffix("|").split("|")
    assert arguments[:6] == SHARED
    return script, arguments[6:]


def test_a_recipe_without_a_local_of_its_own_has_the_root_s(tree):
    (tree / "egs/yesno/asr1/local/data.sh").unlink()
    assert handed_on(tree, "egs/yesno/asr1/run.sh") == (str(tree / "local/data.sh"), [])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["run.sh"], []),
        (["run.sh", "--num-train", "200", "--num_dev=5"], ["--num_train", "200", "--num_dev", "5"]),
        (["run.sh", "--num-train", "200", "--num-train", "9"], ["--num_train", "9"]),
        (["run.sh", "--corpus", "yesno", "--mini", "false"], ["--corpus", "yesno", "--mini", "false"]),
        (["egs/librispeech/asr1/run.sh", "--mini"], ["--mini", "true"]),
        (["egs/librispeech/asr1/run.sh", "--mini", "--train-parts", "a b"], ["--mini", "true", "--train_parts", "a b"]),
        (["egs/librispeech/asr1/run.sh", "--mini=false"], ["--mini", "false"]),
        (["egs/grid/avsr1/run.sh"], ["--mouth_size", "96"]),
        (["egs/grid/avsr1/run.sh", "--mouth-size", "48"], ["--mouth_size", "48"]),
        (["egs/grid/avsr1/run.sh", "--mouth-size", ""], []),
        (["egs/grid/asr1/run.sh", "--num_train=5"], ["--num_train", "5"]),  # which its module refuses
        (["run.sh", "--local-data-opts", "--num_test 3 --num_dev 4"], ["--num_test", "3", "--num_dev", "4"]),
    ],
)
def test_options_of_the_corpus_reach_its_data_sh(tree, command, expected):
    script, arguments = handed_on(tree, *command)
    assert Path(script) == (tree / command[0]).parent / "local/data.sh" and arguments == expected


@pytest.mark.parametrize("option", ["--corpus-dir", "--corpus_dir"])
@pytest.mark.parametrize("joined", [True, False])
def test_folders_are_relative_to_where_the_user_is(tree, tmp_path, option, joined):
    (tmp_path / "else where").mkdir()
    words = [f"{option}=my corpus"] if joined else [option, "my corpus"]
    _, arguments = handed_on(tree, "egs/grid/asr1/run.sh", *words, cwd=tmp_path / "else where")
    assert arguments == ["--corpus_dir", str(tmp_path / "else where" / "my corpus")]


def test_a_recipe_elsewhere_has_its_own_local_first(tree, tmp_path):
    recipe = tmp_path / "my recipe"
    (recipe / "local").mkdir(parents=True)
    assert run(tree, "run.sh", "--recipe-dir", str(recipe), "--dialect", "x").returncode == 1
    (recipe / "local/data.sh").write_text(f"#!/usr/bin/env bash\n# Mine:\n#   --dialect NAME   which\n{SAYS}")
    (recipe / "local/data.sh").chmod(0o755)
    script, arguments = handed_on(tree, "run.sh", "--recipe-dir", str(recipe), "--dialect", "x", "--corpus-dir", "/c")
    assert (script, arguments) == (str(recipe / "local/data.sh"), ["--dialect", "x", "--corpus_dir", "/c"])
    assert "--dialect NAME   which" in run(tree, "run.sh", "--recipe-dir", str(recipe), "--help").stdout


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["egs/librispeech/asr1/run.sh", "--mini", "maybe"], "error: run.sh: --mini maybe: write true or false"),
        (["egs/grid/asr1/run.sh", "--corpus-dir"], "error: run.sh: --corpus-dir needs a value"),
        (["egs/grid/asr1/run.sh", "--corps-dir", "x"], "error: run.sh: unknown option --corps-dir; valid: --check"),
    ],
)
def test_wrong_options_are_named(tree, command, error):
    done = subprocess.run([str(tree / command[0]), *command[1:]], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(error), done.stderr
    assert "corps" not in error or "--corpus_dir" in done.stderr  # valid ones are the corpus's as well


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs/*/*/run.sh")) + [ROOT / "run.sh"], ids=lambda p: str(p.parent))
def test_help_names_the_options_of_the_corpus(path, tree):
    done = run(tree, str(path.relative_to(ROOT)), "--help")
    assert done.returncode == 0 and "--train_config" in done.stdout and "--num_jobs" not in done.stdout
    for line in (path.parent / "local/data.sh").read_text().splitlines():
        if line.startswith("#   --"):
            assert line.removeprefix("# ") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], ""),
        (["--mini", "true"], "true"),
        (["--mini=false"], "false"),
        (["--mini"], "true"),
        (["--mini", "--stage", "1"], "true"),
        (["--mini", "true", "--mini", "false"], "false"),
        (["--tag", "--mini=true x"], "true x"),  # as parse_options.sh reads it: --tag lacks its value
        (["--tag", "a --mini true"], ""),
        (["--mi-ni", "1"], ""),
    ],
)
def test_the_value_of_one_option(arguments, value):
    code = '. utils/option_value.sh; option_value mini "$@"'
    done = subprocess.run(["bash", "-euc", code, "bash", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, value)


def test_mini_librispeech_has_defaults_of_its_own(tree):
    """They come before the user's own options."""
    (tree / "egs/librispeech/asr1/local/data.sh").write_text("#!/usr/bin/env bash\n#   --mini true|false   x\nexit 9\n")
    (tree / "run.sh").write_text("#!/usr/bin/env bash\nprintf '%s|' \"$@\"\n")
    for arguments, vocabulary in ([["--mini"], "300"], [["--mini", "false"], "500"], [["--tag", "x --mini"], "500"]):
        done = subprocess.run([str(tree / "egs/librispeech/asr1/run.sh"), *arguments], capture_output=True, text=True)
        words = done.stdout.removesuffix("|").split("|")
        assert words[words.index("--vocab-size") + 1] == vocabulary and words[-len(arguments) :] == arguments
