"""What a command shows against what there is, without running it: verbs, options, values, paths."""

import argparse
import contextlib
import importlib
import io
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from doc_blocks import INLINE, SHELL, Block, Command

# Folders that only runs leave; what lies in them need not be there.
_LEFT_BY_RUNS = {"data", "exp", "sweeps", "kaldi", "downloads", "dump", "pack"}
_TRACKED = ("conf/", "egs/", "docs/", "benchmarks/", "utils/", "tests/", "lrsms/", "./", "../")


def simple_commands(command: Command) -> Iterator[list[str]]:
    """The words of each simple command of a line, as the shell would split it, comments left out."""
    words = shlex.shlex(command.text.replace("\\\n", " "), posix=True, punctuation_chars=True)
    words.whitespace_split = True
    simple: list[str] = []
    for word in words:
        if set(word) <= set("();<>|&"):
            if simple:
                yield simple
            simple = []
        else:
            simple.append(word)
    if simple:
        yield simple


def faults_of(block: Block, root: Path) -> list[str]:
    """A sentence for each verb, option, value or path of the block's commands that does not exist."""
    faults, folder = [], root / block.folder
    if not folder.is_dir() and not _LEFT_BY_RUNS & set(Path(block.folder).parts):
        faults.append(f"{block.file}:{block.line}: in: {block.folder}: no such folder")
    for command in block.commands if block.language in (*SHELL, INLINE) else ():
        for words in simple_commands(command):
            if block.needed_by(command.text) == "espnet recipe" and words[0] not in ("python", "python3"):
                continue  # a script of ESPnet's
            if words[0] == "cd":
                folder = folder / words[1]
            found = [*_wrong_options(words, folder, root), *_absent_paths(words, folder, root)]
            if block.needed_by(command.text) is None:
                found += _beyond_the_clone(words)
            faults += [f"{block.file}:{command.line}: {' '.join(words)}: {fault}" for fault in found]
    return faults


def _beyond_the_clone(words: list[str]) -> Iterator[str]:
    """What test_commands.py must not run: the suite itself, and pip in the environment that it has borrowed."""
    if words == ["utils/test.sh"]:
        yield "it would run the suite in the suite; put <!-- needs: test workflow: utils/test.sh --> before it"
    if "pip" in words and "install" in words:
        yield "it would change the environment at hand; put <!-- needs: fresh environment --> before it"


def _wrong_options(words: list[str], folder: Path, root: Path) -> Iterator[str]:
    if words[0].endswith("run.sh"):
        script = folder / words[0]
        if script.exists() and (error := _recipe_error(script, words[1:])):
            yield error
    elif words[:2] in (["python", "-m"], ["python3", "-m"]) and words[2].startswith("lrsms."):
        if words[2].startswith("lrsms.bin."):
            error = verb_error(words[2], words[3:])
            if error:
                yield error
        elif importlib.util.find_spec(words[2]) is None:
            yield f"there is no module {words[2]}"


def _recipe_error(script: Path, arguments: list[str]) -> str:
    """What run.sh says against its arguments: --help behind them is reached only if all are right."""
    done = subprocess.run(["bash", str(script), *arguments, "--help"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()


class _ParsedError(Exception):
    pass


def verb_error(module: str, arguments: list[str]) -> str:
    """What the parser of a verb (``lrsms.bin.<verb>``) says against its arguments; nothing is run."""
    try:
        verb = importlib.import_module(module)
    except ModuleNotFoundError:
        return f"there is no verb {module}"
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **options):
        self.allow_abbrev = False  # an abbreviation shown to a reader is a slip
        parse(self, *args, **options)
        raise _ParsedError

    error = io.StringIO()
    argv, sys.argv = sys.argv, [module, *arguments]
    argparse.ArgumentParser.parse_args = parse_and_stop
    try:
        with contextlib.redirect_stderr(error):
            verb.main()
    except _ParsedError:
        return ""
    except SystemExit:
        return error.getvalue().strip().splitlines()[-1]
    finally:
        sys.argv, argparse.ArgumentParser.parse_args = argv, parse
    return "it parses no options"


def _absent_paths(words: list[str], folder: Path, root: Path) -> Iterator[str]:
    recipe = (folder / words[0]).parent  # run.sh looks there first, then at the root
    for word in words:
        if not word.startswith(_TRACKED) or "$" in word or _LEFT_BY_RUNS & set(Path(word).parts):
            continue
        if not any((base / word).exists() for base in (folder, recipe, root)):
            yield f"{word}: no such file"
