"""ESPnet's classes with factored weights: their options, their roles, and what torch does with them."""

import copy
import inspect
import pickle

import pytest
import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.lowrank import low_rank_layers

Conformer, Decoder = LOW_RANK_ENCODERS["lowrank_conformer"], LOW_RANK_DECODERS["lowrank_transformer"]
TINY = {"output_size": 16, "attention_heads": 2, "linear_units": 64, "num_blocks": 2, "rel_pos_type": "latest"}
TINY |= {"macaron_style": True, "cnn_module_kernel": 7}
ALL_ROLES = {"attention": 0.25, "attention_pos": 0.25, "feed_forward": 0.5, "convolution": 0.25, "subsampling": 0.25}


def conformer(low_rank=None, **changes):
    torch.manual_seed(0)
    return Conformer(20, **(TINY | changes), low_rank=low_rank).eval()


@pytest.mark.parametrize(("ours", "dense"), [(Conformer, ConformerEncoder), (Decoder, TransformerDecoder)])
def test_the_signature_is_the_dense_one_and_low_rank(ours, dense):
    shown = inspect.signature(ours).parameters
    assert list(shown) == [*inspect.signature(dense).parameters, "low_rank", "fast"]
    assert shown["low_rank"].default is None and shown["fast"].default is True
    for name, parameter in inspect.signature(dense).parameters.items():
        assert shown[name].default == parameter.default


OPTIONS = {
    **{"dropout_rate": 0.3, "positional_dropout_rate": 0.2, "attention_dropout_rate": 0.3, "input_layer": "conv2d6"},
    **{"normalize_before": False, "concat_after": True, "positionwise_layer_type": "conv1d"},
    **{"positionwise_conv_kernel_size": 5, "macaron_style": False, "activation_type": "relu"},
    **{"use_cnn_module": False, "zero_triu": True, "cnn_module_kernel": 15, "padding_idx": 0},
    **{"interctc_layer_idx": [1], "stochastic_depth_rate": 0.2, "layer_drop_rate": 0.1, "max_pos_emb_len": 200},
    **{"qk_norm": True, "use_flash_attn": False, "interctc_use_conditioning": False, "ctc_trim": True},
    **{"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
}


@pytest.mark.parametrize("name", [name for name in inspect.signature(ConformerEncoder).parameters if name in OPTIONS])
def test_every_option_of_the_dense_class_is_taken(name):
    options = {name: OPTIONS[name]}
    if name in ("pos_enc_layer_type", "selfattention_layer_type"):
        options = {key: OPTIONS[key] for key in ("pos_enc_layer_type", "selfattention_layer_type")}
    model = conformer({"attention": 0.25, "multiple": 2}, **options)
    dense = ConformerEncoder(20, **(TINY | options)).eval()
    x, lengths = torch.randn(1, 60, 20), torch.tensor([60])
    with torch.no_grad():
        output, length, _ = model(x, lengths)
        output = output[0] if isinstance(output, tuple) else output
        expected, expected_length, _ = dense(x, lengths)
        expected = expected[0] if isinstance(expected, tuple) else expected
    assert output.shape == expected.shape and length.equal(expected_length)
    assert len(dict(low_rank_layers(model))) == 2 * 4


def test_without_low_rank_it_is_the_dense_class():
    torch.manual_seed(0)
    dense = ConformerEncoder(20, **TINY)
    ours = conformer()
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in dense.state_dict().items()
    }
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in ours.state_dict().items())


def test_every_role_of_the_conformer():
    plan = conformer(ALL_ROLES | {"multiple": 1}).rank_plan
    roles = {entry.module: entry.role for entry in plan.entries}
    block = {"self_attn.linear_" + name: "attention" for name in ("q", "k", "v", "out")}
    block |= {"self_attn.linear_pos": "attention_pos"}
    block |= {f"feed_forward{kind}.w_{number}": "feed_forward" for kind in ("", "_macaron") for number in (1, 2)}
    block |= {f"conv_module.pointwise_conv{number}": "convolution" for number in (1, 2)}
    expected = {f"encoders.{depth}.{name}": role for depth in (0, 1) for name, role in block.items()}
    behind = "embed.out" if isinstance(ConformerEncoder(80).embed.out, nn.Linear) else "embed.out.0"  # since 202611
    expected |= dict.fromkeys(("embed.conv.0", "embed.conv.2", behind), "subsampling")
    assert roles == expected
    assert {entry.depth for entry in plan.entries} == {0, 1}


