"""compress.yaml: every key checked."""

import pytest
import yaml

from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError


def test_the_file_that_comes_with_it_is_right_and_shows_every_key(root):
    content = yaml.safe_load((root / "conf" / "compress.yaml").read_text())
    config = CompressConfig.parse(content, "compress.yaml")
    assert set(content) == {name for name in vars(config)}
    assert config.loop.target == 8.0 and config.ratios[-1] == "dense"
    for name, value in vars(CompressConfig()).items():  # the defaults are those of the file
        if name != "finetune":
            assert getattr(config, name) == value, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trails": 3}, r"x.yaml: unknown key 'trails'; did you mean 'trials'\?"),
        ({"colour": 3}, "x.yaml: unknown key 'colour'; it takes: budget, target, "),
        ({"budget": "flops"}, "x.yaml: budget: 'flops' is unknown; one of parameters, macs"),
        ({"controller": "ppo"}, "controller: 'ppo' is unknown; one of reinforce"),
        ({"truncation": "asvd"}, "truncation: 'asvd' is unknown; one of plain, whitened, activation_pca"),
        ({"survivor_fidelity": "wer"}, "survivor_fidelity: 'wer' is unknown; one of loss, ctc, beam, null"),
        ({"trials": 0}, "trials: 0 is not a whole number of at least 1"),
        ({"trials": 2.5}, "trials: 2.5 is not a whole number"),
        ({"compression": 0.5}, "compression: 0.5 is not a number of at least 1"),
        ({"target": 1}, "target and compression: write how many times smaller, above 1"),
        ({"tolerance": -1}, "tolerance: -1 is not a number of at least 0"),
        ({"roles": ["atention"]}, "roles: 'atention' is unknown; any of attention"),
        ({"search_set": {"size": 10}}, "search_set: unknown key 'size'; it takes: split, utterances, candidates"),
        ({"calibration": 50}, "calibration: 50 is not a mapping with split, utterances"),
        ({"finetune": {"epochs": -1}}, "finetune.epochs: -1 is not a whole number of at least 0"),
        ({"finetune": {"epochs": [2, "many"]}}, "finetune.epochs: 'many' is not a whole number of at least 0"),
        ({"finetune": {"epochs": []}}, r"finetune.epochs: \[\] is empty; write a number, or one for each iteration"),
    ],
)
def test_errors_name_file_key_and_value(content, message):
    with pytest.raises(LrsmsError, match=message):
        CompressConfig.parse(content, "x.yaml")


def test_epochs_of_each_iteration_and_a_schedule_that_ends_with_them():
    schedule = {"scheduler": "cosineannealinglr", "scheduler_conf": {"T_max": "epochs", "eta_min": 0.1}}
    config = CompressConfig.parse({"finetune": {"epochs": [2, 5], **schedule}}, "x.yaml")
    found = [config.finetuning(iteration) for iteration in (1, 2, 3)]
    assert [one["epochs"] for one in found] == [2, 5, 5]
    assert [one["scheduler_conf"] for one in found] == [{"T_max": n, "eta_min": 0.1} for n in (2, 5, 5)]
    assert config.finetune["scheduler_conf"]["T_max"] == "epochs"
    assert CompressConfig.parse({"finetune": {"epochs": 4}}, "x.yaml").finetuning(7) == {"epochs": 4}
    assert CompressConfig.parse({"finetune": {}}, "x.yaml").finetuning(1)["epochs"] == 0
