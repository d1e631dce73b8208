"""Checkpoints that do not fit, are broken or would execute code."""

import argparse
import io
import os
import pickle
import re
import shutil
import struct
import zipfile

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask

import lrsms.espnet  # noqa: F401
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import is_whole, keep_previous, read_checkpoint, repair, write_whole
from lrsms.lowrank.initialization import INITIALIZERS


@pytest.fixture
def with_config(experiment, tmp_path):
    """``with_config(**changes)``: a config.yaml of the experiment with entries replaced."""

    def write(**changes):
        config = yaml.safe_load((experiment.output_dir / "config.yaml").read_text())
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config | changes))
        return path

    return write


def ranks(experiment, multiple: int) -> dict:
    config = yaml.safe_load((experiment.output_dir / "config.yaml").read_text())["encoder_conf"]
    return {"encoder_conf": config | {"low_rank": config["low_rank"] | {"attention": 0.125, "multiple": multiple}}}


def test_a_good_checkpoint_gives_the_trained_models_output_without_an_svd(experiment, build_model, monkeypatch):
    folder = experiment.output_dir
    model = build_model(folder)
    model.load_state_dict(read_checkpoint(folder / "valid.acc.ave.pth"))
    monkeypatch.setitem(INITIALIZERS, "svd", lambda *_: pytest.fail("an SVD was made"))
    loaded = Speech2Text(folder / "config.yaml", folder / "valid.acc.ave.pth", beam_size=1).asr_model
    x, lengths = torch.randn(1, 16000), torch.tensor([16000])
    with torch.no_grad():
        assert torch.equal(loaded.encode(x, lengths)[0], model.eval().encode(x, lengths)[0])


def test_low_rank_weights_under_a_dense_config_are_refused(experiment, with_config, dense_parts):
    config, weights = with_config(**dense_parts), experiment.output_dir / "valid.acc.ave.pth"
    with pytest.raises(LrsmsError) as error:
        Speech2Text(config, weights)
    assert str(error.value).startswith(f"{weights} is low-rank at encoder.")
    assert f"but {config} builds that layer dense" in str(error.value)


def test_dense_weights_under_a_low_rank_config_are_refused(experiment, build_model, dense_parts, tmp_path):
    config, weights = experiment.output_dir / "config.yaml", tmp_path / "dense.pth"
    torch.save(build_model(experiment.output_dir, **dense_parts).state_dict(), weights)
    with pytest.raises(LrsmsError) as error:
        Speech2Text(config, weights)
    assert str(error.value).startswith(f"{weights} is dense at encoder.")
    assert f"but {config} builds that layer low-rank" in str(error.value)


def test_dense_weights_under_their_dense_config_load(experiment, build_model, with_config, dense_parts, tmp_path):
    model = build_model(experiment.output_dir, **dense_parts)
    torch.save(model.state_dict(), tmp_path / "dense.pth")
    loaded = Speech2Text(with_config(**dense_parts), tmp_path / "dense.pth", beam_size=1).asr_model
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_another_rank_is_refused(experiment, with_config):
    config, weights = with_config(**ranks(experiment, 1)), experiment.output_dir / "valid.acc.ave.pth"
    with pytest.raises(LrsmsError, match=r"has rank \d at encoder\..*builds rank \d") as error:
        Speech2Text(config, weights)
    assert str(weights) in str(error.value) and str(config) in str(error.value)


def test_missing_weights_are_refused(experiment, tmp_path):
    weights = read_checkpoint(experiment.output_dir / "valid.acc.ave.pth")
    del weights["ctc.ctc_lo.weight"]
    torch.save(weights, tmp_path / "partial.pth")
    with pytest.raises(LrsmsError, match=r"partial.pth lacks 1 weights .*ctc\.ctc_lo\.weight"):
        Speech2Text(experiment.output_dir / "config.yaml", tmp_path / "partial.pth")


LSTM = {"output_size": 16, "hidden_size": 16, "num_layers": 2}
WORDS = {"hidden_size": 16, "att_conf": {"adim": 12, "aconv_chans": 3, "aconv_filts": 5}}
PLAIN = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
KINDS = {  # layer -> the part it is in, that part's class and options, and its role
    "encoder.enc.0.birnn0": ("encoder", "lowrank_rnn", LSTM, "recurrent"),
    "encoder.enc.0.nbrnn": ("encoder", "lowrank_rnn", LSTM | {"use_projection": False}, "recurrent"),
    "encoder.enc.0.birnn0.input": ("encoder", "lowrank_rnn", LSTM, "recurrent_input"),
    "decoder.decoder.0": ("decoder", "lowrank_rnn", WORDS, "recurrent"),
    "decoder.embed": ("decoder", "lowrank_rnn", WORDS, "embedding"),
    "ctc.ctc_lo": ("encoder", "lowrank_transformer", PLAIN, "output"),
    "encoder.embed.conv.0": ("encoder", "lowrank_transformer", PLAIN, "subsampling"),
}


@pytest.fixture
def stored(request, build_tiny, tiny_args, tmp_path):
    """``stored(layer, ratio)``: config.yaml and checkpoint of a model with that layer at a ratio; 0 for dense."""

    def write(layer: str, ratio: float):
        part, name, options, role = KINDS[layer]
        changes = {part: name, f"{part}_conf": options}
        if ratio:
            changes[f"{part}_conf"] = options | {"low_rank": {role: ratio, "multiple": 1}}
        config, weights = tmp_path / f"{ratio}.yaml", tmp_path / f"{ratio}.pth"
        config.write_text(yaml.safe_dump(vars(tiny_args(**changes))))
        torch.save(build_tiny(**changes).state_dict(), weights)
        return config, weights

    return write


