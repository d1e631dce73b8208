"""Numbers that were wrong without a word: damaged weights, sound of another rate, options that have no effect."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lhotse import CutSet

from lrsms.compress import iterate
from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint, read_weights
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.espnet.training.overruled import notes
from lrsms.espnet.training.run import summarize
from lrsms.training_yaml import read_yaml

CHECKPOINT = "valid.acc.ave.pth"
WEIGHT = "encoder.after_norm.weight"


def spoiled(name, value):
    """Sets the second number of a weight."""

    def spoil(path: Path) -> None:
        weights = dict(torch.load(path, weights_only=True))
        weights[name] = weights[name].clone()
        weights[name].view(-1)[1] = value
        torch.save(weights, path)

    return spoil


def flipped(path: Path) -> None:
    """One bit in the middle of the largest tensor."""
    largest = max(torch.load(path, weights_only=True).values(), key=lambda value: value.numel())
    content = bytearray(path.read_bytes())
    place = content.index(largest.numpy().tobytes()) + 4 * (largest.numel() // 2)
    content[place] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def without_checksums(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, path)
    finally:
        torch.serialization.set_crc32_options(before)


def with_a_mask(path: Path) -> None:
    weights = dict(torch.load(path, weights_only=True))
    torch.save(weights | {"decoder.mask": torch.full((3, 3), -torch.inf).triu(1)}, path)


# What is done to the weights -> what is said, None if they are whole.
WEIGHTS = {
    "a NaN": (spoiled(WEIGHT, torch.nan), f"{WEIGHT}: 1 of 16 numbers are NaN or infinite"),
    "an infinite number": (spoiled(WEIGHT, torch.inf), f"{WEIGHT}: 1 of 16 numbers are NaN or infinite"),
    "a bit": (flipped, "damaged: the checksum of .*/data/[0-9]+ in it does not agree; copy the file again"),
    "the end": (cut_off, "truncated or not a checkpoint"),
    "no checksums": (without_checksums, None),
    "a mask": (with_a_mask, None),
    "nothing": (lambda path: None, None),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_are_whole_and_finite(what, model):
    spoil, message = WEIGHTS[what]
    spoil(model / CHECKPOINT)
    if message is None:
        assert Recognizer(model).sampling_rate == 16000
        return
    for read in (read_weights, lambda path: Recognizer(path.parent), lambda path: Experiment.of(path).load()):
        with pytest.raises(LrsmsError, match=rf"{CHECKPOINT}: {message}"):
            read(model / CHECKPOINT)


def test_a_file_that_changes_is_read_anew(model):
    path = model / CHECKPOINT
    read_weights(path)
    flipped(path)
    with pytest.raises(LrsmsError, match="damaged"):
        read_weights(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(LrsmsError, match=f"{tmp_path}: a folder, not a checkpoint"):
        read_checkpoint(tmp_path)


@pytest.fixture
def at_8_khz(corpus, tmp_path):
    """The corpus as stage 1 leaves it with --fs 8000."""
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    for split in ("train", "dev", "test"):
        path = data / split / "cuts.jsonl.gz"
        cuts = [cut.resample(8000) for cut in CutSet.from_file(path)]
        CutSet.from_cuts(cuts).to_file(path)
    return data


OPTIONS = {
    **{"ratios": [0.15, 0.3, "dense"], "trials": 3, "controller": "random", "compression": 1.15, "max_iterations": 1},
    **{"multiple": 1, "calibration": {"utterances": 2}, "search_set": {"utterances": 2, "candidates": 2}},
    **{"survivors": 2, "confidence": 0.0, "finetune": {"epochs": 0}},
}


@pytest.fixture
def toolkit(experiment, tmp_path):
    def make(data, **changes):
        (tmp_path / "decode.yaml").write_text("beam_size: 2\n")
        config = CompressConfig.parse(OPTIONS | changes, "compress.yaml")
        decode_config = tmp_path / "decode.yaml"
        return EspnetToolkit(config, tmp_path / "root", experiment.output_dir, data, decode_config=decode_config)

    return make


WRONG_RATE = r"cuts.jsonl.gz: line 1: .* has 8000 Hz, but the model hears 16000; run stage 1 with --fs 16000"


def test_a_model_hears_sound_of_its_rate_alone(experiment, at_8_khz, toolkit, tmp_path, make_training, write_config):
    (tmp_path / "decode.yaml").write_text("beam_size: 2\n")
    decoding = Decoding(experiment.output_dir, at_8_khz / "test/cuts.jsonl.gz", tmp_path / "decode.yaml")
    with pytest.raises(LrsmsError, match=WRONG_RATE):
        decoding.run()
    assert not decoding.output_dir.joinpath("decode.json").exists() or "8000" not in str(decoding.output_dir)
    compressible = toolkit(at_8_khz).open(experiment.output_dir)
    with pytest.raises(LrsmsError, match=WRONG_RATE):
        compressible.utterances(at_8_khz / "dev/cuts.jsonl.gz")
    training = dataclasses.replace(
        make_training(write_config(tmp_path / "t.yaml"), tmp_path / "exp/x"),
        train_cuts=at_8_khz / "train/cuts.jsonl.gz",
    )
    with pytest.raises(LrsmsError, match="has 8000 Hz, but frontend_conf.fs is 16000"):
        training.run()


def test_a_search_goes_on_with_what_it_began_with(corpus, experiment, toolkit, tmp_path):
    def begin(data=corpus, **changes):
        made = toolkit(data, **changes)
        made.begin()
        return made

    begin()
    begin(seed=1)  # nothing has been searched yet
    made = begin()
    iterate.run(made, experiment.output_dir, tmp_path / "root", made.config.loop)
    begin(trials=9, max_iterations=3, tolerance=5.0)  # more of the same
    others = [
        ({"seed": 2}, "seed"),
        ({"parts": ["encoder"]}, "parts"),
        ({"ratios": [0.5, "dense"], "multiple": 2}, "multiple, another ratio"),
    ]
    for changes, named in others:
        with pytest.raises(LrsmsError, match=rf"root holds a compression of another {named}.*--force true"):
            begin(**changes)
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    path = other / "dev/cuts.jsonl.gz"
    CutSet.from_cuts(list(CutSet.from_file(path))[1:]).to_file(path)
    with pytest.raises(LrsmsError, match=r"another .*cuts.jsonl.gz"):
        begin(other)
    (tmp_path / "root/inputs.json").unlink()  # of 0.1.0, which recorded nothing
    begin()


# A key of a training YAML and its value -> what stage 3 says of it, None if there is nothing to say.
OVERRULED = [
    ("seed: 5", "seed: 5 has no effect: --seed decides, 0"),
    ("seed: 0", None),
    ("ngpu: 2", "ngpu: 2 has no effect: --ngpu decides, 0"),
    ("output_dir: exp/mine", "output_dir: 'exp/mine' has no effect: --output_dir decides"),
    ("token_list: my.txt", "token_list: 'my.txt' has no effect: the tokenizer of stage 2 decides"),
    ("token_type: bpe", "token_type: 'bpe' has no effect: --token_type decides, char"),
    ("token_type: char", None),
    ("resume: false", "resume: False has no effect: a training goes on from its last checkpoint"),
    ("resume: true", None),
    ("batch_type: numel", "batch_type: 'numel' has no effect: batches are of cuts"),
    ("batch_bins: 4000000", "batch_bins: 4000000 has no effect: batches are of cuts, by max_duration and num_buckets"),
    ("train_shape_file: [a]", "train_shape_file: ['a'] has no effect"),
    ("iterator_type: task", None),
    ("max_epoch: 4", None),
]


@pytest.mark.parametrize(("line", "said"), OVERRULED)
def test_a_key_that_has_no_effect_is_said(line, said, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(f"# a comment\n{line}\n")
    found = list(notes(path, read_yaml(path), {"seed": 0, "ngpu": 0, "token_type": "char"}))
    assert found == ([] if said is None else [next(note for note in found if said in note)])
    assert all(note.startswith(f"{path}: line 2: ") for note in found)


@pytest.mark.parametrize("key", ["dry_run", "no_forward_run", "collect_stats", "write_collected_feats"])
def test_a_key_under_which_nothing_is_trained_is_refused(key, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(f"{key}: true\n")
    with pytest.raises(LrsmsError, match=f"t.yaml: line 1: {key}: True: nothing would be trained; leave it out"):
        list(notes(path, read_yaml(path), {}))
    path.write_text(f"{key}: false\n")
    assert list(notes(path, read_yaml(path), {})) == []


def test_a_training_that_gave_up_is_no_success(experiment, tmp_path):
    """ESPnet stops with status 0 after an epoch without one finite gradient."""
    folder = tmp_path / "exp"
    shutil.copytree(experiment.output_dir, folder, symlinks=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"max_epoch": 9}))
    given_up = dataclasses.replace(experiment, output_dir=folder)
    with pytest.raises(LrsmsError, match="stopped after epoch 3 of 9: not one step of it had finite gradients"):
        summarize(given_up)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"max_epoch": 9, "patience": 1}))
    summarize(given_up)
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 3
