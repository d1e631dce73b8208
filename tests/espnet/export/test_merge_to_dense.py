"""A low-rank experiment as an ordinary dense one."""

import subprocess
import sys

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.export.merge_to_dense import merge_experiment
from lrsms.lowrank import low_rank_layers

STOCK = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "lrsms":
            raise ImportError("lrsms is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from espnet2.bin.asr_inference import Speech2Text
recognizer = Speech2Text(sys.argv[1] + "/config.yaml", sys.argv[1] + "/valid.acc.ave.pth", device="cpu")
speech = torch.randn(1, 48000, generator=torch.Generator().manual_seed(0)) * 0.1
with torch.no_grad():
    torch.save(recognizer.asr_model.encode(speech, torch.tensor([48000]))[0], sys.argv[2])
assert type(recognizer.asr_model.encoder).__module__.startswith("espnet2.")
assert type(recognizer.asr_model.decoder).__module__.startswith("espnet2.")
"""


@pytest.fixture(scope="module")
def stock_frontend(tmp_path_factory, write_config, make_training):
    """A training of one epoch with ESPnet's own front-end, CTC's output low-rank too."""
    folder = tmp_path_factory.mktemp("stock")
    base = yaml.safe_load(write_config(folder / "base.yaml").read_text())
    base["encoder_conf"]["low_rank"]["output"] = 0.25
    changes = {"frontend": "default", "frontend_conf": {"fs": 16000, "n_mels": 20}, "max_epoch": 1}
    config = write_config(folder / "train.yaml", **changes, encoder_conf=base["encoder_conf"])
    training = make_training(config, folder / "exp" / "stock")
    training.run()
    return training.output_dir


def encoded(model) -> torch.Tensor:
    speech = torch.randn(1, 48000, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        return model.encode(speech, torch.tensor([48000]))[0]


def test_stock_espnet_opens_the_merged_experiment_without_this_package(stock_frontend, tmp_path):
    done = merge_experiment(Experiment(stock_frontend), tmp_path / "merged")
    assert done.foreign == "" and done.factored == 0 and done.merged > 15 and done.difference < 1e-5
    output = tmp_path / "encoded.pt"
    command = [sys.executable, "-c", STOCK, str(done.folder), str(output)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    ours = Speech2Text(stock_frontend / "config.yaml", stock_frontend / "valid.acc.ave.pth").asr_model
    assert "ctc_lo.0.weight" in ours.ctc.state_dict()
    torch.testing.assert_close(torch.load(output), encoded(ours), rtol=1e-5, atol=1e-5)


def test_a_front_end_of_ours_is_named(experiment, tmp_path):
    done = merge_experiment(Experiment(experiment.output_dir), tmp_path / "merged")
    assert done.foreign == "frontend: kaldi_fbank is this package's"
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["encoder"] == "conformer" and "low_rank" not in config["encoder_conf"]
    merged = Speech2Text(done.folder / "config.yaml", done.folder / "valid.acc.ave.pth").asr_model
    ours = Speech2Text(experiment.output_dir / "config.yaml", experiment.output_dir / "valid.acc.ave.pth").asr_model
    torch.testing.assert_close(encoded(merged), encoded(ours), rtol=1e-5, atol=1e-5)


def test_what_stays_factored_is_written_as_ranks(stock_frontend, tmp_path):
    trained = Experiment(stock_frontend)
    done = merge_experiment(trained, tmp_path / "merged", lambda path, _: "feed_forward" in path)
    assert done.factored > 0 and "encoder: lowrank_conformer has" in done.foreign
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["decoder"] == "transformer"  # only its feed-forward layers were factored
    merged = Speech2Text(done.folder / "config.yaml", done.folder / "valid.acc.ave.pth").asr_model
    ours = Speech2Text(stock_frontend / "config.yaml", stock_frontend / "valid.acc.ave.pth").asr_model
    kept = {path: layer.rank for path, layer in low_rank_layers(ours) if "feed_forward" not in path}
    assert {path: layer.rank for path, layer in low_rank_layers(merged)} == kept
    torch.testing.assert_close(encoded(merged), encoded(ours), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_merged_is_refused(experiment, tmp_path):
    with pytest.raises(LrsmsError, match="missing.pth: not found"):
        merge_experiment(Experiment(experiment.output_dir, "missing.pth"), tmp_path)
    with pytest.raises(LrsmsError, match="is the experiment itself"):
        merge_experiment(Experiment(experiment.output_dir), experiment.output_dir)
    done = merge_experiment(Experiment(experiment.output_dir), tmp_path / "merged")
    with pytest.raises(LrsmsError, match="no layer is factored"):
        merge_experiment(Experiment(done.folder), tmp_path / "again")


def test_the_verb(experiment, run_python, tmp_path):
    done = run_python(
        "-m", "lrsms.bin.export", "--asr_exp", experiment.output_dir, "--output_dir", tmp_path / "m", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "0 kept factored" in done.stdout and "kaldi_fbank" in done.stdout
    assert (tmp_path / "m" / "valid.acc.ave.pth").exists()
