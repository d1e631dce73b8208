"""Stage 3: what a training leaves, and that a killed one goes on as if nothing had happened."""

import csv
import dataclasses
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from lhotse import CutSet

from lrsms.data.excluded import read_excluded
from lrsms.errors import LrsmsError
from lrsms.espnet.bench.loaders import FromDump
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint
from lrsms.espnet.training.run import Training
from lrsms.espnet.training.trainer import LowRankTrainer


def weights_of(folder) -> dict:
    return read_checkpoint(folder / "checkpoint.pth")["model"]


def assert_same_weights(left, right):
    left, right = weights_of(left), weights_of(right)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class Killed(Exception):
    pass


def test_resuming_gives_the_weights_of_an_uninterrupted_run(experiment, make_training, tmp_path, monkeypatch):
    """Dropout and SpecAugment are on. Killed before epoch 3, and then also with a checkpoint cut off in mid-save."""
    train_one_epoch = LowRankTrainer.train_one_epoch.__func__

    def kill_at_three(cls, *, reporter, **kwargs):
        if reporter.get_epoch() == 3:
            raise Killed
        return train_one_epoch(cls, reporter=reporter, **kwargs)

    killed = make_training(experiment.config, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(LowRankTrainer, "train_one_epoch", classmethod(kill_at_three))
        with pytest.raises(Killed):
            killed.run()
    assert not (killed.output_dir / "summary.json").exists()
    assert LowRankTrainer.progress.disable  # closed: an open one crashes Python 3.13 when it ends
    torn = dataclasses.replace(killed, output_dir=tmp_path / "torn")
    shutil.copytree(killed.output_dir, torn.output_dir, symlinks=True)
    for name in ("checkpoint.pth", "2epoch.pth"):
        whole = (torn.output_dir / name).read_bytes()
        (torn.output_dir / name).write_bytes(whole[: len(whole) // 2])

    for training in (killed, torn):
        training.run()
        assert_same_weights(training.output_dir, experiment.output_dir)
        curves = json.loads((training.output_dir / "curves.json").read_text())
        reference = json.loads((experiment.output_dir / "curves.json").read_text())
        assert curves["train"]["epoch"] == [1, 2, 3]
        assert curves["train"]["loss"] == reference["train"]["loss"]
        assert curves["valid"]["acc"] == reference["valid"]["acc"]


def test_training_leaves_espnets_files_and_ours(experiment):
    names = {path.name for path in experiment.output_dir.iterdir()}
    assert {"config.yaml", "checkpoint.pth", "3epoch.pth", "latest.pth", "valid.acc.ave.pth"} <= names
    assert {"rank_plan.yaml", "prepared.json", "summary.json", "curves.json", "inputs.json"} <= names
    assert not [name for name in names if name.startswith(".unfinished")]


def test_rank_plan(experiment):
    plan = yaml.safe_load((experiment.output_dir / "rank_plan.yaml").read_text())
    assert plan["parts"]["encoder"] == {"of": "full_rank", "layer_map": "linear", "init": "svd"}
    layers = {layer["module"]: layer for layer in plan["layers"]}
    query = layers["encoder.encoders.0.self_attn.linear_q"]
    assert (query["role"], query["depth"], query["inputs"], query["outputs"]) == ("attention", 0, 16, 16)
    deeper = layers["encoder.encoders.1.self_attn.linear_q"]
    assert (query["rank"] + deeper["rank"]) == 2 * 4 and query["rank"] <= deeper["rank"]
    assert query["parameters"] == query["rank"] * 32 and query["dense_parameters"] == 256
    assert layers["encoder.encoders.0.feed_forward_macaron.w_1"]["rank"] == 6  # half and 1.5 of 8, cut at 10 of 32/3
    assert layers["encoder.encoders.1.feed_forward_macaron.w_1"]["rank"] == 10
    behind = {"encoder.embed.out", "encoder.embed.out.0"} & layers.keys()  # ESPnet 202611 has the first
    assert [layers[name]["rank"] for name in behind] == [None]
    assert layers["decoder.decoders.0.feed_forward.w_1"]["rank"] == 8
    assert layers["decoder.decoders.0.src_attn.linear_q"]["rank"] is None
    model = weights_of(experiment.output_dir)
    for name, layer in layers.items():
        if layer["rank"] is not None:
            assert model[f"{name}.0.weight"].shape[0] == layer["rank"]
    assert plan["totals"]["parameters"] == sum(
        value.numel() for name, value in model.items() if not name.endswith(("running_mean", "running_var", "_tracked"))
    )
    saved = sum(layer["dense_parameters"] - layer["parameters"] for layer in plan["layers"])
    assert plan["totals"]["dense_parameters"] - plan["totals"]["parameters"] == saved > 0


def test_summary_and_prepared(experiment, corpus):
    summary = json.loads((experiment.output_dir / "summary.json").read_text())
    prepared = json.loads((experiment.output_dir / "prepared.json").read_text())
    cuts = [cut for cut in CutSet.from_file(corpus / "train/cuts.jsonl.gz") if cut.id != "short-train"]
    assert prepared["train_utterances"] == len(cuts) == 20
    assert prepared["train_hours"] == pytest.approx(sum(cut.duration for cut in cuts) / 3600)
    assert prepared.items() <= summary.items()
    totals = yaml.safe_load((experiment.output_dir / "rank_plan.yaml").read_text())["totals"]
    assert totals.items() <= summary.items()
    assert summary["parameters"] < summary["dense_parameters"]
    assert summary["macs_per_second"] < summary["dense_macs_per_second"]
    assert (summary["experiment"], summary["epochs"], summary["seed"]) == ("tiny", 3, 0)
    assert summary["config"] == str(experiment.config)
    assert summary["wall_seconds"] > summary["train_step_seconds"] > 0
    assert {"command", "commit", "versions", "machine"} <= summary.keys()


def test_curves(experiment):
    curves = json.loads((experiment.output_dir / "curves.json").read_text())
    assert curves["train"]["epoch"] == curves["valid"]["epoch"] == [1, 2, 3]
    loss = curves["train"]["loss"]
    assert loss[2] < loss[0]
    for name in ("loss", "acc", "cer", "cer_ctc"):
        assert len(curves["valid"][name]) == 3 and all(isinstance(value, float) for value in curves["valid"][name])


def test_an_utterance_too_short_for_ctc_is_listed_and_left_out(experiment, corpus):
    rows = read_excluded(experiment.output_dir / "excluded.tsv", "train_cuts")
    assert [(row.id, row.reason) for row in rows] == [("short-train", "too_short_for_ctc")]
    assert "tokens in" in rows[0].detail and "0.30 s" in rows[0].detail
    assert read_excluded(experiment.output_dir / "excluded.tsv") == rows  # none of the validation cuts


def test_a_training_whose_exclusions_stood_beside_the_data_goes_on_with_the_same(
    experiment, make_training, write_config, tmp_path
):
    """As version 0.1.0 left it."""
    folder = tmp_path / "tiny"
    shutil.copytree(experiment.output_dir, folder, symlinks=True)
    (folder / "excluded.tsv").unlink()
    make_training(write_config(tmp_path / "train.yaml", max_epoch=4), folder).run()
    assert read_excluded(folder / "excluded.tsv") == read_excluded(experiment.output_dir / "excluded.tsv") != []
    prepared = [json.loads((path / "prepared.json").read_text()) for path in (folder, experiment.output_dir)]
    assert prepared[0]["train_hours"] == prepared[1]["train_hours"]
    assert read_checkpoint(folder / "checkpoint.pth")["reporter"]["stats"].keys() == {1, 2, 3, 4}


def test_a_training_writes_nothing_beside_the_data(experiment, corpus):
    stages = {row["stage"] for split in ("train", "dev") for row in _rows(corpus / split / "excluded.tsv")}
    assert stages <= {"prepare", "cuts"}


def _rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t")) if path.exists() else []


def test_an_unchanged_training_is_skipped(experiment, capsys, monkeypatch):
    monkeypatch.setattr(Training, "_launch", lambda self: pytest.fail("trained again"))
    experiment.run()
    assert "skipped" in capsys.readouterr().out


def test_a_training_is_skipped_though_its_config_has_a_base_now(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Training, "_launch", lambda self: pytest.fail("trained again"))
    shutil.copytree(experiment.output_dir, tmp_path / "tiny")
    config = dict(reversed(yaml.safe_load(experiment.config.read_text()).items()))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config | {"grad_clip": 1}, sort_keys=False))
    path = tmp_path / "train.yaml"
    path.write_text(f"base: base.yaml\ngrad_clip: {config['grad_clip']}\n")
    training = dataclasses.replace(experiment, output_dir=tmp_path / "tiny", config=path)
    training.run()
    assert "skipped" in capsys.readouterr().out
    path.write_text("base: base.yaml\n")
    with pytest.raises(LrsmsError, match="another config, seed or data"):
        training.run()


def test_a_training_is_skipped_though_its_cuts_were_made_again(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Training, "_launch", lambda self: pytest.fail("trained again"))
    folder, cuts = tmp_path / "tiny", tmp_path / "cuts.jsonl.gz"
    shutil.copytree(experiment.output_dir, folder)
    content = gzip.decompress(experiment.train_cuts.read_bytes())
    cuts.write_bytes(gzip.compress(content, mtime=1))
    state = json.loads((folder / "inputs.json").read_text())
    del state["inputs"][str(experiment.train_cuts)]
    state["inputs"][str(cuts)] = hashlib.sha256(cuts.read_bytes()).hexdigest()  # as earlier versions have written it
    (folder / "inputs.json").write_text(json.dumps(state))
    training = dataclasses.replace(experiment, output_dir=folder, train_cuts=cuts)
    training.run()
    assert "skipped" in capsys.readouterr().out
    cuts.write_bytes(gzip.compress(content, mtime=2))
    training.run()
    assert "skipped" in capsys.readouterr().out
    cuts.write_bytes(gzip.compress(content.replace(b"train", b"other"), mtime=2))
    with pytest.raises(LrsmsError, match="another config, seed or data"):
        training.run()


@pytest.mark.parametrize("change", ["config", "seed", "options"])
def test_a_folder_with_another_training_is_refused(change, experiment, make_training, write_config, tmp_path):
    attributes = {"seed": {"seed": 5}, "options": {"espnet_options": ["--max_epoch", "4"]}}.get(change, {})
    config = write_config(tmp_path / "other.yaml", grad_clip=1) if change == "config" else experiment.config
    before = (experiment.output_dir / "inputs.json").read_text()
    with pytest.raises(LrsmsError, match=f"{experiment.output_dir} holds a training of another.*--force true"):
        make_training(config, experiment.output_dir, **attributes).run()
    assert (experiment.output_dir / "inputs.json").read_text() == before


def test_force_starts_again(experiment, write_config, make_training, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(experiment.output_dir, folder, symlinks=True)
    launched = []
    monkeypatch.setattr(Training, "_launch", lambda self: launched.append((folder / "checkpoint.pth").exists()))
    monkeypatch.setattr("lrsms.espnet.training.run.summarize", lambda training: None)
    make_training(write_config(tmp_path / "other.yaml", grad_clip=1), folder).run(force=True)
    assert launched == [False]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"train_cuts": "absent"}, "absent: not found; run stage 1 first"),
        ({"lang_dir": "absent"}, "absent/tokens.txt: not found; run stage 2 first"),
        ({"ngpu": 99}, "--ngpu 99: torch sees"),
    ],
)
def test_missing_inputs(attributes, message, experiment, tmp_path):
    absent = {key: tmp_path / value if value == "absent" else value for key, value in attributes.items()}
    with pytest.raises(LrsmsError, match=message):
        dataclasses.replace(experiment, output_dir=tmp_path / "exp", **absent).run()


