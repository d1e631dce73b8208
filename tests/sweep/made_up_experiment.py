"""Stands for lrsms.sweep.experiment: points that are "trained" in no time and make as many errors as their arm says.

Keys of an arm's config: ``wrong``, words of the test set that are wrong; ``converges``, epochs from which on the dev
loss stays; ``acc``, dev's by epoch; ``parameters``; ``seconds`` that a training takes; ``then``, how it ends if not
well: "error", "crash" or "killed".
"""

import gzip
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import yaml

from lrsms.errors import LrsmsError

SENTENCES = {f"u{i}": "one two three four five" for i in range(4)}
KEYS = {"wrong", "converges", "scheduler_conf", "parameters", "seconds", "then", "max_epoch", "encoder_conf", "macs"}
KEYS |= {"acc", "best_model_criterion"}


def write_data(folder: Path, splits=("train", "dev", "test")) -> None:
    """Cuts and tokens, as stages 1 and 2 leave them."""
    for split in splits:
        (folder / split).mkdir(parents=True)
        with gzip.open(folder / split / "cuts.jsonl.gz", "wt") as file:
            for name, text in SENTENCES.items():
                recording = {
                    **{"id": name, "sources": [{"type": "file", "channels": [0], "source": "absent.flac"}]},
                    **{"sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]},
                }
                supervision = {
                    **{"id": name, "recording_id": name, "start": 0.0, "duration": 1.0, "channel": 0},
                    **{"text": text, "speaker": "s1"},
                }
                cut = {"id": name, "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
                print(json.dumps({**cut, "supervisions": [supervision], "recording": recording}), file=file)
    (folder / "lang_char").mkdir()
    (folder / "lang_char/tokens.txt").write_text("<blank>\n<unk>\na\n<sos/eos>\n")


def check_config(path: Path) -> None:
    for key in yaml.safe_load(path.read_text()):
        if key not in KEYS:
            raise LrsmsError(f"{path}: unknown key {key!r}")


def train_and_decode(runner, point, threads: int) -> None:
    config = yaml.safe_load(runner.config(point.arm).read_text())
    with (runner.root / "runs.txt").open("a") as file:
        file.write(f"{point.key} {os.getpid()} {threads} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    (point.experiment / "checkpoint.pth").touch()
    print(f"training {point.key}")
    time.sleep(config.get("seconds", 0))
    match config.get("then"):
        case "error":
            raise LrsmsError("no such microphone")
        case "crash":
            raise ZeroDivisionError("a defect")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    write_finished(runner, point)


def write_finished(runner, point) -> None:
    """What stages 3 and 4 leave of a point: one more wrong word with every seed."""
    config, origin = point.arm.config, {"commit": "0123456789ab", "machine": "a processor, 2 cores"}
    point.experiment.mkdir(parents=True, exist_ok=True)
    splits, lang = (runner.train_split, runner.valid_split), runner.data_dir / "lang_char"
    inputs = {str(path): "" for path in [*map(runner.cuts, splits), lang / "tokens.txt"]}
    (point.experiment / "inputs.json").write_text(json.dumps({"arguments": {}, "inputs": inputs}))
    summary = {
        **{"experiment": point.key, "config": str(runner.config(point.arm)), "seed": point.seed, **origin},
        **{"parameters": config.get("parameters", 1000), "dense_parameters": 1000, "train_hours": 0.5},
        **{"macs_per_second": config.get("macs", 2e6), "dense_macs_per_second": 2e6},
        **{"train_step_seconds": 0.25 + point.seed, "epochs": 3, "wall_seconds": 60.0},
        **{"command": "python3 -m lrsms.bin.sweep /home/me/conf/sweep.yaml", "versions": {"python": "3.11"}},
    }
    values = config.get("acc", [0.5 + 0.1 * point.seed, 0.8, 0.9])
    least = 3.0 * max(1.0, config.get("converges", 0) / config["max_epoch"])
    curve = {"epoch": [1, 2, 3], "loss": [10 * least, 8 / 3 * least, least], "acc": values}
    curves = {"train": curve, "valid": curve}
    (point.experiment / "curves.json").write_text(json.dumps(curves))
    for split in runner.test_splits:
        folder = runner.decode_folder(point, split)
        folder.mkdir(parents=True, exist_ok=True)
        words = [word for text in SENTENCES.values() for word in text.split()]
        wrong = config.get("wrong", 0) + point.seed
        said = [f"{word}x" if i < wrong else word for i, word in enumerate(words)]
        lines = [f"{name} {' '.join(said[5 * i : 5 * i + 5])}\n" for i, name in enumerate(SENTENCES)]
        (folder / "text").write_text("".join(lines))
        decoding = {"config": "conf/decode.yaml", "checkpoint": runner.checkpoint, "rtf": 0.1, **origin}
        (folder / "decode.json").write_text(json.dumps({"split": split, **decoding}))
        digest = hashlib.sha256(runner.decode_config.read_bytes()).hexdigest()
        (folder / "inputs.json").write_text(json.dumps({"inputs": {str(runner.decode_config): digest}}))
    (point.experiment / "summary.json").write_text(json.dumps(summary))
