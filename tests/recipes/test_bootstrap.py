"""utils/parse_options.sh, and which Python utils/bootstrap.sh chooses; with made-up Pythons, nothing is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL_FILES = ("path.sh", "utils/bootstrap.sh", "utils/test.sh", "utils/constraints.txt", "pyproject.toml")
TOOLS = ("bash", "cat", "cksum", "cp", "dirname", "env", "flock", "mkdir", "nproc", "rm", "sleep", "touch")

# Answers what bootstrap.sh asks of a Python. Files in $STATE say how: missing (module names), old, novenv, pipfails.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$1 $2" in
  "-V "*) echo "Python 3.8.1" ;;
  "-c "*find_spec*) cat "$STATE/missing" 2>/dev/null || true ;;
  "-c "*version_info*) [ ! -e "$STATE/old" ] ;;
  "-c "*ensurepip*) [ ! -e "$STATE/novenv" ] ;;
  "-m venv") mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  "-m pip") echo "$PWD: ${*:3}" >>"$STATE/pip"; sleep 0.2; [ ! -e "$STATE/pipfails" ] ;;
  *) echo "ran: $*" ;;
esac
"""


class Sandbox:
    """A copy of the shell files, a PATH with a made-up python3 and few tools, and no inherited environment."""

    def __init__(self, folder: Path):
        self.repo, self.bin, self.state = folder / "repo", folder / "bin", folder / "state"
        (self.repo / "utils").mkdir(parents=True)
        (self.repo / "egs/tiny/asr1").mkdir(parents=True)
        self.state.mkdir()
        for name in SHELL_FILES:
            shutil.copyfile(ROOT / name, self.repo / name)
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.add_python(self.bin / "python3")

    def add_python(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_PYTHON)
        path.chmod(0o755)
        return path

    def environment(self, variables: dict) -> dict:
        given = {key: str(value) for key, value in variables.items()}
        return {"PATH": str(self.bin), "STATE": str(self.state), **given}

    def start(self, script: str = '. ../../../path.sh; echo "python=$python"', **variables) -> subprocess.Popen:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        folder = self.repo / "egs/tiny/asr1"
        return subprocess.Popen(["bash", "-euc", script], cwd=folder, env=self.environment(variables), **streams)

    def run(self, *args, **variables) -> subprocess.CompletedProcess:
        process = self.start(*args, **variables)
        out, err = process.communicate(timeout=20)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def pip_calls(self) -> list[str]:
        log = self.state / "pip"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path / "with space")


def test_every_dependency_is_looked_for():
    modules = {"espnet": "espnet2", "pyyaml": "yaml", "opencv-python-headless": "cv2"}
    dependencies = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    names = set(re.findall(r'^\s*"([\w-]+)', dependencies, re.MULTILINE))
    looked_for = (ROOT / "utils/bootstrap.sh").read_text().split('_modules="')[1].split('"')[0].split()
    assert {modules.get(name, name.replace("-", "_")) for name in names} <= set(looked_for)


def test_constraints_pin_every_dependency():
    lines = (ROOT / "utils/constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    names = {line.split("==")[0].lower() for line in pins}
    dependencies = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    assert set(re.findall(r'^\s*"([\w-]+)', dependencies, re.MULTILINE)) <= names
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+(; python_version [=<>]+ "[\d.]+")?', line) for line in pins)


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX", "LRSMS_PYTHON"])
def test_a_complete_environment_of_the_user_is_used(sandbox, tmp_path, variable):
    python = sandbox.add_python(tmp_path / "mine/bin/python")
    done = sandbox.run(**{variable: python if variable == "LRSMS_PYTHON" else tmp_path / "mine"})
    assert (done.returncode, done.stdout) == (0, f"python={python}\n"), done.stderr
    assert not sandbox.pip_calls()


def test_nothing_is_installed_in_an_environment_of_the_user(sandbox, tmp_path):
    python = sandbox.add_python(tmp_path / "mine/bin/python")
    (sandbox.state / "missing").write_text("lhotse kaldialign\n")
    done = sandbox.run(VIRTUAL_ENV=tmp_path / "mine")
    assert done.returncode == 1 and done.stdout == ""
    assert "lacks: lhotse kaldialign" in done.stderr
    assert f"{python} -m pip install -c utils/constraints.txt -e ." in done.stderr
    assert not sandbox.pip_calls() and not (sandbox.repo / ".venv").exists()


def test_the_command_that_installs_can_be_pasted(sandbox, tmp_path):
    sandbox.add_python(tmp_path / "mine/bin/python")
    (sandbox.state / "missing").write_text("lhotse\n")
    error = sandbox.run(VIRTUAL_ENV=tmp_path / "mine").stderr
    command = next(line for line in error.splitlines() if "pip install" in line)
    assert sandbox.run(command).returncode == 0
    assert sandbox.pip_calls() == [f"{sandbox.repo}: install -c utils/constraints.txt -e ."]


@pytest.mark.parametrize(
    "state, message", [("absent", "not an executable Python"), ("old", "not a working Python 3.10")]
)
def test_a_python_that_cannot_be_used_is_named(sandbox, tmp_path, state, message):
    python = tmp_path / "mine/bin/python"
    if state == "old":
        sandbox.add_python(python)
        (sandbox.state / "old").touch()
    done = sandbox.run(LRSMS_PYTHON=python)
    assert done.returncode == 1
    assert message in done.stderr and str(python) in done.stderr and "LRSMS_PYTHON" in done.stderr


def test_python3_with_everything_installed_is_used(sandbox):
    done = sandbox.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "python=python3\n", "")