@pytest.mark.parametrize("layer", KINDS)
def test_every_kind_of_layer_opens_only_as_what_it_is(layer, stored):
    dense, low, lower = stored(layer, 0), stored(layer, 0.375), stored(layer, 0.125)
    for config, weights in (dense, low, lower):
        model = ASRTask.build_model_from_file(config, weights)[0]
        expected = read_checkpoint(weights)
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    where = rf"at {re.escape(layer)}(\.gates)?"
    for (config, _), (_, weights), message in (
        (dense, low, rf"^{low[1]} is low-rank {where} \(rank \d+\), but {dense[0]} builds that layer dense"),
        (low, dense, rf"^{dense[1]} is dense {where}, but {low[0]} builds that layer low-rank \(rank \d+\)"),
        (low, lower, rf"^{lower[1]} has rank \d+ {where}, but {low[0]} builds rank \d+"),
    ):
        with pytest.raises(LrsmsError, match=message):
            ASRTask.build_model_from_file(config, weights)


def test_building_without_a_checkpoint_is_not_checked(experiment):
    arguments = yaml.safe_load((experiment.output_dir / "config.yaml").read_text())
    assert ASRTask.build_model(argparse.Namespace(**arguments)) is not None
    assert ASRTask.build_model_from_file(experiment.output_dir / "config.yaml", None, "cpu")[0] is not None


class Payload:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_would_execute_code_is_refused_and_not_executed(archive, experiment, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "executed"
    content = {"weight": Payload(f"touch {trace}")}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(LrsmsError, match=r"evil.pth: refused, .*would execute code"):
        read_checkpoint(path)
    with pytest.raises(LrsmsError, match=r"evil.pth: refused, .*would execute code"):
        Speech2Text(experiment.output_dir / "config.yaml", path)
    path.write_bytes(pickle.dumps(content))  # a protocol that torch does not write
    with pytest.raises(LrsmsError, match="evil.pth"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 1, 1000, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(keep, experiment, tmp_path):
    whole = (experiment.output_dir / "valid.acc.ave.pth").read_bytes()
    path = tmp_path / "torn.pth"
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    assert not is_whole(path)
    with pytest.raises(LrsmsError, match="torn.pth: truncated or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 64]
)
def test_something_else_is_refused_as_such(content, tmp_path):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(LrsmsError, match="page.pth: truncated or not a checkpoint"):
        read_checkpoint(tmp_path / "page.pth")


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(LrsmsError, match="absent.pth: no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    assert not is_whole(tmp_path / "absent.pth")


def _within_a_weight(content: bytes) -> int:
    """A position in the largest tensor of what torch saved; between tensors there is padding that nobody checks."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    name, extra = struct.unpack("<HH", content[entry.header_offset + 26 : entry.header_offset + 30])
    return entry.header_offset + 30 + name + extra + entry.file_size // 2


def test_a_flipped_byte_is_noticed(experiment, tmp_path):
    content = bytearray((experiment.output_dir / "valid.acc.ave.pth").read_bytes())
    for position in (
        content.index(b"PK\1\2") + 50,
        _within_a_weight(content),
    ):  # a name in the directory, a weight
        content[position] ^= 0xFF
        (tmp_path / "flipped.pth").write_bytes(content)
        assert not is_whole(tmp_path / "flipped.pth")
        content[position] ^= 0xFF
    assert is_whole(experiment.output_dir / "valid.acc.ave.pth")


@pytest.fixture
def folder(experiment, tmp_path):
    """A copy of the experiment's folder as a running training has it."""
    copied = tmp_path / "exp"
    shutil.copytree(experiment.output_dir, copied, symlinks=True)
    return copied


def tear(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_repair_leaves_a_whole_folder_alone(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    repair(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_weights_whose_writing_fails_leave_those_before_and_nothing_else(tmp_path):
    write_whole({"weight": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write_whole({"weight": lambda: None}, tmp_path / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth") == {"weight": torch.ones(1)}
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_keep_previous_copies_the_checkpoint(folder):
    keep_previous(folder)
    assert (folder / "checkpoint.previous.pth").read_bytes() == (folder / "checkpoint.pth").read_bytes()
    assert not list(folder.glob(".unfinished*"))


def test_keep_previous_without_a_checkpoint(tmp_path):
    keep_previous(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_repair_takes_the_checkpoint_before(folder):
    previous = (folder / "checkpoint.previous.pth").read_bytes()
    tear(folder / "checkpoint.pth")
    repair(folder)
    assert (folder / "checkpoint.pth").read_bytes() == previous
    assert max(read_checkpoint(folder / "checkpoint.pth")["reporter"]["stats"]) == 2
    assert not list(folder.glob(".unfinished*"))


@pytest.mark.parametrize("previous", ["absent", "torn"])
def test_repair_removes_what_nothing_can_replace(previous, folder):
    tear(folder / "checkpoint.pth")
    if previous == "torn":
        tear(folder / "checkpoint.previous.pth")
    else:
        (folder / "checkpoint.previous.pth").unlink()
    repair(folder)
    assert not (folder / "checkpoint.pth").exists()


@pytest.mark.parametrize("damage", ["torn", "absent"])
def test_repair_writes_the_last_epochs_weights_again(damage, folder):
    weights = folder / "3epoch.pth"
    expected = read_checkpoint(folder / "checkpoint.pth")["model"]
    if damage == "torn":
        tear(weights)
    else:
        weights.unlink()
    repair(folder)
    found = read_checkpoint(weights)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (folder / "latest.pth").resolve() == weights.resolve()


def test_repair_of_an_empty_folder(tmp_path):
    repair(tmp_path)
    assert list(tmp_path.iterdir()) == []
