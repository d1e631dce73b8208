import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setuptools

import lrsms
from lrsms import provenance
from lrsms.__main__ import main, verbs
from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser
from lrsms.errors import LrsmsError

VERBS = (
    *("prepare", "cuts", "tokenize", "train", "decode", "score", "sweep", "plan", "export", "compress"),
    *("conditions", "utterance", "transcribe", "export_kaldi", "graph", "bench", "import_whisper", "seeds"),
)
HEAVY = "{'torch', 'espnet2', 'lhotse', 'matplotlib', 'optuna'}"


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
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "usage" in output_of(code, root).lower()


@pytest.fixture
def command(monkeypatch, capsys):
    """``command(*words)``: status, stdout and stderr of ``lrsms words``."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lrsms", *words])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run


def test_the_command_lists_all_verbs_with_a_sentence_each(command):
    assert set(verbs()) == set(VERBS)
    for words in ((), ("--help",), ("-h",)):
        status, text, _ = command(*words)
        assert status == 0
        for verb, sentence in verbs().items():
            assert sentence.endswith(".") and f"  {verb} " in text and f" {sentence}\n" in f"{text}\n"
    assert command("--version") == (0, f"lrsms {lrsms.__version__}\n", "")


def test_the_list_of_verbs_imports_nothing_heavy(root):
    code = f"import sys\nfrom lrsms.__main__ import main\nmain()\nassert not {HEAVY} & set(sys.modules)\n"
    assert "  train " in output_of(code, root)


def test_a_verb_that_is_unknown_is_told_the_nearest(command):
    status, _, error = command("trian", "--config", "x.yaml")
    assert status == 2 and error.endswith("error: there is no verb 'trian'; did you mean 'train'?\n")
    status, _, error = command("quux")
    assert status == 2 and "there is no verb 'quux'; there are bench, compress, " in error


@pytest.mark.parametrize("verb", ["export_kaldi", "export-kaldi"])
@pytest.mark.parametrize("option", ["--output_dir", "--output-dir"])
def test_a_verb_and_its_options_take_dashes_and_underscores(verb, option, root):
    words = [sys.executable, "-m", "lrsms", verb, option, "kaldi"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("lrsms export_kaldi: error: one of the arguments --cuts --from is required\n")


def test_a_verb_is_the_main_module_as_after_python_m(root):
    """Processes that it spawns import the verb by its name, and results name a command that can be run again."""
    code = (
        "import sys\n"
        "from lrsms import command_line, provenance\n"
        "def show(main):\n"
        "    print(sys.modules['__main__'].__spec__.name, command_line._is_main(main), provenance.command())\n"
        "command_line.run_verb = show\n"
        "import lrsms.bin\n"
        "lrsms.bin.run_verb = show\n"
        "from lrsms.__main__ import main\n"
        "sys.argv = ['lrsms', 'train', '--ngpu', '2']\n"
        "main()\n"
    )
    assert output_of(code, root) == "lrsms.bin.train True python3 -m lrsms.bin.train --ngpu 2\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_known_with_dashes(verb, root):
    parser = _parser(verb)
    options = [option for option in parser._option_string_actions if "_" in option]
    assert options or verb == "prepare"  # whose options are those of the corpora
    for option in options:
        assert parser._with_underscores(option.replace("_", "-")) == option
    assert parser.prog == f"lrsms {verb}"


def _parser(verb: str) -> CommandParser:
    """The parser that a verb makes, caught as it is about to parse."""

    def caught(self, args=None, namespace=None):
        raise _Caught(self)

    module = importlib.import_module(f"lrsms.bin.{verb}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse_known_args", caught)
        patch.setattr(sys, "argv", [module.__file__])
        with pytest.raises(_Caught) as stop:
            module.main()
    return stop.value.args[0]


class _Caught(Exception):
    """Carries a parser."""


def test_options_after_two_dashes_stay_as_they_are():
    parser = CommandParser(prog="lrsms train")
    parser.add_argument("--max_epoch", type=int)
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(["--max-epoch=3", "--", "--max-epoch", "5"])
    assert args.max_epoch == 3 and args.rest == ["--max-epoch", "5"]


def test_the_package_alone_imports_nothing(root):
    code = (
        "import sys, lrsms\n"
        "assert not {'torch', 'espnet2', 'lhotse', 'lrsms.espnet'} & set(sys.modules)\n"
        "try:\n"
        "    lrsms.Recognizers\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    assert "no attribute 'Recognizers'" in output_of(code, root)


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
    """Folders without ``__init__.py`` would stay behind, and files other than Python that pyproject.toml omits."""
    packages = {root / name.replace(".", "/") for name in setuptools.find_packages(str(root), include=["lrsms*"])}
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    data = {path for package, globs in patterns.items() for glob in globs
            for path in (root / package.replace(".", "/")).glob(glob)}  # fmt: skip
    files = [path for path in (root / "lrsms").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(files) > 50
    modules = {path for path in files if path.parent in packages and path.suffix == ".py"}
    assert sorted({*files} - modules - data) == []


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


RUN = "from lrsms.bin import run_verb\ndef main():\n    {}\nrun_verb(main)\n"


def run_with_stdout(body: str, stdout: int) -> subprocess.CompletedProcess:
    """A Python of its own in which a verb does ``body``."""
    command = [sys.executable, "-c", RUN.format(body)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("body", ["print('a table')", "[print(row) for row in range(100_000)]"])
def test_a_reader_that_has_gone_is_no_defect(body):
    read, write = os.pipe()
    os.close(read)
    done = run_with_stdout(body, write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_that_breaks_elsewhere_is_a_defect():
    done = run_with_stdout("raise BrokenPipeError(32, 'a worker has gone')", subprocess.DEVNULL)
    assert done.returncode == 1
    assert "BrokenPipeError: [Errno 32] a worker has gone" in done.stderr
