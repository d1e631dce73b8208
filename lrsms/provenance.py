"""Who measured a number: versions, machine, commit and command, for every results file."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "torchaudio", "espnet", "lhotse", "sentencepiece", "kaldialign", "numpy")


def command() -> str:
    """The command line of this process, as a user would type it.

    A recipe's ``run.sh`` exports ``LRSMS_COMMAND`` so that results name the command the user gave.
    """
    if os.environ.get("LRSMS_COMMAND"):
        return os.environ["LRSMS_COMMAND"]
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["python3", "-m", spec.name.removesuffix(".__main__")] if spec else ["python3", sys.argv[0]]
    return shlex.join(program + sys.argv[1:])


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


def machine() -> str:
    """One line: processor, cores, and the GPU if torch sees one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    line = f"{name}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return line


def commit() -> str:
    """Git commit of this package's checkout, ``-dirty`` when it has changes, ``unknown`` if it is installed."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An environment may lie in a checkout of something else.
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short=12", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict:
    """Versions, machine, command and commit as one mapping, ready for JSON."""
    return {"command": command(), "commit": commit(), "versions": versions(), "machine": machine()}
