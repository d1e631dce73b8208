"""A training YAML with `base:` stands for a plain ESPnet configuration."""

import re
from pathlib import Path

import pytest

from lrsms.errors import LrsmsError
from lrsms.training_yaml import changed, has_base, locate, read_training_yaml

DENSE = """\
encoder: conformer
encoder_conf:
  num_blocks: 4
  low_rank: {attention: 0.5, multiple: 4}
optim_conf: {lr: 0.1, betas: [0.9, 0.98]}
max_epoch: 8
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "conf").mkdir()

    def to(name: str, text: str) -> Path:
        path = tmp_path / "conf" / name
        path.write_text(text)
        return path

    to("dense.yaml", DENSE)
    return to


def test_a_value_replaces_the_bases_and_a_dotted_key_reaches_one_option(write, tmp_path, monkeypatch):
    path = write("a.yaml", "base: dense.yaml\nencoder: x\nencoder_conf.low_rank: {attention: 0.1}\nmax_epoch: null\n")
    monkeypatch.chdir(tmp_path / "conf")  # the base's path is from the file's folder, wherever one is
    expected = {"encoder": "x", "encoder_conf": {"num_blocks": 4, "low_rank": {"attention": 0.1}}, "max_epoch": None}
    assert (
        read_training_yaml(path)
        == read_training_yaml(Path("a.yaml"))
        == expected | {"optim_conf": {"lr": 0.1, "betas": [0.9, 0.98]}}
    )
    whole = write("b.yaml", "base: dense.yaml\noptim_conf: {lr: 1, betas: null, eps: 2}\n")
    assert read_training_yaml(whole)["optim_conf"] == {"lr": 1, "betas": None, "eps": 2}
    lists = write("c.yaml", "base: dense.yaml\noptim_conf.betas: [0.5]\nencoder_conf.low_rank: null\n")
    assert read_training_yaml(lists)["optim_conf"] == {"lr": 0.1, "betas": [0.5]}
    assert read_training_yaml(lists)["encoder_conf"] == {"num_blocks": 4}


def test_a_base_may_have_a_base_in_another_folder(write, tmp_path):
    write("middle.yaml", "base: dense.yaml\nmax_epoch: 9\nencoder_conf.num_blocks: 2\n")
    last = tmp_path / "last.yaml"
    last.write_text("base: conf/middle.yaml\nencoder_conf.num_blocks: 1\n")
    config = read_training_yaml(last)
    assert (config["max_epoch"], config["encoder_conf"]["num_blocks"], config["encoder"]) == (9, 1, "conformer")
    assert "base" not in config and has_base(last) and not has_base(tmp_path / "conf/dense.yaml")


def test_a_plain_yaml_is_read_as_espnet_reads_it(write):
    assert read_training_yaml(write("plain.yaml", "a: 1\na.b: 2\nc: 3\n")) == {"a": 1, "a.b": 2, "c": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: absent.yaml\n", "a.yaml: base: absent.yaml: {folder}/absent.yaml was not found"),
        ("base: [dense.yaml]\n", "a.yaml: base: ['dense.yaml']: write the training YAML"),
        ("base: a.yaml\n", "a.yaml: base: a.yaml: the bases lead back to themselves: {folder}/a.yaml -> "),
        ("base: back.yaml\n", "back.yaml: base: ../conf/a.yaml: the bases lead back to themselves: {folder}/a.y"),
        ("base: dense.yaml\nencoder.x: 1\n", "a.yaml: encoder.x: encoder is 'conformer', not a mapping"),
        ("base: dense.yaml\nlr: 1\nlr: 2\n", "a.yaml: not valid YAML: 'lr' is written twice"),
        (
            "base: dense.yaml\nencoder: x\nencoder_conf:\n  low_rank: {attention: 0.1}\n",
            "a.yaml: encoder_conf: would take num_blocks of dense.yaml away; write encoder_conf.low_rank to change",
        ),
        ("base: broken.yaml\n", "broken.yaml: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(write, tmp_path, text, message):
    write("back.yaml", "base: ../conf/a.yaml\n")
    write("broken.yaml", "a: [")
    path = write("a.yaml", text)
    with pytest.raises(LrsmsError, match=re.escape(message.format(folder=tmp_path / "conf"))):
        read_training_yaml(path)


@pytest.mark.parametrize(
    ("keys", "file", "line"),
    [
        (["encoder_conf", "num_blocks"], "dense.yaml", 3),
        (["max_epoch"], "a.yaml", 4),
        (["encoder_conf", "low_rank"], "a.yaml", 2),
        (["encoder_conf", "low_rank", "attention"], "a.yaml", 3),
        (["encoder_conf"], "dense.yaml", 2),
    ],
)
def test_an_option_is_located_in_the_file_that_has_it(write, keys, file, line):
    path = write("a.yaml", "base: dense.yaml\nencoder_conf.low_rank:\n  attention: 0.1\nmax_epoch: 3\n")
    assert locate(path, *keys) == f"{path.parent / file}: line {line}"


def test_an_option_that_no_file_writes_out_is_located_by_the_file_alone(write):
    path = write("a.yaml", "x: &x {lr: 1}\noptim_conf: {<<: *x}\n")
    assert locate(path, "optim_conf", "lr") == str(path)


def test_changed_leaves_the_base_alone():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": {}}
    assert changed(base, {"a.b": None, "a.c.d": [3], "f.g": 4, "e": None}, "x") == {
        "a": {"c": {"d": [3]}},
        "e": None,
        "f": {"g": 4},
    }
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": {}}