def test_venv_is_made_once_with_one_line_about_it(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    first = sandbox.run()
    venv = sandbox.repo / ".venv"
    assert (first.returncode, first.stdout) == (0, f"python={venv}/bin/python\n")
    assert len(first.stderr.splitlines()) == 1 and "5.5 GB" in first.stderr
    assert len(sandbox.pip_calls()) == 1 and sandbox.pip_calls()[0].endswith("-c utils/constraints.txt -e .[test]")
    second = sandbox.run()
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert sandbox.run(VIRTUAL_ENV=venv).stdout == first.stdout
    assert len(sandbox.pip_calls()) == 1


def test_an_unfinished_installation_is_completed(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    (sandbox.state / "pipfails").touch()
    failed = sandbox.run()
    assert failed.returncode == 1 and "run the same command again" in failed.stderr and failed.stdout == ""
    (sandbox.state / "pipfails").unlink()
    assert sandbox.run().returncode == 0
    assert len(sandbox.pip_calls()) == 2


@pytest.mark.parametrize("file", ["pyproject.toml", "utils/constraints.txt"])
def test_changed_dependencies_are_installed(sandbox, file):
    (sandbox.state / "missing").write_text("lrsms\n")
    sandbox.run()
    with (sandbox.repo / file).open("a") as changed:
        changed.write("\n")
    sandbox.run()
    assert len(sandbox.pip_calls()) == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed here")
def test_two_recipes_started_together_install_once(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    together = [sandbox.start() for _ in range(2)]
    outputs = [process.communicate(timeout=20)[0] for process in together]
    assert outputs == [f"python={sandbox.repo}/.venv/bin/python\n"] * 2
    assert len(sandbox.pip_calls()) == 1


@pytest.mark.parametrize(
    "state, message",
    [("old", "Python 3.8.1; Python 3.10 or newer"), ("novenv", "python3-venv"), (None, "python3 was not found")],
)
def test_no_usable_python(sandbox, state, message):
    (sandbox.state / "missing").write_text("lrsms\n")
    if state is None:
        (sandbox.bin / "python3").unlink()
    else:
        (sandbox.state / state).touch()
    done = sandbox.run()
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_path_sh_sets_the_environment(sandbox):
    script = '. ../../../path.sh; . ../../../path.sh; echo "$LRSMS_ROOT|$PYTHONPATH|$OMP_NUM_THREADS"'
    assert sandbox.run(script, OMP_NUM_THREADS=9).stdout == f"{sandbox.repo}|{sandbox.repo}|9\n"
    root, path, threads = sandbox.run(script, PYTHONPATH="/mine").stdout.strip().split("|")
    assert path == f"{sandbox.repo}:/mine" and 1 <= int(threads) <= 4


def test_test_sh_runs_pytest_and_passes_options(sandbox):
    done = sandbox.run("bash ../../../utils/test.sh tests/scoring -x")
    assert re.fullmatch(
        r"ran: -m pytest -n [1-8] --dist loadfile --no-loadscope-reorder tests/scoring -x\n",
        done.stdout,
    )


def test_test_sh_names_missing_pytest(sandbox):
    complete = 'case "$*" in *" pytest "*) echo pytest_cov ;; esac'
    fake = sandbox.bin / "python3"
    fake.write_text(FAKE_PYTHON.replace('cat "$STATE/missing" 2>/dev/null || true', complete))
    done = sandbox.run("bash ../../../utils/test.sh")
    assert done.returncode == 1
    assert "lacks: pytest_cov" in done.stderr
    assert "python3 -m pip install -c utils/constraints.txt -e '.[test]'" in done.stderr


SCRIPT = r"""#!/usr/bin/env bash
# Usage: recipe.sh [options]
#
# Two lines of help.
set -eu
stage=0        # first stage
stop_stage=5
corpus_dir=
max_duration=100
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
    "args, expected",
    [
        ([], "0|5||100|false|--a b|0"),
        (["--stage", "2", "--stop-stage", "3"], "2|3||100|false|--a b|0"),
        (["--stop_stage=4", "--stop-stage=3"], "0|3||100|false|--a b|0"),
        (["--corpus-dir", "/my data/x=y"], "0|5|/my data/x=y|100|false|--a b|0"),
        (["--corpus-dir="], "0|5||100|false|--a b|0"),
        (["--max-duration", "62.5", "--stage", "-1"], "-1|5||62.5|false|--a b|0"),
        (["--force", "true"], "0|5||100|true|--a b|0"),
        (["--force", "--stage", "1"], "1|5||100|true|--a b|0"),
        (["--opts", "--max_epoch 3 $(touch never)"], "0|5||100|false|--max_epoch 3 $(touch never)|0"),
    ],
)
def test_options(recipe, args, expected):
    done = recipe(*args)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")


@pytest.mark.parametrize(
    "args, messages",
    [
        (["--stages", "1"], ["unknown option --stages", "--stage", "--stop_stage", "--force"]),
        (["--later", "2"], ["unknown option --later"]),
        (["--here", "/tmp"], ["unknown option --here"]),
        (["--PATH", "x"], ["unknown option --PATH"]),
        (["--force", "maybe"], ["--force maybe: write true or false"]),
        (["--stage", "two"], ["--stage 'two': write a number"]),
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
