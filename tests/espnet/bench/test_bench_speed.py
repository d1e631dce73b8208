"""Benchmarks of speed at size tiny: that they run, and that what they write is what they measured."""

import json
import os

import pytest
import yaml

from lrsms.bench import CONFIGS
from lrsms.bench.layer import layer_speed, shapes_of
from lrsms.bench.scale import step_time_over_scale
from lrsms.bench.sizes import write_arms
from lrsms.bench.training import train_speed
from lrsms.bench.workers import workers
from lrsms.errors import LrsmsError


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_arms_change_a_size_and_nothing_else(tmp_path):
    stock, lrsms, plain = (
        yaml.safe_load(path.read_text())
        for path in write_arms(CONFIGS, "paper", ["stock", "lrsms", "lrsms_plain"], tmp_path)
    )
    assert stock == yaml.safe_load((CONFIGS / "paper_dense.yaml").read_text())
    assert lrsms["encoder"] == "lrsms_conformer".replace("lrsms", "lowrank") and lrsms["optim_conf"]["fused"] is True
    assert lrsms["encoder_conf"].pop("low_rank") == plain["encoder_conf"].pop("low_rank")
    assert lrsms["encoder_conf"] == stock["encoder_conf"] and plain["encoder_conf"].pop("fast") is False


def test_every_arm_of_every_size_is_a_config_that_training_takes(tmp_path):
    from lrsms.espnet.config import check_training_config
    from lrsms.espnet.training.task import ASRTask

    arms = list(yaml.safe_load((CONFIGS / "arms.yaml").read_text()))
    for size in ("tiny", "base", "paper"):
        for path in write_arms(CONFIGS, size, arms, tmp_path):
            check_training_config(path, ASRTask)


def test_unknown_sizes_arms_and_shapes_are_refused(tmp_path):
    with pytest.raises(LrsmsError, match="--size: 'huge' is unknown; one of tiny, base, paper"):
        write_arms(CONFIGS, "huge", ["stock"], tmp_path)
    with pytest.raises(LrsmsError, match="--arms: 'lrsm' is not in .*arms.yaml; there are stock, dense"):
        write_arms(CONFIGS, "tiny", ["lrsm"], tmp_path)
    with pytest.raises(LrsmsError, match="--shapes: '768' is not a shape"):
        shapes_of(["768"], CONFIGS, "tiny")
    assert shapes_of(None, CONFIGS, "paper") == [(768, 3072), (3072, 768), (768, 768)]


def test_layers_are_timed_by_shape_and_rank(tmp_path):
    table = layer_speed([(32, 64)], [0.25], tmp_path, frames=50, rounds=3)
    found = [one for one in read(tmp_path, "layer")["results"] if one["layer"] != "tensorly-torch"]
    assert [one["layer"] for one in found] == ["dense", "ours", "two nn.Linear"] * 2 and "share achieved" in table
    ours = found[1]
    assert ours["rank"] == 8 and ours["weights"] == 8 * 96 and ours["flop_ratio"] == pytest.approx(2048 / 768)
    assert ours["share"] == pytest.approx(ours["times_faster"] / ours["flop_ratio"])
    with pytest.raises(LrsmsError, match="--ratios: 1.5 is not in"):
        layer_speed([(32, 64)], [1.5], tmp_path)


def test_step_time_is_measured_over_scale_and_processes(tmp_path):
    step_time_over_scale(
        *(CONFIGS, "tiny", ["stock", "lrsms"], tmp_path),
        **{"widths": [64], "depths": [], "lengths": [], "worlds": [2], "batch": 1, "seconds": 1.0, "steps": 1},
        vocab_size=20,
    )
    content = read(tmp_path, "scale")
    assert [(one["over"], one["value"], one["arm"]) for one in content["results"]] == [
        *(("width", 64, "stock"), ("width", 64, "lrsms"), ("processes", 2, "stock"), ("processes", 2, "lrsms"))
    ]
    stock, low = content["results"][:2]
    assert stock["parameters"] > low["parameters"] and all(one["step"]["median"] > 0 for one in content["results"])
    dense = content["forecast"][0]
    assert dense["gpus"] == 8 and dense["sent_bytes"] == pytest.approx(2 * 7 / 8 * dense["gradient_bytes"])
    assert dense["gradient_bytes"] > content["forecast"][2]["gradient_bytes"]


