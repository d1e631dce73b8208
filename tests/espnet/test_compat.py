"""What differs between versions of ESPnet."""

import datetime
import shutil

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from torch import nn

from lrsms.espnet.compat import current_names, seconds
from lrsms.espnet.models.role_table import ENCODERS, LOW_RANK_ENCODERS
from lrsms.lowrank.merge import merge_

OPTIONS = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "rel_pos_type": "latest"}
LOW_RANK = {"subsampling": 0.25, "multiple": 2}
SCALED = {"pos_enc_layer_type": "scaled_abs_pos", "selfattention_layer_type": "selfattn"}
OURS = "202511" if type(ConformerEncoder(20, **OPTIONS).embed.out) is nn.Sequential else "202611"
OTHER = {"202511": "202611", "202611": "202511"}[OURS]


def of_the_other(weights: dict) -> dict:
    """Weights of the installed version by the names that the other one gives them."""

    def rename(name: str) -> str:
        at, found, rest = name.partition("embed.out.")
        if OURS == "202611":
            return f"{at}embed.out.0.{rest}" if found else name.replace("embed.pos_enc.", "embed.out.1.")
        if not found:
            return name
        return f"{at}embed.out.{rest[2:]}" if rest.startswith("0.") else f"{at}embed.pos_enc.{rest[2:]}"

    return {rename(name): value for name, value in weights.items()}


def encoder(low_rank: dict | None, **changes) -> nn.Module:
    cls = LOW_RANK_ENCODERS["lowrank_conformer"] if low_rank else ConformerEncoder
    return cls(20, **OPTIONS | changes, **({"low_rank": low_rank} if low_rank else {})).eval()


def assert_equal(found: nn.Module, expected: nn.Module):
    wanted = expected.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name]), name


PAIRS = pytest.mark.parametrize("version", ["installed", "other"])
RANKS = pytest.mark.parametrize("low_rank", [LOW_RANK, None], ids=["low-rank", "dense"])
POSITIONS = pytest.mark.parametrize("positions", [{}, SCALED], ids=["relative", "learned"])
LAYERS = pytest.mark.parametrize("layer", ["conv2d", "conv2d8", "conv2d2"])


def saved(model: nn.Module, version: str, layer: str = "conv2d") -> dict:
    weights = model.state_dict()
    renamed = layer != "conv2d8" and version == "other"  # whose names are the same in both
    assert not renamed or of_the_other(weights).keys() != weights.keys()
    return of_the_other(weights) if renamed else dict(weights)


@RANKS
@PAIRS
@POSITIONS
@LAYERS
def test_weights_of_either_version_load(low_rank, version, positions, layer):
    trained, fresh = (nn.ModuleDict({"encoder": encoder(low_rank, input_layer=layer, **positions)}) for _ in range(2))
    stored = saved(trained, version, layer)
    assert current_names(fresh, stored).keys() == trained.state_dict().keys()
    fresh.load_state_dict(stored)  # strict
    assert_equal(fresh, trained)


@RANKS
@PAIRS
@POSITIONS
def test_init_param_takes_weights_of_either_version(low_rank, version, positions, tmp_path):
    """ESPnet adds the file's weights to the model's own: with other names, both are there."""
    trained, fresh = (nn.ModuleDict({"encoder": encoder(low_rank, **positions)}) for _ in range(2))
    torch.save(saved(trained, version), tmp_path / "trained.pth")
    load_pretrained_model(str(tmp_path / "trained.pth"), fresh, ignore_init_mismatch=False)
    assert_equal(fresh, trained)


@PAIRS
def test_a_low_rank_model_begins_from_dense_weights_of_either_version(version, tmp_path):
    dense, same, found = encoder(None), encoder({"subsampling": 0.25, "multiple": 2}), encoder(LOW_RANK)
    torch.save(saved(dense, version), tmp_path / "dense.pth")
    same.load_state_dict(dense.state_dict())
    load_pretrained_model(str(tmp_path / "dense.pth"), found, ignore_init_mismatch=False)
    assert_equal(found, same)
    found = encoder(LOW_RANK)
    found.load_state_dict(saved(dense, version))
    assert_equal(found, same)


def test_a_guided_training_goes_on_with_the_other_versions_names():
    trained, fresh = (encoder(LOW_RANK | {"self_guided": 10}) for _ in range(2))
    ours, theirs = "embed/out/0", "embed/out"
    if OURS == "202611":
        ours, theirs = theirs, ours
    stored = {name.replace(ours, theirs): value for name, value in saved(trained, "other").items()}
    assert f"self_guide.weights.{theirs}" in stored
    fresh.load_state_dict(stored)
    assert_equal(fresh, trained)


