"""compress.yaml: every key checked."""

import pytest
import yaml

from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError


def test_the_file_that_comes_with_it_is_right_and_shows_every_key(root):
    content = yaml.safe_load((root / "conf" / "compress.yaml").read_text())
    config = CompressConfig.parse(content, "compress.yaml")
    assert set(content) == set(vars(config))
    assert config.loop.target == 8.0 and config.ratios[-1] == "dense"
    for name, value in vars(CompressConfig()).items():  # the defaults are those of the file
        if name not in ("finetune", "tolerance"):  # the spoken digits' dev cannot show the default tolerance
            assert getattr(config, name) == value, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trails": 3}, r"x.yaml: unknown key 'trails'; did you mean 'trials'\?"),
        ({"color": 3}, "x.yaml: unknown key 'color'; it takes: budget, target, "),
        ({"budget": "flops"}, "x.yaml: budget: 'flops' is unknown; one of parameters, macs"),
        ({"controller": "ppo"}, "controller: 'ppo' is unknown; one of reinforce"),
        ({"truncation": "asvd"}, "truncation: 'asvd' is unknown; one of plain, whitened, activation_pca"),
        ({"survivor_fidelity": "wer"}, "survivor_fidelity: 'wer' is unknown; one of loss, ctc, beam, null"),
        ({"trials": 0}, "x.yaml: trials: 0: expected a whole number of at least 1"),
        ({"trials": 2.5}, "trials: 2.5: expected a whole number"),
        ({"compression": 0.5}, "compression: 0.5: expected how many times smaller, a number above 1"),
        ({"target": 1}, "target: 1: expected how many times smaller, a number above 1"),
        ({"tolerance": -1}, "tolerance: -1: expected a number of at least 0"),
        ({"tolerance": float("nan")}, "tolerance: nan: expected a number of at least 0"),
        ({"target": float("inf")}, "target: inf: expected how many times smaller"),
        ({"prune": "no"}, "x.yaml: prune: 'no': expected true or false"),
        ({"seed": True}, "x.yaml: seed: True: expected a whole number of at least 0"),
        ({"budget": "parameter"}, "budget: 'parameter' is unknown; one of parameters, macs; did you mean 'parameters'"),
        ({"ratios": 0.5}, "ratios: 0.5: expected a list, each a number, or text"),
        ({"search_set": {"candidates": 0}}, "x.yaml: search_set.candidates: 0: expected a whole number of at least 1"),
        ({"roles": ["atention"]}, "roles: 'atention' is unknown; any of attention"),
        ({"search_set": {"size": 10}}, "search_set: unknown key 'size'; it takes: split, utterances, candidates"),
        ({"calibration": 50}, "x.yaml: calibration: 50: expected a mapping with split, utterances"),
        (
            {"finetune": {"distill_encoder_weight": 2.0}},
            "x.yaml: finetune.distill_encoder_weight: 2.0 has no teacher without distill_weight; write one above 0",
        ),
        (
            {"finetune": {"epochs": -1}},
            "x.yaml: finetune.epochs: -1: expected a whole number of at least 0, or a list of them, one for each",
        ),
        (
            {"finetune": {"epochs": [2, "many"]}},
            r"finetune.epochs: \[2, 'many'\]: expected a whole number of at least 0, or a list of them",
        ),
        (
            {"finetune": {"epochs": []}},
            r"finetune.epochs: \[\]: expected a whole number of at least 0, or a list of them, one for each iter",
        ),
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
