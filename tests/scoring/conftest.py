"""A recipe folder after stage 4, made up: two experiments, one test split of four utterances."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

REFERENCES = {  # id: speaker, text
    "spk1-u1": ("spk1", "one two three"),
    "spk1-u2": ("spk1", "four five"),
    "spk2-u1": ("spk2", "six"),
    "spk2-u2": ("spk2", "seven eight nine zero"),
}


def _write_cuts(path: Path, references: dict[str, tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        for utterance, (speaker, text) in references.items():
            recording = {
                "id": utterance,
                "sources": [{"type": "file", "channels": [0], "source": "absent.flac"}],
                "sampling_rate": 16000,
                "num_samples": 16000,
                "duration": 1.0,
                "channel_ids": [0],
            }
            supervision = {
                **{"id": utterance, "recording_id": utterance, "start": 0.0, "duration": 1.0, "channel": 0},
                **{"text": text, "speaker": speaker},
            }
            cut = {"id": utterance, "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
            print(json.dumps({**cut, "supervisions": [supervision], "recording": recording}), file=file)


def write_experiment(folder: Path, rank: int | None, parameters: int) -> None:
    folder.mkdir(parents=True)
    summary = {
        "experiment": folder.name,
        "config": "conf/train.yaml",
        "parameters": parameters,
        "dense_parameters": 2_000_000,
        "macs_per_second": 123_400_000,
        "dense_macs_per_second": 200_000_000,
        "train_step_seconds": 0.25,
        "epochs": 3,
        "train_hours": 1.0,
        "wall_seconds": 600.0,
        "seed": 7,
        "command": f"./run.sh --corpus_dir {Path('/home/someone/corpora/tiny')} --train_config conf/train.yaml",
        "commit": "0123456789ab",
        "versions": {"python": "3.11", "torch": "2.11.0"},
        "machine": "a processor, 2 cores",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    blocks = [(side, block) for side in ("encoder", "decoder") for block in range(2)]
    layers = [
        {
            "module": f"{side}.{side}s.{block}.{role}",
            **{"role": role, "depth": block, "inputs": 256, "outputs": 256},
            "rank": rank if role == "attention" else None,
        }
        for side, block in blocks
        for role in ("attention", "feed_forward")
    ]
    subsampling = {"role": "subsampling", "depth": 0, "inputs": 4864, "outputs": 256, "rank": None}
    layers.append({"module": "encoder.embed.out.0", **subsampling})
    (folder / "rank_plan.yaml").write_text(yaml.safe_dump({"layers": layers}))
    valid = {"epoch": [1, 2, 3], "loss": [50.0, 30.0, 20.0], "acc": [0.3, 0.6, 0.8], "cer_ctc": [None, 0.5, 0.2]}
    curves = {"train": {"epoch": [1, 2, 3], "loss": [60.0, 35.0, 15.0]}, "valid": valid}
    (folder / "curves.json").write_text(json.dumps(curves))


def write_decoding(folder: Path, hypotheses: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text").write_text("".join(f"{utterance} {text}\n" for utterance, text in hypotheses.items()))
    decode = {
        **{"split": folder.name, "checkpoint": "valid.acc.ave.pth", "utterances": 4, "audio_seconds": 4.0},
        **{"decode_seconds": 1.0, "wall_seconds": 0.6, "nj": 2, "rtf": 0.25, "beam_size": 10, "ctc_weight": 0.3},
        **{"config": "conf/decode.yaml", "command": "./run.sh --stage 4", "seed": 0, "commit": "0123456789ab"},
        **{"versions": {"python": "3.11"}, "machine": "a processor, 2 cores"},
    }
    (folder / "decode.json").write_text(json.dumps(decode))


@pytest.fixture
def write_cuts():
    """``write_cuts(path, {id: (speaker, text)})``."""
    return _write_cuts


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Folder with ``data`` and ``exp``: a dense experiment without error, a low-rank one with four word errors."""
    _write_cuts(tmp_path / "data/test/cuts.jsonl.gz", REFERENCES)
    write_experiment(tmp_path / "exp/dense", None, 2_000_000)
    write_decoding(tmp_path / "exp/dense/decode_asr/test", {key: text for key, (_, text) in REFERENCES.items()})
    write_experiment(tmp_path / "exp/lowrank", 32, 500_000)
    hypotheses = {"spk1-u1": "one too three", "spk1-u2": "four five five", "spk2-u1": "", "spk2-u2": "seven eight zero"}
    write_decoding(tmp_path / "exp/lowrank/decode_asr/test", hypotheses)
    return tmp_path
