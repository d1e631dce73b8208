"""A few spoken digits, a tiny configuration, and one experiment trained on them for the whole session."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lrsms.defaults import DEFAULT_CHECKPOINT

CONFIG = {
    "frontend": "kaldi_fbank",
    "frontend_conf": {"fs": 16000, "num_filters": 20},
    "normalize": "utterance_mvn",
    "specaug": "specaug",
    "specaug_conf": {
        **{"apply_time_warp": False, "freq_mask_width_range": [0, 4], "num_freq_mask": 1},
        **{"time_mask_width_ratio_range": [0.0, 0.1], "num_time_mask": 1},
    },
    "encoder": "lowrank_conformer",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "input_layer": "conv2d"},
        **{"macaron_style": True, "rel_pos_type": "latest", "cnn_module_kernel": 7, "dropout_rate": 0.1},
        "low_rank": {"attention": 0.25, "feed_forward": 0.5, "layer_map": "linear", "multiple": 2},
    },
    "decoder": "lowrank_transformer",
    "decoder_conf": {
        **{"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
        "low_rank": {"feed_forward": 0.5, "multiple": 2},
    },
    "model_conf": {"ctc_weight": 0.5},
    **{"max_duration": 20.0, "num_buckets": 2, "num_workers": 0, "grad_clip": 5, "max_epoch": 3, "num_att_plot": 0},
    **{"optim": "adam", "optim_conf": {"lr": 0.01}, "scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": 10}},
    **{"best_model_criterion": [["valid", "acc", "max"]], "keep_nbest_models": 2, "log_interval": 1},
    "use_matplotlib": False,  # ESPnet's curves, drawn anew after each epoch, take three quarters of so small a training
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Decoding sets one thread for its process: set it for all, so that the order of tests changes no bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_config() -> Callable:
    """``write_config(path, **changes)``: the tiny configuration with top-level keys replaced (dropped when None)."""

    def write(path: Path, **changes) -> Path:
        config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def dense_parts() -> dict:
    """Changes that make the tiny configuration dense."""
    parts = {"encoder": "conformer", "decoder": "transformer"}
    for key in [f"{part}_conf" for part in parts]:
        parts[key] = {name: value for name, value in CONFIG[key].items() if name != "low_rank"}
    return parts


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """``data`` after stage 2: 20 + 4 + 4 utterances; one more of 0.3 s in train and one of 2 ms in test."""
    from lhotse import CutSet

    from lrsms.data.corpora.digits import prepare_digits
    from lrsms.data.cuts import build_cuts
    from lrsms.data.tokens import build_lang

    data = tmp_path_factory.mktemp("corpus") / "data"
    prepare_digits(data, num_train=20, num_dev=4, num_test=4, num_jobs=1)
    build_cuts(data, train_splits=["train"], eval_splits=["dev", "test"])
    for split, seconds in (("train", 0.3), ("test", 0.002)):
        path = data / split / "cuts.jsonl.gz"
        cuts = list(CutSet.from_file(path))
        first = cuts[0]
        short = dataclasses.replace(first.truncate(duration=seconds), id=f"short-{split}")
        short.supervisions = [dataclasses.replace(first.supervisions[0], id=short.id, duration=seconds)]
        CutSet.from_cuts([*cuts, short]).to_file(path)
    build_lang(data, train_splits=["train"], eval_splits=["dev", "test"], token_type="char")
    return data


@pytest.fixture(scope="session")
def make_training(corpus: Path) -> Callable:
    """``make_training(config, output_dir, **attributes)``: a Training on the corpus."""
    from lrsms.espnet.training.run import Training

    def make(config: Path, output_dir: Path, **attributes) -> Training:
        return Training(
            config=config,
            output_dir=output_dir,
            train_cuts=corpus / "train/cuts.jsonl.gz",
            valid_cuts=corpus / "dev/cuts.jsonl.gz",
            lang_dir=corpus / "lang_char",
            token_type="char",
            **attributes,
        )

    return make


@pytest.fixture(scope="session")
def experiment(tmp_path_factory, write_config, make_training):
    """A finished training of three epochs: its ``Training``; read only."""
    folder = tmp_path_factory.mktemp("experiment")
    training = make_training(write_config(folder / "train.yaml"), folder / "exp" / "tiny")
    training.run()
    return training


@pytest.fixture
def model(experiment, tmp_path) -> Path:
    """A copy of the trained experiment, its config and weights, to spoil."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(experiment.output_dir / "config.yaml", folder)
    shutil.copy((experiment.output_dir / DEFAULT_CHECKPOINT).resolve(), folder / DEFAULT_CHECKPOINT)
    return folder