@pytest.mark.parametrize("path", ["embed.out", "embed.out.0"])
def test_ranks_by_the_paths_of_either_version(path):
    model = encoder({"ranks": {path: 2}})
    assert {entry.module: entry.rank for entry in model.rank_plan.entries if entry.rank} == {
        "embed.out" if OURS == "202611" else "embed.out.0": 2
    }


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in ("lowrank_av_conformer", "lowrank_whisper")])
def test_a_padded_batch_is_encoded_as_by_espnets_own_class(name, training):
    """Outputs, lengths and gradients, dense and low-rank: ESPnet's class has the product of the factors."""
    base = ENCODERS[name][0]
    options = {"output_size": 32, "num_blocks": 2, "dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    options |= {"attention_dropout_rate": 0.0, "attention_heads": 2}
    low_rank = {"attention": 0.25, "convolution": 0.25, "feed_forward": 0.25, "subsampling": 0.25, "multiple": 4}
    if "rnn" in name:
        options, low_rank = {"hidden_size": 16, "output_size": 32, "dropout": 0.0}, {"recurrent": 0.25, "multiple": 4}
    elif "branchformer" not in name:
        options |= {"linear_units": 64} | ({"rel_pos_type": "latest"} if name == "lowrank_conformer" else {})
    if "branchformer" in name:
        low_rank.pop("feed_forward")
        options |= {"cgmlp_linear_units": 64, "cgmlp_conv_kernel": 7, "rel_pos_type": "latest"}
    if "transformer" in name:
        low_rank.pop("convolution")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 120, 20, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([120, 97, 50])
    rounded = {"rtol": 1e-3, "atol": 1e-4}  # merging multiplies factors out into float32
    for block in (None, low_rank):
        torch.manual_seed(0)
        ours = LOW_RANK_ENCODERS[name](20, **options, **({"low_rank": block} if block else {})).double()
        for module in ours.modules():
            if isinstance(module, nn.BatchNorm1d | nn.LayerNorm):  # they begin where padding stays zero
                nn.init.normal_(module.bias)
        stock = base(20, **options).double()
        merged = LOW_RANK_ENCODERS[name](20, **options, **({"low_rank": block} if block else {})).double()
        merged.load_state_dict(ours.state_dict())
        merge_(merged)
        stock.load_state_dict(merged.state_dict())
        found, expected = (_outputs(model.train(training), x, lengths) for model in (ours, stock))
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, **({"rtol": 1e-8, "atol": 1e-9} if block is None else rounded))


def _outputs(model: nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """Output and length, and the gradients of the input and of weights that are never factored."""
    x = x.clone().requires_grad_()
    output, olens = model(x, lengths)[:2]
    inside = (torch.arange(output.shape[1]) < olens[:, None])[:, :, None]
    output = output * inside
    output.mul(torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view_as(output)).sum().backward()
    plain = [one.grad for name, one in sorted(model.named_parameters()) if "norm" in name or "depthwise" in name]
    return [output.detach(), olens, x.grad, *plain]


def test_durations_as_either_version_stores_them():
    assert seconds(datetime.timedelta(minutes=1.5)) == seconds({"__timedelta_seconds__": 90.0}) == 90.0


def as_the_other_version_saved(folder):
    """Change a training's files to what the other version would have left."""
    for path in folder.glob("*epoch.pth"):
        torch.save(of_the_other(torch.load(path)), path)
    with torch.serialization.safe_globals(_reporter_types()):
        state = torch.load(folder / "checkpoint.pth")
    state["model"] = of_the_other(state["model"])
    for epoch in state["reporter"]["stats"].values():
        for part in epoch.values():
            took = datetime.timedelta(seconds=seconds(part["time"]))
            part["time"] = {"__timedelta_seconds__": took.total_seconds()} if OTHER == "202611" else took
    torch.save(state, folder / "checkpoint.pth")


def _reporter_types():
    from lrsms.espnet.checkpoints.checkpoint import REPORTER_TYPES

    return REPORTER_TYPES


def test_a_training_goes_on_where_the_other_version_left_it(make_training, write_config, tmp_path):
    config = write_config(tmp_path / "train.yaml", max_epoch=1, keep_nbest_models=2)
    make_training(config, tmp_path / "begun").run()
    write_config(config, max_epoch=2, keep_nbest_models=2)
    found = []
    for version in ("installed", "other"):
        folder = tmp_path / version
        shutil.copytree(tmp_path / "begun", folder, symlinks=True)
        if version == "other":
            as_the_other_version_saved(folder)
        make_training(config, folder).run()
        found.append(folder)
    names = {path.name for path in found[0].glob("*.pth")}
    assert {"2epoch.pth", "valid.acc.ave_2best.pth"} <= names == {path.name for path in found[1].glob("*.pth")}
    for name in names - {"checkpoint.pth", "checkpoint.previous.pth"}:
        one, other = (torch.load(folder / name) for folder in found)
        assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one), name


def test_a_trained_model_of_the_other_version_is_opened(experiment, tmp_path):
    from espnet2.tasks.asr import ASRTask

    shutil.copytree(experiment.output_dir, tmp_path / "exp", symlinks=True)
    weights = torch.load(tmp_path / "exp" / "valid.acc.ave.pth")
    torch.save(of_the_other(weights), tmp_path / "other.pth")
    model, _ = ASRTask.build_model_from_file(tmp_path / "exp" / "config.yaml", tmp_path / "other.pth")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