def test_another_sampling_rate_is_refused(experiment, corpus, tmp_path):
    cuts = [cut.resample(8000) for cut in CutSet.from_file(corpus / "dev/cuts.jsonl.gz")]
    (tmp_path / "narrow").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "narrow/cuts.jsonl.gz")
    narrow = dataclasses.replace(experiment, output_dir=tmp_path / "exp", train_cuts=tmp_path / "narrow/cuts.jsonl.gz")
    with pytest.raises(LrsmsError, match=r"digits-dev-000000 has 8000 Hz, but frontend_conf.fs is 16000; run stage 1"):
        narrow.run()


def test_nothing_long_enough_is_an_error(experiment, corpus, tmp_path):
    cuts = [cut for cut in CutSet.from_file(corpus / "train/cuts.jsonl.gz") if cut.id == "short-train"]
    (tmp_path / "short").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "short/cuts.jsonl.gz")
    with pytest.raises(LrsmsError, match="every utterance is too short for its transcript"):
        dataclasses.replace(experiment, output_dir=tmp_path / "exp", train_cuts=tmp_path / "short/cuts.jsonl.gz").run()


@pytest.fixture(scope="module")
def with_global_mvn(tmp_path_factory, write_config, make_training):
    """A training of one epoch with ``normalize: global_mvn`` in the folder that is then the working directory."""
    folder = tmp_path_factory.mktemp("global_mvn")
    changes = {"frontend": "default", "frontend_conf": {"fs": 16000, "n_mels": 20}, "max_epoch": 1}
    config = write_config(folder / "train.yaml", normalize="global_mvn", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        training = make_training(config, Path("exp") / "tiny")
        training.run()
    return dataclasses.replace(training, output_dir=folder / "exp" / "tiny")


def test_global_mvn_takes_the_statistics_that_espnet_would_collect(with_global_mvn, corpus, tmp_path):
    dump = FromDump(tmp_path / "dump", corpus / "lang_char" / "tokens.txt", max_duration=20)
    dump.dump(with_global_mvn.train_cuts)
    kept = ("frontend", "frontend_conf", "encoder", "encoder_conf", "decoder", "decoder_conf")
    config = {key: value for key, value in yaml.safe_load(with_global_mvn.config.read_text()).items() if key in kept}
    (tmp_path / "espnet.yaml").write_text(yaml.safe_dump(config))
    dump.collect(tmp_path / "espnet.yaml")
    found = np.load(with_global_mvn.output_dir / "feats_stats.npz")
    expected = np.load(tmp_path / "dump" / "stats" / "train" / "feats_stats.npz")
    assert found["count"] == expected["count"] > 1000
    for name in ("sum", "sum_square"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3)  # last frames: ESPnet pads a batch


def test_global_mvn_is_found_from_another_folder(with_global_mvn, tmp_path, monkeypatch):
    folder = with_global_mvn.output_dir
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["normalize_conf"]["stats_file"] == "exp/tiny/feats_stats.npz"
    monkeypatch.chdir(tmp_path)
    model = ASRTask.build_model_from_file(folder / "config.yaml", folder / "valid.acc.ave.pth")[0]
    stats = np.load(folder / "feats_stats.npz")
    np.testing.assert_allclose(model.normalize.mean, stats["sum"] / stats["count"], rtol=1e-5)
    (folder / "feats_stats.npz").rename(folder / "elsewhere.npz")
    try:
        with pytest.raises(LrsmsError, match="normalize_conf.stats_file: none of .*feats_stats.npz is found"):
            ASRTask.build_model_from_file(folder / "config.yaml", folder / "valid.acc.ave.pth")
    finally:
        (folder / "elsewhere.npz").rename(folder / "feats_stats.npz")


def test_global_mvn_without_a_front_end_is_refused(experiment, make_training, write_config, tmp_path):
    changes = {"frontend": None, "frontend_conf": None, "input_size": 20}
    config = write_config(tmp_path / "train.yaml", normalize="global_mvn", **changes)
    with pytest.raises(LrsmsError, match="global_mvn: no frontend"):
        make_training(config, tmp_path / "exp").run()


def test_iterations_per_epoch_are_refused(experiment, tmp_path):
    with pytest.raises(LrsmsError, match="num_iters_per_epoch"):
        dataclasses.replace(
            experiment, output_dir=tmp_path / "exp", espnet_options=["--num_iters_per_epoch", "2"]
        ).run()
