"""A training YAML looked at without training."""

import json

import pytest
import yaml

from lrsms.errors import LrsmsError
from lrsms.espnet.models.rank_preview import preview


@pytest.fixture
def found(experiment):
    prepared = json.loads((experiment.output_dir / "prepared.json").read_text())
    tokens = len((experiment.lang_dir / "tokens.txt").read_text().splitlines())
    return prepared, preview(experiment.config, tokens, 4.0), tokens


def test_it_forecasts_what_the_training_measures(found, experiment):
    prepared, shown, tokens = found
    assert shown.cost.parameters == prepared["parameters"]
    assert shown.cost.dense_parameters == prepared["dense_parameters"]
    # only the decoder's share depends on the corpus, by its token rate
    assert shown.cost.macs_per_second == pytest.approx(prepared["macs_per_second"], rel=0.2)
    plan = yaml.safe_load((experiment.output_dir / "rank_plan.yaml").read_text())["layers"]
    ranks = {f"{part}.{entry.module}": entry.rank for part, one in shown.plans.items() for entry in one.entries}
    assert ranks == {layer["module"]: layer["rank"] for layer in plan}


def test_macs_of_the_layers_add_up_to_less_than_all(found):
    _, shown, _ = found
    # what is left is attention itself, much in so narrow a model, and depthwise convolution
    assert 0.3 * shown.cost.macs_per_second < sum(shown.macs.values()) < shown.cost.macs_per_second


def test_memory_follows_the_batch_and_the_rank(experiment, write_config, tmp_path):
    small = preview(write_config(tmp_path / "a.yaml", max_duration=20.0), 30, 4.0)
    large = preview(write_config(tmp_path / "b.yaml", max_duration=40.0), 30, 4.0)
    assert large.memory["activations"] == pytest.approx(2 * small.memory["activations"], rel=0.01)
    assert large.memory["weights"] == small.memory["weights"] == small.memory["optimizer"] // 2
    assert small.memory["weights"] < small.dense_memory["weights"]
    assert small.memory["activations"] > 1e5


def test_a_target_is_resolved(experiment, write_config, tmp_path):
    config = yaml.safe_load(experiment.config.read_text())
    block = {"target": {"parameters": "1.5x"}, "attention": 0.5, "feed_forward": 0.5, "convolution": 0.5}
    block |= {"subsampling": 0.5, "multiple": 1}
    encoder = config["encoder_conf"] | {"low_rank": block}
    shown = preview(write_config(tmp_path / "t.yaml", encoder_conf=encoder), 30, 4.0)
    assert 1.5 <= shown.cost.dense_parameters / shown.cost.parameters < 1.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "multiconv_conformer"},
            "encoder: 'multiconv_conformer' has no low-rank form; one of lowrank_conformer",
        ),
        ({"encoder_conf": {"outptu_size": 16}}, "unknown key 'outptu_size'; did you mean 'output_size'"),
        ({"encoder": "conformer"}, "unknown key 'low_rank'"),
        ({"encoder_conf": {"low_rank": {"attention": 2}}}, "encoder_conf.low_rank.attention: 2 is not a rank ratio"),
        ({"frontend": "s3prl"}, "frontend: the size of 's3prl' is not known here; write input_size"),
    ],
)
def test_errors_name_file_and_key(changes, message, write_config, tmp_path):
    with pytest.raises(LrsmsError, match=message):
        preview(write_config(tmp_path / "bad.yaml", **changes), 30, 4.0)


def test_the_verb_prints_draws_and_does_not_load_espnets_task(experiment, run_python, tmp_path):
    code = (
        "import sys; from lrsms.bin import plan; plan.main(); "
        "assert 'espnet2.tasks.asr' not in sys.modules and 'torchaudio' not in sys.modules"
    )
    options = ["--config", experiment.config, "--token_list", experiment.lang_dir / "tokens.txt"]
    options += ["--png", tmp_path / "ranks.png", "--html", tmp_path / "plan.html"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(f"base: {experiment.config}\nmax_epoch: 77\n")
    options = ["--config", changed, *options[2:], "--write", tmp_path / "plain.yaml"]
    done = run_python("-c", code, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Rank plan of the encoder" in done.stdout and "MMACs/s" in done.stdout
    assert "training memory   about" in done.stdout and "x fewer" in done.stdout
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")
    plain = yaml.safe_load((tmp_path / "plain.yaml").read_text())
    assert plain == yaml.safe_load(experiment.config.read_text()) | {"max_epoch": 77}
    page = (tmp_path / "plan.html").read_text()
    assert "encoder.encoders.0.self_attn.linear_q" in page and "data:image/png;base64," in page


def test_a_missing_token_list_is_an_error(experiment, run_module, tmp_path):
    done = run_module("lrsms.bin.plan", "--config", experiment.config, "--token_list", "no.txt", cwd=tmp_path)
    assert done.returncode == 1 and "no.txt: not found" in done.stderr
