"""Which Python utils/bootstrap.sh chooses, and what it installs; with made-up Pythons, nothing is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
SHELL_FILES = ("path.sh", "utils/bootstrap.sh", "utils/test.sh", "utils/requirements.txt", "pyproject.toml")
TOOLS = [
    "bash",
    "cat",
    "cksum",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "mkdir",
    "nproc",
    "rm",
    "sleep",
    "tail",
    "tee",
    "touch",
]
DEBIAN_13, FORKY = "ID=debian\nVERSION_CODENAME=trixie\n", "ID=debian\nVERSION_CODENAME=forky\n"
NEEDED = "error: Python 3.11, 3.12 or 3.13 is needed"

# Answers what bootstrap.sh asks of a Python; its version stands in the first line of the file NAME.version beside it.
# Files in $STATE say how: missing (module names), novenv (versions), pipfails (what pip then says).
FAKE_PYTHON = r"""#!/usr/bin/env bash
read -r version <"$0.version"
case "$1 $2" in
  "-c "*find_spec*) cat "$STATE/missing" 2>/dev/null || true ;;
  "-c "*implementation*)
    case "$version" in
      broken) echo "pyenv: python3: command not found" >&2; exit 127 ;;
      3.11 | 3.12 | 3.13) ;;
      *) echo "is Python $version" ;;
    esac ;;
  "-c "*ensurepip*) ! grep -qsF "$version" "$STATE/novenv" ;;
  "-c "*version_info*) echo "$version" ;;
  "-m venv")
    bin=${@: -1}/bin
    mkdir -p "$bin" && cp "$0" "$bin/python" && cp "$0.version" "$bin/python.version" ;;
  "-m pip") echo "$PWD: ${*:3}" >>"$STATE/pip"; sleep 0.1; ! cat "$STATE/pipfails" >&2 2>/dev/null ;;
  *) echo "ran: $*" ;;
