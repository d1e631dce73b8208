"""Commands, Python and YAML of Markdown files, with the markers that stand before them.

A marker is an HTML comment in the lines right before a fenced block, a paragraph or a table:

    <!-- needs: gpu -->                     none of the block's commands is run where there is no GPU
    <!-- needs: network: --mini true -->    only its commands that contain "--mini true" need it
    <!-- in: egs/yesno/asr1 -->             the folder to start in; the repository's root without it
    <!-- after: ./run.sh -->                what must have been run before, once for the file
    <!-- alternatives -->                   each command without --stage begins in a recipe that nothing has run in
    <!-- over: conf/train_dense.yaml -->    YAML: the file that the keys are laid over; conf/train_lrsms.yaml without it
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

NEEDS = {
    "gpu": "one or more GPUs",
    "k2": "k2, built for the PyTorch at hand (docs/k2.md)",
    "k2 build": "k2's sources, changed as docs/k2.md says, and a compiler for them",
    "models": "transformers and openai-whisper: pip install 'lrsms[models]'",
    "icefall": "a checkout of icefall in the repository's root, and k2",
    "network": "a connection, for a download",
    "fresh environment": "an environment to install packages into",
    "espnet recipe": "a recipe folder of ESPnet's own egs2, made by its setup.sh, and sclite",
    "corpus lrs3": "LRS3, which is licensed",
    "uv": "uv 0.13: pip install uv",
    "whisper model": "a local Whisper model, and for its recipe Common Voice",
    "test workflow": "it is what .github/workflows/test.yml runs",
}
SHELL = ("bash", "sh")
LANGUAGES = (*SHELL, "python", "yaml", "text")  # text: nothing that is run
INLINE = "inline"  # complete commands in the code spans of a paragraph or table
_COMMAND = re.compile(r"(?:\./|egs/\S+/|utils/)\w+\.sh\s+\S|utils/\w+\.sh$|python3? -m lrsms\S*\s+\S")
_MARKER = re.compile(r"<!--\s*(.*?)\s*-->$")


class WrongMarkdown(Exception):
    """A marker or block that the rules above do not know; the message names file, line and what is allowed."""


@dataclass(frozen=True)
class Command:
    """One command as it is written, with its continuation lines."""

    line: int
    text: str


@dataclass
class Block:
    """A fenced block, or the commands in the code spans of one paragraph."""

    file: str
    line: int
    language: str
    text: str = ""
    commands: list[Command] = field(default_factory=list)
    needs: list[tuple[str, str]] = field(default_factory=list)  # (what, part of the commands that need it)
    folder: str = "."
    after: list[str] = field(default_factory=list)
    alternatives: bool = False
    over: str = "conf/train_lrsms.yaml"

    def needed_by(self, text: str, available: frozenset[str] = frozenset()) -> str | None:
        """The first thing that ``text``, a command of this block, needs and that is not available."""
        return next((what for what, part in self.needs if part in text and what not in available), None)


def read_blocks(path: Path, name: str) -> list[Block]:
    """The blocks of a Markdown file in order; ``name`` is what messages call it.

    Raises:
        WrongMarkdown: a marker or language is unknown, a marker stands before nothing, or a block is not closed.
    """
    blocks: list[Block] = []
    markers: list[tuple[int, str]] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    index = 0
    while index < len(lines):
        line, number = lines[index].strip(), index + 1
        index += 1
        if not line:
            continue
        if marker := _MARKER.match(line):
            markers.append((number, marker[1]))
            continue
        if line.startswith("```"):
            end = next((at for at in range(index, len(lines)) if lines[at].strip() == "```"), None)
            if end is None:
                raise WrongMarkdown(f"{name}:{number}: the block is not closed")
            block = _fenced(name, number, line[3:].strip(), lines[index:end])
            index = end + 1
        else:
            end = next((at for at in range(index, len(lines)) if _ends_paragraph(lines[at])), len(lines))
            block = _paragraph(name, number, lines[index - 1 : end])
            index = end
        if markers and block.language == INLINE and not block.commands:
            raise WrongMarkdown(f"{name}:{markers[0][0]}: the marker stands before a paragraph without a command")
        for at, text in markers:
            _apply(block, at, text)
        markers = []
        if block.language != INLINE or block.commands:
            blocks.append(block)
    if markers:
        raise WrongMarkdown(f"{name}:{markers[0][0]}: the marker stands before nothing")
    return blocks


def _ends_paragraph(line: str) -> bool:
    return not line.strip() or line.strip().startswith(("```", "<!--"))


def _fenced(name: str, number: int, language: str, lines: list[str]) -> Block:
    if language not in LANGUAGES:
        raise WrongMarkdown(
            f"{name}:{number}: the block's language is {language!r}; expected one of {', '.join(LANGUAGES)} "
            "(text for what is not run)"
        )
    if inside := next((at for at, line in enumerate(lines, number + 1) if _MARKER.match(line.strip())), None):
        raise WrongMarkdown(f"{name}:{inside}: the marker stands inside a block; it belongs before line {number}")
    block = Block(name, number, language, "\n".join(lines) + "\n")
    if language in SHELL:
        block.commands = _logical_lines(lines, number + 1)
    elif language in ("python", "yaml"):
        block.commands = [Command(number + 1, block.text)]
    return block


def _logical_lines(lines: list[str], number: int) -> list[Command]:
    commands: list[Command] = []
    start, parts = number, []
    for at, line in enumerate(lines, number):
        if not parts:
            start = at
        parts.append(line)
        if not line.endswith("\\"):
            text = "\n".join(parts)
            if text.strip() and not text.strip().startswith("#"):
                commands.append(Command(start, text))
            parts = []
    return commands


def _paragraph(name: str, number: int, lines: list[str]) -> Block:
    block = Block(name, number, INLINE)
    text = "\n".join(lines)
    for span in re.finditer(r"`([^`]+)`", text):
        command = " ".join(span[1].split())
        if _COMMAND.match(command) and "..." not in command:
            block.commands.append(Command(number + text[: span.start()].count("\n"), command))
    return block


def _apply(block: Block, number: int, text: str) -> None:
    key, _, value = (part.strip() for part in text.partition(":"))
    if key == "needs":
        what, _, part = (piece.strip() for piece in value.partition(":"))
        if what not in NEEDS:
            raise WrongMarkdown(f"{block.file}:{number}: needs: {what} is unknown; expected one of {', '.join(NEEDS)}")
        if not any(part in command.text for command in block.commands):
            raise WrongMarkdown(f"{block.file}:{number}: no command of the block contains {part!r}")
        block.needs.append((what, part))
    elif key == "after" and value:
        block.after.append(value)
    elif key == "in" and value:
        block.folder = value
    elif key == "over" and value:
        block.over = value
    elif key == "alternatives" and not value:
        block.alternatives = True
    else:
        raise WrongMarkdown(
            f"{block.file}:{number}: the marker '{text}' is unknown; expected needs: WHAT, in: FOLDER, after: COMMAND, "
            "over: FILE or alternatives"
        )