def test_data_is_loaded_both_ways_and_over_made_up_hours(corpus, tmp_path):
    from lrsms.bench.data import data_speed, write_manifest

    (config,) = write_arms(CONFIGS, "tiny", ["lrsms"], tmp_path)
    cuts = corpus / "dev" / "cuts.jsonl.gz"
    options = {"hours": [0.02, 0.2], "max_duration": 10.0, "steps": 1}
    if not (corpus / "lang_char" / "tokens.txt").exists():
        with pytest.raises(LrsmsError, match="tokens.txt: not found; run stage 2 first"):
            data_speed(cuts, config, tmp_path / "out", **options)
        (corpus / "lang_char").mkdir()
        (corpus / "lang_char" / "tokens.txt").write_text("\n".join(["<blank>", "<unk>", *" eotn", "<sos/eos>"]) + "\n")
    data_speed(cuts, config, tmp_path / "out", **options)
    content = read(tmp_path / "out", "data")
    theirs, ours = content["ways"]
    assert theirs["utterances"] == ours["utterances"] == 4 and theirs["prepare"] > 0 == ours["prepare"]
    assert min(theirs["per_second"] + ours["per_second"]) > 0 and 0 <= content["share"]["share"] < 1
    assert [one["hours"] for one in content["growth"]] == [0.02, 0.2]
    count = write_manifest(tmp_path / "made_up.jsonl.gz", 0.2)
    assert content["growth"][1]["utterances"] == count > 50


class Counter:
    def __init__(self, start):
        if start < 0:
            raise LrsmsError(f"{start}: below zero")
        self.number = start

    def up(self, by=1):
        self.number += by
        return self.number, os.getpid()

    def die(self):
        os._exit(3)


def test_each_arm_has_a_process_of_its_own_and_says_what_went_wrong():
    with workers({"a": (Counter, (0,), {}), "b": (Counter, (10,), {})}) as arms:
        (a, first), (b, second) = arms["a"].call("up", by=2), arms["b"].call("up")
        assert (a, b) == (2, 11) and len({first, second, os.getpid()}) == 3
        with pytest.raises(LrsmsError, match="ended with status 3"):
            arms["a"].call("die")
        with pytest.raises(LrsmsError, match="AttributeError"):
            arms["b"].call("down")
    with pytest.raises(LrsmsError, match="-1: below zero"), workers({"c": (Counter, (-1,), {})}):
        pass


@pytest.mark.parametrize("on_gpu", [False, True])
def test_arms_on_a_gpu_do_not_come_from_a_server_that_has_seen_it(monkeypatch, tmp_path, on_gpu):
    class Asked(Exception):
        pass

    def start_context(module, on_gpu):
        raise Asked(on_gpu)

    monkeypatch.setattr("lrsms.bench.workers.start_context", start_context)
    with pytest.raises(Asked, match=str(on_gpu)):
        train_speed([tmp_path / "a.yaml"], tmp_path, batches=[1], seconds=1.0, device="cuda" if on_gpu else "cpu")


def test_precisions_that_there_are_not_are_refused(tmp_path):
    options = {"batches": [1], "seconds": 1.0}
    with pytest.raises(LrsmsError, match="--precisions: 'int8' is unknown; any of fp32, tf32, bf16"):
        train_speed([tmp_path / "a.yaml"], tmp_path, precisions=["int8"], **options)
    with pytest.raises(LrsmsError, match="--precisions: tf32 is a GPU's; it needs --device cuda"):
        train_speed([tmp_path / "a.yaml"], tmp_path, precisions=["fp32", "tf32"], **options)