@pytest.fixture(scope="session")
def build_model() -> Callable:
    """``build_model(experiment_folder, **changes)``: a fresh model from its config.yaml with entries replaced."""
    import argparse

    from espnet2.tasks.asr import ASRTask

    import lrsms.espnet  # noqa: F401

    def build(folder: Path, **changes):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        torch.manual_seed(1)
        return ASRTask.build_model(argparse.Namespace(**(config | changes)))

    return build


@pytest.fixture(scope="session")
def tiny_args() -> Callable:
    """``tiny_args(**changes)``: what ESPnet's ASR task makes of the tiny configuration with top-level keys replaced."""
    import argparse
    import copy

    from espnet2.tasks.asr import ASRTask

    import lrsms.espnet  # noqa: F401

    defaults = ASRTask.get_default_config()
    tokens = ["<blank>", "<unk>", *"abcdefghijklmnopqrstuvwxyz ", "<sos/eos>"]

    def make(**changes) -> argparse.Namespace:
        return argparse.Namespace(**copy.deepcopy(defaults | CONFIG | {"token_list": tokens} | changes))

    return make


@pytest.fixture(scope="session")
def build_tiny(tiny_args) -> Callable:
    """``build_tiny(**changes)``: a model of :func:`tiny_args`, always from the same seed; needs no corpus."""
    from espnet2.tasks.asr import ASRTask

    def build(**changes):
        torch.manual_seed(1)
        return ASRTask.build_model(tiny_args(**changes))

    return build


@pytest.fixture(scope="session")
def run_python(root: Path) -> Callable:
    """``run_python(*arguments, cwd=..., path=...)``: a Python of its own with this repository on its path."""

    def run(*arguments, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess:
        folders = [str(folder) for folder in (root, path) if folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)

    return run


@pytest.fixture(scope="session")
def av_corpus(tmp_path_factory) -> Path:
    """``data`` of talking digits after stage 2: 12 + 4 + 4 utterances with mouth regions of 28 pixels."""
    from lrsms.data.corpora.talking_digits import prepare_talking_digits
    from lrsms.data.cuts import build_cuts
    from lrsms.data.tokens import build_lang

    data = tmp_path_factory.mktemp("av_corpus") / "data"
    prepare_talking_digits(data, num_train=12, num_dev=4, num_test=4, size=28, num_jobs=1)
    build_cuts(data, train_splits=["train"], eval_splits=["dev", "test"], speeds=(1.0,))
    build_lang(data, train_splits=["train"], eval_splits=["dev", "test"], token_type="char")
    return data


@pytest.fixture(scope="session")
def av_changes() -> dict:
    """Changes that make the tiny configuration audio-visual, low-rank in every role that it then has."""
    return {
        **{"frontend": None, "frontend_conf": None, "normalize": None, "specaug": None, "specaug_conf": None},
        "input_size": 640 + 24 * 24,
        "encoder": "lowrank_av_conformer",
        "encoder_conf": {
            **{"region": 24, "modality_dropout": {"audio": 0.25, "video": 0.25}, "fusion_units": 32},
            **{"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "cnn_module_kernel": 7},
            "audio_frontend": {"channels": [4, 8], "blocks": [1, 1]},
            "video_frontend": {"channels": [4, 8], "blocks": [1, 1]},
            "low_rank": {"attention": 0.25, "feed_forward": 0.5, "fusion": 0.25, "multiple": 2},
        },
        "av_conf": {"snrs": [0, "clean"], "babble_voices": 2},
        **{"max_duration": 12.0, "max_epoch": 2},
    }


@pytest.fixture(scope="session")
def av_experiment(tmp_path_factory, write_config, av_corpus, av_changes):
    """A finished audio-visual training of two epochs: its ``Training``; read only."""
    from lrsms.espnet.training.run import Training

    folder = tmp_path_factory.mktemp("av_experiment")
    config = write_config(folder / "train.yaml", **av_changes)
    config.write_text(config.read_text() + "normalize: null\n")  # left out, ESPnet would normalize
    training = Training(
        config=config,
        output_dir=folder / "exp" / "tiny_av",
        train_cuts=av_corpus / "train/cuts.jsonl.gz",
        valid_cuts=av_corpus / "dev/cuts.jsonl.gz",
        lang_dir=av_corpus / "lang_char",
        token_type="char",
    )
    training.run()
    return training
