"""The command ``lrsms``, also ``python -m lrsms``: ``lrsms <verb> ...`` runs :mod:`lrsms.bin` ``.<verb>``."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

import lrsms.bin  # processes that a verb starts import this module, and are to start quickly as well

_USAGE = "usage: lrsms <verb> [options of the verb]\n       lrsms <verb> --help\n       lrsms --version"


def main() -> None:
    """Run the verb that the command line names.

    Raises:
        SystemExit: as the verb ends, or with status 2 if there is no such verb.
    """
    verb, *options = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        print(_help())
    elif verb == "--version":
        print(f"lrsms {lrsms.__version__}")
    else:
        _run(verb, options)


def verbs() -> dict[str, str]:
    """Name of every verb, and the first line of its docstring; no verb is imported."""
    files = sorted(Path(lrsms.bin.__path__[0]).glob("[!_]*.py"))
    return {file.stem: _first_line(file) for file in files}


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _help() -> str:
    width = max(map(len, verbs()))
    lines = [f"  {verb:{width}}  {sentence}" for verb, sentence in verbs().items()]
    return "\n".join([_USAGE, "", str(lrsms.__doc__), "", "verbs:", *lines])


def _run(verb: str, options: list[str]) -> None:
    name = verb.replace("-", "_")
    if name not in verbs():
        near = difflib.get_close_matches(name, verbs(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(verbs())}"
        print(f"{_USAGE}\nerror: there is no verb {verb!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = options
    # With alter_sys the verb is __main__, as after python -m: spawned processes import it by its name.
    runpy.run_module(f"lrsms.bin.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
