"""A clone of the repository in which the commands of one Markdown file run as they are written.

What would take hours is made small by data and configuration, never by another command. In the clone, every YAML of
conf/, egs/*/*/conf/ and benchmarks/ is rewritten with the same classes, options and keys, but small numbers: two narrow
blocks, one epoch, a beam of 2 that ends after two tokens, four trials in one iteration of compression, one seed and two
arms in a sweep. DIR is a corpus of a few made-up utterances in the layout of the recipe that the command names; what
mini_librispeech's recipe would download lies in its downloads/ already, marked as complete, so that only yesno's
4.5 MB are fetched, where there is a network. exp/X and exp/Y are copies of exp/train_lrsms, and recordings that a
command names are there. (A corpus prepared beforehand would leave stages 0 to 2 untried, and hooks in run.sh would be
code that no user runs.) So the clone shows that a command works, and nothing about error rates or time.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from doc_corpora import write_corpus, write_librispeech, write_sound

ROOT = Path(__file__).resolve().parents[2]
_LIMITS = {  # largest number of a key, wherever it stands in a training YAML
    "output_size": 64, "hidden_size": 64, "linear_units": 128, "attention_heads": 2, "num_blocks": 2, "num_layers": 2,
    "fusion_units": 96, "cgmlp_linear_units": 128, "max_epoch": 1, "keep_nbest_models": 1, "num_workers": 0,
}  # fmt: skip
_COMPRESSION = {
    "max_iterations": 1, "trials": 4, "survivors": 2, "tolerance": 100.0, "compression": 1.2,
    "search_set": {"split": "dev", "utterances": 2, "candidates": 4},
    "calibration": {"split": "train", "utterances": 4},
}  # fmt: skip


class Clone:
    """``folder`` holds the files of HEAD, made small, and the interpreter at hand as its ``.venv``."""

    def __init__(self, folder: Path, write_talking_head: Callable):
        self.folder = folder / "repository"
        self.corpora = folder / "corpora"
        self.write_talking_head = write_talking_head
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.folder)], check=True)
        (self.folder / ".venv").symlink_to(sys.prefix)
        for pattern in ("conf/*.yaml", "egs/*/*/conf/*.yaml", "benchmarks/*.yaml"):
            for path in self.folder.glob(pattern):
                content = small(yaml.safe_load(path.read_text()))
                path.write_text(yaml.safe_dump(content, sort_keys=False))

    def environment(self) -> dict[str, str]:
        """That of a shell in which ``.venv`` is activated."""
        ours = {"LRSMS_COMMAND", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "CONDA_PREFIX", "COV_CORE_SOURCE"}
        kept = {
            name: value for name, value in os.environ.items() if name not in ours and not name.startswith("COVERAGE")
        }
        path = f"{self.folder}/.venv/bin:{kept.get('PATH', '')}"
        return {**kept, "LRSMS_PYTHON": sys.executable, "PYTHONPATH": str(self.folder), "PATH": path}

    def provide(self, text: str, folder: Path) -> None:
        """Put in place what the command ``text``, run in ``folder``, takes as given."""
        for corpus in ("yesno", "speechocean762", "grid", "librispeech", "own_data", "arabic_commands", "commonvoice"):
            if f"egs/{corpus}/" in text and "DIR" in text:
                self._link_corpus(corpus, "DIR")
        if "OCEAN_DIR" in text:
            self._link_corpus("speechocean762", "OCEAN_DIR")
        if "egs/librispeech/" in text and "--mini true" in text:
            self._mini_librispeech()
        for name in ("X", "Y"):
            copy = self.folder / "exp" / name
            if f"exp/{name}" in text and not copy.exists():
                shutil.copytree(self.folder / "exp/train_lrsms", copy)
        for name in ("talk.mp3", "more.flac", "speech.wav", "folder/one.wav"):
            if name.split("/")[0] in text.replace('"', " ").split() and not (folder / name).exists():
                write_sound(folder / name, seconds=3.0)

    def _link_corpus(self, corpus: str, name: str) -> None:
        if not (self.corpora / corpus).exists():
            write_corpus(corpus, self.corpora / corpus, self.write_talking_head)
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).symlink_to(self.corpora / corpus)

    def _mini_librispeech(self) -> None:
        downloads, parts = self.folder / "egs/librispeech/asr1/downloads", ("train-clean-5", "dev-clean-2")
        if not downloads.exists():
            write_librispeech(downloads, parts)
        for part in parts:
            (downloads / "LibriSpeech" / part / ".completed").touch()

    def forget(self, text: str) -> None:
        """Remove what runs have left in the recipe that ``text`` names."""
        for recipe in self.folder.glob("egs/*/*"):
            if str(recipe.relative_to(self.folder)) in text:
                for name in ("data", "exp", "sweeps", "downloads"):
                    shutil.rmtree(recipe / name, ignore_errors=True)


def small(content: dict) -> dict:
    """A configuration with the same keys and small numbers, of whatever kind it is."""
    if "arms" in content:  # a sweep
        others = [name for name in content["arms"] if name != content["reference"]][:1]
        arms = {name: content["arms"][name] for name in (content["reference"], *others)}
        grid = {key: values[:1] for key, values in content.get("grid", {}).items()}
        return {**content, "arms": arms, "seeds": [0], **({"grid": grid} if grid else {})}
    if "beam_size" in content:
        return {**content, "beam_size": 2, "maxlenratio": -2}
    if "finetune" in content:
        return {**content, **_COMPRESSION, "finetune": {**content["finetune"], "epochs": 1}}
    if "tolerance" in content:  # what differs from such a file
        return {**content, "tolerance": _COMPRESSION["tolerance"]}
    return _limited(content)


def _limited(content):
    if isinstance(content, dict):
        return {
            key: min(value, _LIMITS[name]) if name in _LIMITS and isinstance(value, int) else _limited(value)
            for key, value in content.items()
            for name in [str(key).rpartition(".")[2]]  # of a dotted key beside `base:`
        }
    return content
