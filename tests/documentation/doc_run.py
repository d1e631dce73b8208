"""Run the commands of one Markdown file in order, each block in a shell of its own."""

import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from doc_blocks import INLINE, NEEDS, SHELL, Block, Command
from doc_clone import Clone

TIMEOUT = 3600  # seconds, for one block on a busy machine
_TAIL = 25  # lines of a failed command's output


@dataclass
class Report:
    """What ran, with its seconds; what was skipped, with the reason; what failed, with the end of its output."""

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_file(blocks: list[Block], clone: Clone, available: frozenset[str]) -> Report:
    """Run what of ``blocks`` needs nothing beyond ``available`` (keys of ``NEEDS``); a failure does not end the run."""
    report, done = Report(), set()
    for block in blocks:
        if block.language not in (*SHELL, INLINE, "python"):
            continue
        commands = []
        for command in block.commands:
            need = block.needed_by(command.text, available)
            if need:
                report.skipped.append(f"{_place(block, command)} needs {need}: {NEEDS[need]}")
            else:
                commands.append(command)
        if not commands:
            continue
        for before in set(block.after) - done:
            done.add(before)
            _run(Block(block.file, block.line, "bash"), [Command(block.line, before)], clone, report)
        if block.alternatives:
            for command in commands:
                if "--stage" not in command.text:
                    clone.forget(command.text)
                _run(block, [command], clone, report)
        else:
            _run(block, commands, clone, report)
    return report


def _place(block: Block, command: Command) -> str:
    shown = " ".join(command.text.replace("\\\n", " ").split())
    return f"{block.file}:{command.line}: `{shown}`"


def _script(block: Block, commands: list[Command], folder: Path) -> list[str]:
    """The program of a block: after each command of a shell its status goes to descriptor 3, and a failure ends it."""
    if block.language == "python":
        return ["python", "-c", commands[0].text]
    check = '\n__status=$?; echo "$__status $EPOCHREALTIME" >&3; [ $__status -eq 0 ] || exit $__status\n'
    return ["bash", "-c", f"exec 3>{folder}/statuses\n" + "".join(command.text + check for command in commands)]


def _run(block: Block, commands: list[Command], clone: Clone, report: Report) -> None:
    folder, notes = clone.folder / block.folder, clone.folder.parent
    for command in commands:
        clone.provide(command.text, folder)
    output, statuses = notes / "output", notes / "statuses"
    statuses.unlink(missing_ok=True)
    begin, before = time.time(), _processor_seconds()
    with output.open("wb") as log:
        process = subprocess.Popen(
            _script(block, commands, notes), cwd=folder, env=clone.environment(), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    print(f"{block.file}:{block.line}: {_processor_seconds() - before:.1f} s of processor time", flush=True)
    ended = [line.split() for line in statuses.read_text().splitlines()] if statuses.exists() else []
    succeeded = commands if status == 0 else commands[: sum(found == "0" for found, _ in ended)]
    for command, (_, end) in zip(succeeded, ended or [("0", time.time())], strict=False):
        _say(report.ran, f"{float(end) - begin:7.1f} s  {_place(block, command)}")
        begin = float(end)
    if status != 0:
        command = commands[min(len(succeeded), len(commands) - 1)]
        lines = [line.rsplit("\r", 1)[-1] for line in output.read_text(errors="replace").split("\n")]  # bars: their end
        tail = "\n    ".join([line for line in lines if line.strip()][-_TAIL:])
        _say(
            report.failed,
            f"{_place(block, command)}: exit status {status} after {time.time() - begin:.1f} s:\n    {tail}",
        )
        for command in commands[len(succeeded) + 1 :]:
            _say(report.failed, f"{_place(block, command)}: not run, because one before it failed")


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _say(rows: list[str], row: str) -> None:
    rows.append(row)
    print(row, flush=True)
