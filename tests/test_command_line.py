import os
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from lrsms import provenance
from lrsms.bin import run_verb, str2bool
from lrsms.errors import LrsmsError

VERBS = (
    *("prepare", "cuts", "tokenize", "train", "decode", "score", "sweep", "plan", "export", "compress"),
    *("conditions", "utterance", "transcribe", "export_kaldi", "graph"),
)


def output_of(code: str, folder: Path) -> str:
    """What a Python of its own prints when it runs ``code``, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb, root):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{verb}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('lrsms.bin.{verb}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'espnet2', 'lhotse', 'matplotlib', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "usage" in output_of(code, root).lower()


def test_the_package_alone_imports_nothing(root):
    code = (
        "import sys, lrsms\n"
        "assert not {'torch', 'espnet2', 'lhotse', 'lrsms.espnet'} & set(sys.modules)\n"
        "try:\n"
        "    lrsms.Recognizr\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    assert "no attribute 'Recognizr'" in output_of(code, root)


def test_low_rank_core_needs_torch_only(root):
    code = (
        "import sys, lrsms.lowrank\n"
        "ours = {name for name in sys.modules if name.startswith('lrsms.')}\n"
        "assert all(n.startswith(('lrsms.lowrank', 'lrsms.errors')) for n in ours), ours\n"
        "assert not {'espnet2', 'lhotse', 'torchaudio'} & set(sys.modules)\n"
    )
    output_of(code, root)


def test_users_error_is_one_line_and_status_1(capsys):
    def main():
        raise LrsmsError("conf/x.yaml: ratio 2")

    with pytest.raises(SystemExit) as stop:
        run_verb(main)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: conf/x.yaml: ratio 2\n"


def test_interrupt_says_how_to_go_on(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_verb(main)
    assert stop.value.code == 130
    assert "go on" in capsys.readouterr().err


def test_booleans_are_written_out():
    assert str2bool("true") is True and str2bool("False") is False
    with pytest.raises(Exception, match="write true or false"):
        str2bool("yes")


def test_pip_installs_all_of_the_package(root):
    """Folders without ``__init__.py`` and files other than Python would stay behind."""
    packages = {root / name.replace(".", "/") for name in setuptools.find_packages(str(root), include=["lrsms*"])}
    files = [path for path in (root / "lrsms").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(files) > 50
    assert [path for path in files if path.parent not in packages or path.suffix != ".py"] == []


def test_provenance_names_command_versions_and_commit(monkeypatch):
    monkeypatch.setenv("LRSMS_COMMAND", "./run.sh --stage 3")
    record = provenance.provenance()
    assert record["command"] == "./run.sh --stage 3"
    assert record["versions"]["torch"].startswith("2.")
    assert "cores" in record["machine"]
    assert record["commit"]
    monkeypatch.delenv("LRSMS_COMMAND")
    assert provenance.command().startswith("python3 ")


def test_absent_package_and_absent_git_are_said(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "absent"
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"


def test_commit_is_not_that_of_a_repository_around_the_environment(tmp_path, monkeypatch):
    """As installed in a virtual environment inside somebody's own repository."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "env" / "lrsms" / "provenance.py"))
    Path(provenance.__file__).parent.mkdir(parents=True)
    Path(provenance.__file__).touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    assert provenance.commit() == "unknown"
    subprocess.run([*git, "add", "."], check=True)
    assert provenance.commit().endswith("-dirty")


def test_a_log_of_both_streams_has_what_was_said_before_the_error(root):
    code = (
        "from lrsms.bin import run_verb\n"
        "from lrsms.errors import LrsmsError\n"
        "def main():\n"
        "    print('half done')\n"
        "    raise LrsmsError('no such microphone')\n"
        "run_verb(main)\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=buffered, **streams)
    assert done.stdout.splitlines() == ["half done", "error: no such microphone"]
