"""What is wrong in a YAML is said with its file, key and value before anything is built."""

import re

import pytest
import yaml
from espnet2.tasks import asr

from lrsms.errors import LrsmsError
from lrsms.espnet.config import check_keys, check_training_config, read_yaml, sampling_rate
from lrsms.espnet.training.task import ASRTask


def encoder(**changes) -> dict:
    return {"encoder_conf": {"output_size": 16, **changes}}


def test_the_recipes_configurations_are_good(root):
    configs = sorted([*root.glob("conf/train*.yaml"), *root.glob("egs/*/*/conf/train*.yaml")])
    assert len(configs) >= 2
    for config in configs:
        named = {"rnn": "rnn", "streaming": "contextual_block_conformer"}
        of_task = {"avsr1": "av_conformer", "whisper1": "whisper"}.get(config.parent.parent.name, "conformer")
        expected = named.get(config.stem.split("_")[-1], of_task)
        assert check_training_config(config, ASRTask)["encoder"].removeprefix("lowrank_") == expected


def test_a_good_one_comes_back(write_config, tmp_path):
    config = write_config(tmp_path / "train.yaml")
    assert check_training_config(config, ASRTask) == read_yaml(config)


@pytest.mark.parametrize("specaug", ["none", "None", "null"])
def test_a_part_left_out_in_espnets_words(specaug, write_config, tmp_path):
    config = write_config(tmp_path / "train.yaml", specaug=specaug, specaug_conf=None)
    assert check_training_config(config, ASRTask)["specaug"] == specaug


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 3}, "unknown key 'max_epochs'; did you mean 'max_epoch'?"),
        (encoder(otput_size=16), "encoder_conf: unknown key 'otput_size'; did you mean 'output_size'?"),
        ({"frontend_conf": {"n_mels": 80}}, "frontend_conf: unknown key 'n_mels'"),
        ({"decoder_conf": {"linear_unit": 8}}, "decoder_conf: unknown key 'linear_unit'; did you mean 'linear_units'?"),
        ({"encoder": "lowrank_confromer"}, "encoder: 'lowrank_confromer' is unknown; one of conformer"),
        ({"decoder": 5}, "decoder: 5 is unknown"),
        ({"optim": "adamm"}, "optim: 'adamm' is unknown; one of"),
        ({"scheduler": "warmup"}, "scheduler: 'warmup' is unknown; one of"),
        (encoder(low_rank={"attention": 1.5}), "encoder_conf.low_rank.attention: 1.5 is not a rank ratio"),
        (encoder(low_rank={"atention": 0.5}), "encoder_conf.low_rank.atention: unknown key"),
        ({"decoder_conf": {"low_rank": {"init": "x"}}}, "decoder_conf.low_rank.init: 'x' is unknown"),
        ({"encoder_conf": "conformer"}, "encoder_conf: 'conformer' is not a mapping"),
        ({"encoder_conf": [1]}, "encoder_conf: [1] is not a mapping"),
    ],
)
def test_what_is_wrong_is_named(changes, message, write_config, tmp_path):
    config = write_config(tmp_path / "train.yaml", **changes)
    with pytest.raises(LrsmsError, match=re.escape(message)) as error:
        check_training_config(config, ASRTask)
    assert str(error.value).startswith(f"{config}: ")


def test_an_unknown_key_of_a_base_is_named_with_the_bases_line(write_config, tmp_path):
    base = write_config(tmp_path / "base.yaml", max_epochs=3)
    line = 1 + base.read_text().splitlines().index("max_epochs: 3")
    path = tmp_path / "train.yaml"
    path.write_text("base: base.yaml\nmax_epoch: 4\n")
    with pytest.raises(LrsmsError, match=re.escape(f"{base}: line {line}: unknown key 'max_epochs'; did you mean")):
        check_training_config(path, ASRTask)
    write_config(tmp_path / "base.yaml")
    path.write_text("base: base.yaml\nencoder_conf.otput_size: 4\n")
    with pytest.raises(LrsmsError, match=re.escape(f"{path}: line 2: encoder_conf: unknown key 'otput_size'; did you")):
        check_training_config(path, ASRTask)


@pytest.mark.parametrize("task", [ASRTask, asr.ASRTask])
def test_espnets_parser_takes_a_base(task, write_config, tmp_path, capsys):
    config = read_yaml(write_config(tmp_path / "base.yaml"))
    for key in set(config) - set(vars(task.get_parser().parse_args([]))):
        del config[key]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    path = tmp_path / "train.yaml"
    path.write_text("base: base.yaml\nencoder_conf.output_size: 20\ngrad_clip: 3\n")
    args = task.get_parser().parse_args([f"--config={path}", "--grad_clip", "4"])
    assert args.encoder_conf == config["encoder_conf"] | {"output_size": 20}
    assert (args.grad_clip, args.max_epoch, args.config) == (4.0, config["max_epoch"], str(path))
    assert not hasattr(args, "base")
    path.write_text("base: base.yaml\nmax_epochs: 20\n")
    with pytest.raises(SystemExit):
        task.get_parser().parse_args(["--config", str(path)])
    assert f"unrecognized arguments: max_epochs (from {path}: line 2)" in capsys.readouterr().err


@pytest.mark.parametrize("encoder_name", ["conformer", "transformer"])
def test_low_rank_under_a_dense_class_is_an_unknown_key(encoder_name, write_config, tmp_path):
    changes = {"encoder": encoder_name, **encoder(low_rank={"attention": 0.5})}
    with pytest.raises(LrsmsError, match="encoder_conf: unknown key 'low_rank'"):
        check_training_config(write_config(tmp_path / "train.yaml", **changes), ASRTask)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(LrsmsError, match=r"absent.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("encoder: [conformer\ndecoder: x\n")
    with pytest.raises(LrsmsError, match=r"broken.yaml: not valid YAML: .*line 2"):
        read_yaml(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- encoder\n")
    with pytest.raises(LrsmsError, match=r"list.yaml: the top level is not a mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_keys_without_a_near_one_list_what_is_taken():
    with pytest.raises(LrsmsError, match=r"here: unknown key 'zzz'; it takes: alpha, beta"):
        check_keys(["zzz"], ["beta", "alpha"], "here")


def test_sampling_rate_as_espnets_recipes_write_it():
    written = (8000, "16000", "16k", "22.05k", "44.1k")
    assert [sampling_rate({"fs": fs}) for fs in written] == [8000, 16000, 16000, 22050, 44100]
    assert sampling_rate(None) == sampling_rate({}) == 16000
