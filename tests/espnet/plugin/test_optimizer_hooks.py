"""Training aids inside ESPnet's training, and the dense warm-up."""

import copy
import json

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint
from lrsms.espnet.data.cut_batches import CutsDataset
from lrsms.espnet.plugin.optimizer_hooks import install
from lrsms.lowrank import Factored, low_rank_layers
from lrsms.lowrank.semi_orthogonal import orthogonality_error


def with_aid(experiment, **aid) -> dict:
    """``encoder_conf`` and ``decoder_conf`` of the tiny experiment with further low_rank options."""
    config = yaml.safe_load(experiment.config.read_text())
    parts = {}
    for key in ("encoder_conf", "decoder_conf"):
        parts[key] = copy.deepcopy(config[key])
        parts[key]["low_rank"] |= aid
    return parts


def step(model, optimizer, zero=False):
    """One optimizer step; with gradients of 0 only what follows the step moves weights."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if zero else torch.randn_like(parameter)
    optimizer.step()


def test_frobenius_decay_replaces_weight_decay_on_factors_alone(experiment, build_model):
    model = build_model(experiment.output_dir, **with_aid(experiment, frobenius_decay=0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    install(model, optimizer)
    layers = [layer for _, layer in low_rank_layers(model)]
    factors = {id(layer[index].weight) for layer in layers for index in (0, 1)}
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert {decay[name] for name in factors} == {0.0}
    assert {value for name, value in decay.items() if name not in factors} == {0.2}
    before = layers[0].product().detach()
    expected = layers[0][0].weight - 0.1 * 0.5 * (layers[0][1].weight.T @ layers[0][1].weight) @ layers[0][0].weight
    step(model, optimizer, zero=True)
    torch.testing.assert_close(layers[0][0].weight, expected)
    assert layers[0].product().norm() < before.norm()


def test_semi_orthogonal_acts_on_every_fourth_step(experiment, build_model):
    model = build_model(experiment.output_dir, **with_aid(experiment, semi_orthogonal=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    install(model, optimizer)
    layer = next(layer for _, layer in low_rank_layers(model))
    torch.nn.init.normal_(layer[0].weight)
    errors = [orthogonality_error(layer)]
    for _ in range(9):
        step(model, optimizer, zero=True)
        errors.append(orthogonality_error(layer))
    changed = [index for index in range(1, 10) if errors[index] != errors[index - 1]]
    assert changed == [4, 8]
    assert errors[9] < errors[0]


def test_muon_takes_matrices_that_are_not_of_tokens(experiment, build_model):
    model = build_model(experiment.output_dir, **with_aid(experiment, muon=1.0, semi_orthogonal=1.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    install(model, optimizer)
    for _ in range(4):
        step(model, optimizer)
    taken = {name for name, parameter in model.named_parameters() if "momentum_buffer" in optimizer.state[parameter]}
    low_rank = {path for path, _ in low_rank_layers(model)}
    assert {f"{path}.{index}.weight" for path in low_rank for index in (0, 1)} <= taken
    assert "encoder.encoders.0.conv_module.pointwise_conv1.weight" in taken  # which is dense
    assert not [name for name in taken if "embed.0.weight" in name or "output_layer" in name or name.endswith("bias")]
    assert all("exp_avg" in optimizer.state[p] for name, p in model.named_parameters() if name not in taken)
    assert {int(state["step"]) for state in optimizer.state.values()} == {4}


def test_no_aid_leaves_the_optimizer_alone(experiment, build_model):
    model = build_model(experiment.output_dir)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    install(model, optimizer)
    assert len(optimizer.param_groups) == 1 and not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("aid", [{"frobenius_decay": 0.1}, {"semi_orthogonal": 0.5}, {"self_guided": 3}, {"muon": 1.0}])
def test_training_with_an_aid_finishes_and_opens_in_espnet(aid, experiment, write_config, make_training, tmp_path):
    config = write_config(tmp_path / "train.yaml", **with_aid(experiment, **aid), max_epoch=2)
    training = make_training(config, tmp_path / "exp" / "aided")
    training.run()
    plain, aided = (
        json.loads((folder / "summary.json").read_text()) for folder in (experiment.output_dir, training.output_dir)
    )
    assert aided["parameters"] == plain["parameters"]  # a guide is not part of the model
    recognizer = Speech2Text(training.output_dir / "config.yaml", training.output_dir / "2epoch.pth")
    assert not hasattr(recognizer.asr_model.encoder, "self_guide")
    stored = read_checkpoint(training.output_dir / "2epoch.pth")
    assert not [name for name in stored if "self_guide.weights" in name]  # 3 steps are over
    assert torch.equal(
        stored["encoder.encoders.0.self_attn.linear_q.0.weight"],
        recognizer.asr_model.encoder.encoders[0].self_attn.linear_q[0].weight,
    )


def test_warm_up_trains_dense_and_goes_on_from_its_svd(experiment, write_config, make_training, tmp_path, monkeypatch):
    config = write_config(tmp_path / "train.yaml", warmup_epochs=1)
    training = make_training(config, tmp_path / "exp" / "warm")
    seen = {}

    from lrsms.espnet.training.trainer import LowRankTrainer

    run = LowRankTrainer.run.__func__

    def spy(cls, model, *args, **kwargs):
        seen[str(kwargs["trainer_options"].output_dir)] = copy.deepcopy(model.state_dict())
        return run(cls, model, *args, **kwargs)

    monkeypatch.setattr(LowRankTrainer, "run", classmethod(spy))
    epochs = []
    monkeypatch.setattr(CutsDataset, "set_epoch", lambda self, epoch: epochs.append(epoch))
    training.run()
    assert sorted(set(epochs)) == [1, 2, 3]  # order, noise and clean_epochs go on from the warm-up
    folder = training.output_dir
    dense = read_checkpoint(folder / "warmup" / "1epoch.pth")
    start = seen[str(folder)]
    name = "encoder.encoders.1.feed_forward.w_1"
    assert f"{name}.weight" in dense and f"{name}.0.weight" in start
    left, values, right = torch.linalg.svd(dense[f"{name}.weight"])
    rank = start[f"{name}.0.weight"].shape[0]
    best = left[:, :rank] * values[:rank] @ right[:rank]
    torch.testing.assert_close(start[f"{name}.1.weight"] @ start[f"{name}.0.weight"], best, rtol=1e-4, atol=1e-5)
    assert torch.equal(start["encoder.after_norm.weight"], dense["encoder.after_norm.weight"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 3 and summary["warmup_epochs"] == 1  # max_epoch counts both
    assert len(json.loads((folder / "curves.json").read_text())["train"]["epoch"]) == 2
    assert any(
        isinstance(layer, Factored)
        for _, layer in low_rank_layers(Speech2Text(folder / "config.yaml", folder / "2epoch.pth").asr_model)
    )
    seen.clear()
    training.run()
    assert not seen  # finished: nothing is trained again


def test_warm_up_must_leave_epochs(experiment, write_config, make_training, tmp_path):
    config = write_config(tmp_path / "train.yaml", warmup_epochs=3)
    with pytest.raises(LrsmsError, match="warmup_epochs: 3 is not .* max_epoch, 3"):
        make_training(config, tmp_path / "exp").run()