esac
"""
FAKE_DF = """#!/usr/bin/env bash
read -r kilobytes <"$STATE/free"
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "/dev/disk 900000000 1 $kilobytes 1% /"
"""
PIN = "install -q --disable-pip-version-check -c utils/requirements.txt setuptools"
ALL = "install -q --disable-pip-version-check --no-deps --no-build-isolation -r utils/requirements.txt -e ."


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
        self.add_command("df", FAKE_DF)
        (self.state / "free").write_text("99000000\n")
        self.add_python(self.bin / "python3")
        self.set_distribution(FORKY)

    def add_command(self, name: str, text: str = "") -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def add_python(self, path: Path, version: str = "3.13") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_PYTHON)
        path.chmod(0o755)
        path.with_name(path.name + ".version").write_text(f"{version}\n")
        return path

    def set_pythons(self, **versions: str) -> None:
        """Put these Pythons, written python3_11="3.11", on PATH instead of python3; none has the package installed."""
        (self.bin / "python3").unlink()
        for name, version in versions.items():
            self.add_python(self.bin / name.replace("_", "."), version)
        (self.state / "missing").write_text("lrsms\n")

    def set_distribution(self, os_release: str) -> None:
        (self.state / "os-release").write_text(os_release)
        script = (ROOT / "utils/bootstrap.sh").read_text()
        assert "=/etc/os-release\n" in script
        (self.repo / "utils/bootstrap.sh").write_text(script.replace("/etc/os-release", '"$STATE/os-release"'))

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


def test_requirements_pin_every_dependency_once_for_each_python():
    pins = [Requirement(line) for line in (ROOT / "utils/requirements.txt").read_text().splitlines() if line[0] != "#"]
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = project.split("dependencies = [")[1].split("]")[0]
    extras = ["pytest", "pytest-cov", "pytest-xdist", "onnx", "onnxruntime", "sherpa-onnx", "setuptools"]
    wanted = [Requirement(text) for text in re.findall(r'^\s*"([^"]+)"', dependencies, re.MULTILINE) + extras]
    for python in ("3.11", "3.12", "3.13"):
        machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
        holds = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
        versions = {pin.name: str(pin.specifier) for pin in holds}
        assert len(versions) == len(holds) and all(re.fullmatch(r"==[\w.]+", pin) for pin in versions.values())
        for requirement in wanted:
            if requirement.marker is None or requirement.marker.evaluate(machine):
                assert requirement.specifier.contains(versions[requirement.name][2:]), f"{requirement} on {python}"
        assert versions["torch"] == versions["torchaudio"]
        assert "pyworld" not in versions  # has no wheel for 3.11: it would need a compiler


def test_requires_python_is_what_bootstrap_takes():
    span = SpecifierSet(re.search(r'requires-python = "(.*?)"', (ROOT / "pyproject.toml").read_text())[1])
    accepted = [f"3.{minor}" for minor in range(9, 16) if f"3.{minor}.1" in span]
    assert accepted == ["3.11", "3.12", "3.13"]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    assert set(re.findall(r'"(3\.\d+)"', workflow)) <= set(accepted)


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
    assert f"{python} -m pip install --no-deps -r utils/requirements.txt -e ." in done.stderr
    assert not sandbox.pip_calls() and not (sandbox.repo / ".venv").exists()


def test_the_command_that_installs_can_be_pasted(sandbox, tmp_path):
    sandbox.add_python(tmp_path / "mine/bin/python")
    (sandbox.state / "missing").write_text("lhotse\n")
    error = sandbox.run(VIRTUAL_ENV=tmp_path / "mine").stderr
    command = next(line for line in error.splitlines() if "pip install" in line)
    assert sandbox.run(command).returncode == 0
    assert sandbox.pip_calls() == [f"{sandbox.repo}: install --no-deps -r utils/requirements.txt -e ."]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "which is not an executable Python"),
        ("broken", "does not start"),
        ("3.10", "is Python 3.10; Python 3.11, 3.12 or 3.13 is needed"),
        ("3.14", "is Python 3.14; Python 3.11, 3.12 or 3.13 is needed"),
    ],
)
def test_a_python_of_the_user_that_cannot_be_used_is_named(sandbox, tmp_path, version, message):
    python = tmp_path / "mine/bin/python"
    if version is not None:
        sandbox.add_python(python, version)
    done = sandbox.run(LRSMS_PYTHON=python)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr and str(python) in done.stderr and "LRSMS_PYTHON" in done.stderr


def test_python3_with_everything_installed_is_used(sandbox):
    done = sandbox.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "python=python3\n", "")


def test_venv_is_made_once_with_one_line_about_it(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    first = sandbox.run()
    venv = sandbox.repo / ".venv"
    assert (first.returncode, first.stdout) == (0, f"python={venv}/bin/python\n")
    assert len(first.stderr.splitlines()) == 1 and "GB" in first.stderr
    assert sandbox.pip_calls() == [f"{sandbox.repo}: {PIN}", f"{sandbox.repo}: {ALL}"]
    second = sandbox.run()
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert sandbox.run(VIRTUAL_ENV=venv).stdout == first.stdout
    assert len(sandbox.pip_calls()) == 2


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3": "3.14", "python3_12": "3.12"}, "python3.12"),
        ({"python3": "3.9", "python3_13": "3.13"}, "python3.13"),
        ({"python3": "3.13", "python3_11": "broken", "python3_12": "broken"}, "python3"),
        ({"python3": "broken", "python3_13": "broken", "python3_11": "3.11", "python3_12": "3.12"}, "python3.12"),
        ({"python3": "3.11", "python3_12": "3.12"}, "python3.12"),  # 3.11 without venv
        ({"python3": "3.12", "python3_13": "3.13"}, "python3"),
        ({"python": "3.12"}, "python"),
    ],
)
def test_the_first_python_that_works_is_taken(sandbox, pythons, chosen):
    sandbox.set_pythons(**pythons)
    (sandbox.state / "novenv").write_text("3.11\n")
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert f"into .venv with {chosen}:" in done.stderr
    assert (sandbox.repo / ".venv/bin/python.version").read_text() == f"{pythons[chosen.replace('.', '_')]}\n"


@pytest.mark.parametrize("left_behind", ["3.10", "3.14", "broken"])
def test_a_venv_of_a_python_that_cannot_be_used_is_made_again(sandbox, left_behind):
    sandbox.set_pythons(python3_12="3.12")
    sandbox.add_python(sandbox.repo / ".venv/bin/python", left_behind)
    assert sandbox.run().returncode == 0
    assert (sandbox.repo / ".venv/bin/python.version").read_text() == "3.12\n"


@pytest.mark.parametrize(
    ("pythons", "distribution", "manager", "reason", "command"),
    [
        ({}, FORKY, "", "no python3 is found", "uv python install 3.13"),
        ({"python3": "3.14"}, FORKY, "", "python3 is Python 3.14", "uv python install 3.13"),
        ({"python3": "3.14"}, FORKY, "apt-get", "python3 is Python 3.14", "uv python install 3.13"),
        ({"python3": "3.14"}, DEBIAN_13, "apt-get", "python3 is Python 3.14", "apt-get install -y python3.13-venv"),
        (
            {"python3": "3.9", "python3_13": "broken"},
            "",
            "dnf",
            "python3 is Python 3.9, python3.13 does not start",
            "dnf install",
        ),
        ({"python3": "3.9"}, "", "brew", "python3 is Python 3.9", "brew install python@3.13"),
        ({"python3": "3.11"}, FORKY, "apt-get", "python3 lacks the module venv", "apt-get install -y python3.11-venv"),
    ],
)
def test_without_a_python_one_sentence_says_why_and_what_installs_one(
    sandbox, pythons, distribution, manager, reason, command
):
    sandbox.set_pythons(**pythons)
    sandbox.set_distribution(distribution)
    (sandbox.state / "novenv").write_text("3.11\n")
    if manager:
        sandbox.add_command(manager)
    done = sandbox.run()
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(NEEDED) and "Nothing was downloaded" in done.stderr
    assert reason in done.stderr and command in done.stderr
    assert not sandbox.pip_calls() and not (sandbox.repo / ".venv").exists()


def test_a_full_disk_is_said_before_anything_is_downloaded(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    (sandbox.state / "free").write_text("3000000\n")
    done = sandbox.run()
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "GB of disk space" in done.stderr and f"{sandbox.repo} has 3 GB" in done.stderr
    assert not sandbox.pip_calls() and not (sandbox.repo / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: Could not install: HTTPSConnectionPool(host='x'): Read timed out.", "run the same command again"),
        ("WARNING: Retrying after connection broken\nERROR: No matching distribution", "run the same command again"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "make room"),
        ("ERROR: Could not fetch: CERTIFICATE_VERIFY_FAILED, connection", "set PIP_CERT"),
        ("note: a hint\nERROR: No matching distribution found for torch==2.11.0\n", "pip says: ERROR: No matching"),
    ],
)
def test_advice_after_a_failed_installation_and_its_completion(sandbox, said, advice):
    (sandbox.state / "missing").write_text("lrsms\n")
    (sandbox.state / "pipfails").write_text(said)
    failed = sandbox.run()
    assert failed.returncode == 1 and failed.stdout == ""
    assert said in failed.stderr and advice in failed.stderr.splitlines()[-1]
    assert len(sandbox.pip_calls()) == 1
    (sandbox.state / "pipfails").unlink()
    assert sandbox.run().returncode == 0
    assert len(sandbox.pip_calls()) == 3


@pytest.mark.parametrize("file", ["pyproject.toml", "utils/requirements.txt"])
def test_changed_dependencies_are_installed(sandbox, file):
    (sandbox.state / "missing").write_text("lrsms\n")
    sandbox.run()
    with (sandbox.repo / file).open("a") as changed:
        changed.write("\n")
    sandbox.run()
    assert len(sandbox.pip_calls()) == 4


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed here")
def test_two_recipes_started_together_install_once(sandbox):
    (sandbox.state / "missing").write_text("lrsms\n")
    together = [sandbox.start() for _ in range(2)]
    outputs = [process.communicate(timeout=20)[0] for process in together]
    assert outputs == [f"python={sandbox.repo}/.venv/bin/python\n"] * 2
    assert len(sandbox.pip_calls()) == 2


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
    assert "python3 -m pip install --no-deps -r utils/requirements.txt -e ." in done.stderr
