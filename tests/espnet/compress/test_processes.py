"""Stage 6 by several processes, on models of as many tensors as the shipped configurations have."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from lrsms.compress import iterate
from lrsms.compress.config import CompressConfig
from lrsms.compress.search import finished_trials
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.storage import open_study
from lrsms.training_yaml import read_training_yaml

CHECKPOINT = "valid.acc.ave.pth"
# Of the shipped conf/compress.yaml, what makes it quick.
SHORT = {
    **{"trials": 6, "survivors": 2, "compression": 1.05, "max_iterations": 1, "confidence": 0.0},
    **{"calibration": {"utterances": 2}, "search_set": {"utterances": 3, "candidates": 2}, "finetune": {"epochs": 0}},
}


@pytest.fixture(scope="module")
def untrained(root, tiny_args, tmp_path_factory):
    """``untrained(name)``: an experiment of ``conf/<name>.yaml`` whose weights are as they were drawn."""

    def make(name: str) -> Path:
        args = tiny_args(**read_training_yaml(root / "conf" / f"{name}.yaml"), token_type="char")
        torch.manual_seed(0)
        state = ASRTask.build_model(args).state_dict()
        folder = tmp_path_factory.mktemp("exp") / name
        Experiment(folder, CHECKPOINT).write(vars(args), state)
        return folder

    return make


@pytest.fixture
def toolkit_for(root, corpus, tmp_path):
    def make(experiment: Path, **changes) -> EspnetToolkit:
        content = yaml.safe_load((root / "conf/compress.yaml").read_text()) | SHORT | changes
        decode_config = tmp_path / "decode.yaml"
        decode_config.write_text("beam_size: 2\nctc_weight: 0.5\nmaxlenratio: -4\n")
        config = CompressConfig.parse(content, "compress.yaml")
        return EspnetToolkit(config, tmp_path / "compressed", experiment, corpus, decode_config=decode_config)

    return make


@pytest.mark.parametrize("name", ["train_lrsms", "train_dense"])
def test_the_shipped_configurations_are_compressed_by_two_processes(untrained, toolkit_for, name, capfd):
    toolkit = replace(toolkit_for(untrained(name)), nj=2)
    toolkit.begin()
    (iteration,) = iterate.run(toolkit, toolkit.original, toolkit.root, toolkit.config.loop)
    assert iteration.compression >= 1.05 * 0.99
    assert "ended with status" not in capfd.readouterr().err


def test_what_is_neither_searched_nor_low_rank_is_not_factored(untrained, toolkit_for):
    toolkit = toolkit_for(untrained("train_dense"), parts=["encoder"], truncation="activation_pca")
    compressible = toolkit.open(toolkit.original)
    factored = list(toolkit.sliced(compressible, "activation_pca").factors)
    assert factored == [layer.path for layer in compressible.layers if layer.path.startswith("encoder.")]
    assert len(factored) < len(compressible.layers)


def test_another_process_is_sent_no_tensor(untrained, toolkit_for):
    toolkit = toolkit_for(untrained("train_lrsms"))
    toolkit.cost(toolkit.original)
    toolkit.sliced(toolkit.open(toolkit.original), "whitened")
    opened = [*toolkit.open(toolkit.original).model.state_dict(), *toolkit._seen, *toolkit._seen]
    assert len(opened) > 256  # tensors, a moment's mean and second: more than multiprocessing sends
    sent = pickle.dumps(toolkit)
    assert b"torch" not in sent and len(sent) < 10_000
    assert pickle.loads(sent) == toolkit


def test_the_search_is_the_same_whoever_runs_its_trials(experiment, toolkit_for, tmp_path):
    """Of a controller and trials that do not depend on what others have found: to the last bit."""
    found = {}
    for nj in (1, 2, 4):
        changes = {"controller": "random", "prune": False, "trials": 12, "multiple": 1}
        toolkit = toolkit_for(experiment.output_dir, **changes, ratios=[0.15, 0.3, "dense"])
        toolkit = replace(toolkit, root=tmp_path / str(nj), nj=nj)
        ranks = toolkit.search(toolkit.original, toolkit.cost(toolkit.original) / 1.15, "iter1")
        study = open_study(toolkit.root / "optuna.journal", f"{nj}/iter1")
        found[nj] = (ranks, [(one.choice, one.error) for one in finished_trials(study)])
    assert found[1] == found[2] == found[4]


def test_a_worker_of_another_machine_makes_the_same_factors(experiment, toolkit_for, tmp_path):
    toolkit = toolkit_for(experiment.output_dir, controller="random", ratios=[0.15, 0.3, "dense"], multiple=1)
    limit = toolkit.cost(toolkit.original) / 1.15
    toolkit.search(toolkit.original, limit, "iter1")
    factors = set((toolkit.root / "factors").iterdir())
    toolkit._loaded = None
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    toolkit.help(toolkit.original, limit, "iter1")
    torch.set_num_threads(before)
    assert set((toolkit.root / "factors").iterdir()) == factors
