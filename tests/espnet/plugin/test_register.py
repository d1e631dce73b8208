"""Our names in ESPnet's registries, and `init:` with factored layers."""

import sys

import pytest
import torch
from espnet2.tasks import asr

import lrsms.espnet
from lrsms.errors import LrsmsError
from lrsms.espnet.models.kaldi_fbank import KaldiFbank
from lrsms.lowrank import low_rank_layers


def test_importing_registers():
    assert asr.encoder_choices.classes["lowrank_conformer"].__name__ == "LowRankConformerEncoder"
    assert asr.decoder_choices.classes["lowrank_transformer"].__name__ == "LowRankTransformerDecoder"
    assert asr.frontend_choices.classes["kaldi_fbank"] is KaldiFbank
    assert asr.encoder_choices.get_class("lowrank_conformer") is not asr.encoder_choices.get_class("conformer")


def test_registering_twice_changes_nothing():
    before = (asr.ASRTask.build_model, asr.ASRTask.build_model_from_file, dict(asr.encoder_choices.classes))
    lrsms.espnet.register()
    assert (asr.ASRTask.build_model, asr.ASRTask.build_model_from_file, asr.encoder_choices.classes) == before


KNOWN = next(action.choices for action in asr.ASRTask.get_parser()._actions if action.dest == "init")
CHAINER = ["chainer"] if "chainer" in KNOWN else []  # ESPnet 202611 has it no more


@pytest.mark.parametrize("init", ["xavier_uniform", *CHAINER])
def test_init_reaches_the_product_and_leaves_the_front_end(init, experiment, build_model):
    model = build_model(experiment.output_dir, init=init)
    layers = dict(low_rank_layers(model))
    assert layers
    for path, layer in layers.items():
        up, down = layer.factors()
        torch.testing.assert_close(up.T @ up, down @ down.T, rtol=1e-3, atol=1e-4, msg=f"{path}: not balanced")
        assert (layer.bias == 0).all()
    untouched = KaldiFbank(num_filters=20)
    names = {name for name, _ in untouched.named_buffers()}
    assert len(names) >= 2
    for name, buffer in model.frontend.named_buffers():
        assert torch.equal(buffer, untouched.get_buffer(name)), name
    assert not list(model.frontend.parameters())
    features, _ = model.frontend(torch.randn(1, 8000), torch.tensor([8000]))
    assert features.isfinite().all()


WORDS = {"hidden_size": 24, "num_layers": 2, "att_conf": {"adim": 12, "aconv_chans": 3, "aconv_filts": 5}}
FULL = {"ranks": {"embed": 24, "decoder.0": 64, "decoder.1": 48}}


@pytest.mark.parametrize("init", ["xavier_uniform", "kaiming_normal", *CHAINER])
def test_init_makes_of_cells_and_embeddings_what_it_makes_of_dense_ones(init, build_tiny):
    """ESPnet draws embeddings from a normal distribution, and `chainer` starts with open forget gates."""
    dense = build_tiny(decoder="lowrank_rnn", decoder_conf=WORDS, init=init).decoder
    model = build_tiny(decoder="lowrank_rnn", decoder_conf=WORDS | {"low_rank": FULL}, init=init).decoder
    for cell, other in zip(model.decoder, dense.decoder):
        assert torch.equal(cell.gates.bias, other.bias_ih + other.bias_hh)
        weight = torch.cat([other.weight_ih, other.weight_hh], dim=1)
        assert float(cell.gates.product().std()) == pytest.approx(float(weight.std()), rel=0.1)
        up, down = cell.gates.factors()
        torch.testing.assert_close(up.T @ up, down @ down.T, rtol=1e-3, atol=1e-4)
    assert float(model.embed.product().std()) == pytest.approx(float(dense.embed.weight.std()), rel=0.1)


def test_a_low_rank_block_without_a_target_leaves_the_arguments_alone(tiny_args):
    args, before = tiny_args(), vars(tiny_args())
    asr.ASRTask.build_model(args)
    assert vars(args) == before


def test_init_has_the_scale_of_a_dense_layers(experiment, build_model):
    """Glorot's bound for a 16 x 16 weight is sqrt(6 / 32); re-initialized factors by themselves would miss it."""
    model = build_model(experiment.output_dir, init="xavier_uniform")
    product = model.encoder.encoders[0].self_attn.linear_q.product()
    values = torch.linalg.svdvals(product)
    variance = 6 / 32 / 3
    # The largest singular values of a 16 x 16 matrix of that variance lie near 2 * sqrt(16 * variance).
    assert 0.6 * 2 * (16 * variance) ** 0.5 < values[0] < 1.4 * 2 * (16 * variance) ** 0.5


@pytest.mark.parametrize(
    ("key", "hint"),
    [("max_duration", "batch_type: numel"), ("warmup_epochs", "lrsms.bin.train"), ("max_epochs", None)],
)
def test_espnets_task_says_what_to_write_in_place_of_our_options(key, hint, tmp_path, capsys):
    """A configuration of ours under ESPnet's own asr.sh."""
    (tmp_path / "train.yaml").write_text(f"encoder: lowrank_conformer\n{key}: 3\n")
    with pytest.raises(SystemExit):
        asr.ASRTask.get_parser().parse_args(["--config", str(tmp_path / "train.yaml")])
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"unrecognized arguments: {key} (from {tmp_path}" in message
    assert hint in message if hint else message.endswith("train.yaml)")


def test_k2s_ctc_loss_without_k2_is_one_sentence(build_tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", None)
    with pytest.raises(LrsmsError, match="ctc_conf.ctc_type: brctc needs k2, which is not installed"):
        build_tiny(ctc_conf={"ctc_type": "brctc"})


def test_k2s_ctc_loss_is_ctcs(k2, build_tiny):
    ours, theirs = (build_tiny(ctc_conf={"ctc_type": kind, "reduce": False}).ctc for kind in ("brctc", "builtin"))
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    encoded, lengths = torch.randn(3, 9, 16, requires_grad=True), torch.tensor([7, 9, 8])
    targets, sizes = torch.tensor([[2, 2, 3], [5, 4, 6], [7, -1, -1]]), torch.tensor([3, 3, 1])
    losses = ours(encoded, lengths, targets, sizes)
    (gradient,) = torch.autograd.grad(losses.sum(), encoded)
    expected = theirs(encoded, lengths, targets, sizes)
    (other,) = torch.autograd.grad(expected.sum(), encoded)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)