def test_every_role_of_the_decoder():
    torch.manual_seed(0)
    low_rank = {"attention": 0.25, "multiple": 1}
    decoder = Decoder(12, 16, attention_heads=2, linear_units=64, num_blocks=1, low_rank=low_rank)
    roles = {entry.module: entry.role for entry in decoder.rank_plan.entries}
    kinds, names = ("self_attn", "src_attn"), ("q", "k", "v", "out")
    attention = [f"decoders.0.{kind}.linear_{name}" for kind in kinds for name in names]
    forward = [f"decoders.0.feed_forward.w_{number}" for number in (1, 2)]
    expected = dict.fromkeys(attention, "attention") | dict.fromkeys(forward, "feed_forward")
    assert roles == expected | {"embed.0": "embedding", "output_layer": "output"}
    memory, lengths = torch.randn(1, 9, 16), torch.tensor([9])
    output, _ = decoder.eval()(memory, lengths, torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    assert output.shape == (1, 3, 12)


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"])
def test_every_subsampling_is_found(input_layer):
    model = conformer({"subsampling": 0.25, "multiple": 1}, input_layer=input_layer)
    found = {path for path, _ in low_rank_layers(model)}
    assert any(path.startswith("embed.conv.") for path in found)
    assert any(path.startswith("embed.out") for path in found)
    with torch.no_grad():
        assert model(torch.randn(1, 60, 20), torch.tensor([60]))[0].isfinite().all()


def test_a_role_that_the_options_leave_out_is_an_error():
    with pytest.raises(LrsmsError, match=r"encoder_conf\.low_rank\.convolution: .*has no such layer.*attention"):
        conformer({"convolution": 0.5}, use_cnn_module=False)
    with pytest.raises(LrsmsError, match=r"decoder_conf\.low_rank\.convolution"):
        Decoder(12, 16, attention_heads=2, low_rank={"convolution": 0.5})
    with pytest.raises(LrsmsError, match=r"encoder_conf\.low_rank\.rnk: unknown key"):
        conformer({"rnk": 0.5})


def test_gradients_reach_every_parameter():
    model = conformer(ALL_ROLES | {"multiple": 1}).train()
    output, _, _ = model(torch.randn(2, 60, 20), torch.tensor([60, 50]))
    output.square().sum().backward()
    factors = [factor for _, layer in low_rank_layers(model) for factor in (layer[0].weight, layer[1].weight)]
    assert len(factors) > 40
    assert all(factor.grad is not None and factor.grad.isfinite().all() for factor in factors)
    # linear_k and the layers before it too; only biases that normalization removes may have none
    assert all(factor.grad.abs().sum() > 0 for factor in factors)


def test_deepcopy_and_pickle():
    model, x, lengths = conformer(ALL_ROLES), torch.randn(1, 60, 20), torch.tensor([60])
    with torch.no_grad():
        expected = model(x, lengths)[0]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(other) is Conformer
            assert torch.equal(other(x, lengths)[0], expected)
            assert other.rank_plan == model.rank_plan


def test_dtype_follows_the_model():
    model = conformer(ALL_ROLES | {"multiple": 1}).to(torch.float64)
    with torch.no_grad():
        output = model(torch.randn(1, 60, 20, dtype=torch.float64), torch.tensor([60]))[0]
    assert output.dtype == torch.float64


class OneUtterance(nn.Module):
    """The encoder on features without padding, ``(1, frames, bins) -> (1, frames', size)``."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x, [x.size(1)])[0]


def test_torch_export():
    model, x = OneUtterance(conformer(ALL_ROLES | {"multiple": 1}, num_blocks=1)), torch.randn(1, 60, 20)
    with torch.no_grad():
        exported = torch.export.export(model, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-5, atol=1e-5)
    assert "encoder.encoders.0.self_attn.linear_q.0.weight" in exported.state_dict


def test_dynamic_quantization():
    model, x, lengths = conformer(ALL_ROLES | {"multiple": 1}), torch.randn(1, 60, 20), torch.tensor([60])
    with torch.no_grad():
        expected = model(x, lengths)[0]
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        output = quantized(x, lengths)[0]
    assert type(quantized.encoders[0].self_attn.linear_q[0]) is torch.ao.nn.quantized.dynamic.Linear
    assert (output - expected).norm() < 0.1 * expected.norm()
