"""A factored layer is the dense layer with the product as its weight."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrsms.lowrank import LowRankConv1d, LowRankConv2d, LowRankEmbedding, LowRankLinear, low_rank_layers
from lrsms.lowrank.initialization import initialize_
from lrsms.lowrank.layers import factored_like, matrix_shape


def test_linear_equals_dense_with_the_product():
    torch.manual_seed(0)
    layer, x = LowRankLinear(7, 5, rank=3), torch.randn(2, 4, 7)
    assert layer.rank == 3 and layer.dense_shape == (5, 7)
    assert (layer.in_features, layer.out_features) == (7, 5)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.product(), layer.bias))


def test_linear_by_hand():
    layer = LowRankLinear(2, 2, rank=1)
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer[1].weight.copy_(torch.tensor([[3.0], [4.0]]))
        layer[1].bias.copy_(torch.tensor([10.0, 20.0]))
    assert layer.product().tolist() == [[3.0, 6.0], [4.0, 8.0]]
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [19.0, 32.0]


@torch.no_grad()
def test_the_two_layers_of_a_linear_are_heard_and_may_be_exchanged():
    layer, x, heard = LowRankLinear(5, 4, rank=2), torch.randn(3, 5), []
    expected = layer[1](layer[0](x))
    torch.testing.assert_close(layer(x), expected)
    handles = [part.register_forward_hook(lambda part, x, y: heard.append(part)) for part in layer]
    torch.testing.assert_close(layer(x), expected)
    assert heard == [layer[0], layer[1]]
    for handle in handles:
        handle.remove()

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2.0 * super().forward(x)

    layer[0].__class__ = Doubled
    torch.testing.assert_close(layer(x), layer[1](2.0 * functional.linear(x, layer[0].weight)))
    quantized = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear})
    assert type(quantized[1]) is not nn.Linear and quantized(x).shape == (3, 4)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv1d_equals_dense_with_the_product(stride):
    torch.manual_seed(0)
    layer, x = LowRankConv1d(6, 8, rank=2, stride=stride), torch.randn(2, 6, 11)
    assert layer.dense_shape == (8, 6, 1)
    torch.testing.assert_close(layer(x), functional.conv1d(x, layer.product(), layer.bias, stride=stride))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": (2, 1), "padding": (1, 0)},
        {"padding": 2, "dilation": 2},
        {"stride": 3, "padding": 1, "dilation": (1, 2)},
    ],
)
def test_conv2d_equals_dense_with_the_product(options):
    torch.manual_seed(0)
    layer, x = LowRankConv2d(3, 6, (3, 5), rank=4, **options), torch.randn(2, 3, 17, 19)
    assert layer.dense_shape == (6, 3, 3, 5)
    torch.testing.assert_close(
        layer(x), functional.conv2d(x, layer.product(), layer.bias, **options), rtol=1e-4, atol=1e-5
    )


TOKENS = torch.tensor([[1, 5, 10], [0, 5, 3]])


def test_embedding_equals_the_product_as_a_table():
    torch.manual_seed(0)
    layer = LowRankEmbedding(11, 6, rank=3)
    assert (layer.rank, layer.dense_shape, layer.bias) == (3, (11, 6), None)
    assert (layer.num_embeddings, layer.embedding_dim) == (11, 6)
    assert (layer.dense_parameters, layer.parameters_saved) == (66, 66 - 3 * (11 + 6))
    assert layer(TOKENS).shape == (2, 3, 6)
    torch.testing.assert_close(layer(TOKENS), functional.embedding(TOKENS, layer.product()))
    up, down = layer.factors()
    assert up.shape == (6, 3) and down.shape == (3, 11)
    torch.testing.assert_close(up @ down, LowRankEmbedding.as_matrix(layer.product()))


def test_embedding_by_hand():
    layer = LowRankEmbedding(3, 2, rank=1)
    layer.set_factors(torch.tensor([[10.0], [20.0]]), torch.tensor([[1.0, 2.0, 3.0]]))
    assert layer.product().tolist() == [[10.0, 20.0], [20.0, 40.0], [30.0, 60.0]]
    assert layer(torch.tensor([2, 0])).tolist() == [[30.0, 60.0], [10.0, 20.0]]


def test_looking_up_costs_nothing_but_expanding_does():
    layer = LowRankEmbedding(11, 6, rank=3)
    assert layer.macs_saved(layer(TOKENS)) == -TOKENS.numel() * 3 * 6


def test_the_padding_row_of_an_embedding_stays_zero():
    dense = nn.Embedding(11, 6, padding_idx=10)
    layer = factored_like(dense, 3)
    assert layer[0].padding_idx == layer.merged().padding_idx == 10
    layer.set_factors(torch.randn(6, 3), torch.randn(3, 11))
    layer(TOKENS).square().sum().backward()
    assert (layer(TOKENS)[0, 2] == 0).all() and (layer[0].weight.grad[10] == 0).all()
    assert layer[0].weight.grad[5].abs().sum() > 0 and layer[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("dense", "x"),
    [
        (nn.Linear(6, 4), torch.randn(3, 6)),
        (nn.Linear(6, 4, bias=False), torch.randn(3, 6)),
        (nn.Conv1d(6, 4, 1, stride=2), torch.randn(1, 6, 9)),
        (nn.Conv2d(2, 5, 3, stride=2, padding=1, dilation=2), torch.randn(1, 2, 12, 13)),
        (nn.Embedding(11, 6, padding_idx=3), TOKENS),
    ],
)
def test_merged_is_a_dense_layer_of_the_same_output_with_weights_of_its_own(dense, x):
    layer = factored_like(dense, 2).eval()
    merged, expected = layer.merged(), layer(x)
    assert type(merged) is type(dense) and not merged.training
    assert {name: value.shape for name, value in merged.state_dict().items()} == {
        name: value.shape for name, value in dense.state_dict().items()
    }
    with torch.no_grad():
        layer[0].weight.zero_()
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dense", "x", "shape"),
    [
        (nn.Linear(6, 4), (3, 6), (4, 6)),
        (nn.Linear(6, 4, bias=False), (3, 6), (4, 6)),
        (nn.Conv1d(6, 4, 1, stride=2), (1, 6, 9), (4, 6)),
        (nn.Conv2d(2, 5, 3, stride=2, padding=1, dilation=2, bias=False), (1, 2, 12, 13), (5, 18)),
        (nn.Conv2d(2, 5, 3, padding="same"), (1, 2, 12, 13), (5, 18)),
    ],
)
def test_factored_like_has_the_dense_layers_interface(dense, x, shape):
    layer = factored_like(dense, 2)
    assert matrix_shape(dense) == shape
    assert layer(torch.randn(x)).shape == dense(torch.randn(x)).shape
    assert layer.dense_shape == dense.weight.shape
    assert (layer.bias is None) == (dense.bias is None)
    assert layer[0].bias is None


@pytest.mark.parametrize(
    "dense",
    [
        nn.Conv1d(6, 6, 1, groups=2),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Embedding(6, 6, max_norm=1.0),
        nn.Embedding(6, 6, sparse=True),
        nn.LayerNorm(6),
    ],
)
def test_layers_that_the_factored_form_cannot_stand_for_are_refused(dense):
    assert matrix_shape(dense) is None
    with pytest.raises(TypeError, match=type(dense).__name__):
        factored_like(dense, 2)


WIDE = [
    nn.Conv1d(6, 5, 3, stride=2, padding=2, dilation=2),
    nn.Conv1d(6, 5, 3, padding="same", padding_mode="replicate", bias=False),
    nn.Conv1d(6, 5, 1, padding=1),
    nn.Conv2d(6, 5, (3, 2), padding=1, padding_mode="reflect"),
]


@pytest.mark.parametrize("dense", WIDE)
def test_convolutions_that_only_a_path_or_factorize_gives_a_rank(dense):
    """At full rank they compute the same; roles of ESPnet's classes leave them dense, as LR-SMS 0.1.0 did."""
    assert matrix_shape(dense) is None
    outputs, inputs = matrix_shape(dense, wide=True)
    layer = factored_like(dense, outputs)
    initialize_(layer, dense.weight, dense.bias, "svd")
    x = torch.randn(2, 6, 11) if isinstance(dense, nn.Conv1d) else torch.randn(2, 6, 8, 9)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.merged()(x), dense(x), rtol=1e-4, atol=1e-5)
    assert (inputs, layer.stride, layer.kernel_size) == (dense.weight[0].numel(), dense.stride, dense.kernel_size)


def test_the_weight_that_other_code_reads_is_the_product_with_gradients_to_both_factors():
    layer, x = LowRankLinear(6, 4, rank=2), torch.randn(3, 6)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), layer(x))
    layer.weight.sum().backward()
    assert layer[0].weight.grad.abs().sum() > 0 and layer[1].weight.grad.abs().sum() > 0


def test_a_padding_row_that_was_trained_stays_what_it_was():
    dense = nn.Embedding(11, 6)
    dense.padding_idx = 10  # as in checkpoints whose padding token is also a word
    layer = factored_like(dense, 6)
    initialize_(layer, dense.weight, None, "svd")
    torch.testing.assert_close(layer(TOKENS), dense(TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_is_kept(dtype):
    layer = factored_like(nn.Linear(4, 4, dtype=dtype), 2)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}


def test_device_is_kept():
    layer = factored_like(nn.Linear(4, 4, device="meta"), 2)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


def test_low_rank_layers_finds_factored_layers_only():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), LowRankLinear(4, 4, rank=1)))
    assert [path for path, _ in low_rank_layers(model)] == ["1.1"]


def test_deepcopy_pickle_and_torch_save_keep_layer_and_weights():
    layer, x = LowRankLinear(6, 4, rank=2), torch.randn(3, 6)
    layer.init_method = "orthogonal"
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    loaded = LowRankLinear(6, 4, rank=2)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is LowRankLinear and other.rank == 2 and other.init_method == "orthogonal"
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded(x), layer(x), rtol=0, atol=0)


def test_factors_are_views_of_the_parameters():
    layer = LowRankConv2d(2, 4, 3, rank=2)
    up, down = layer.factors()
    assert up.shape == (4, 2) and down.shape == (2, 18)
    with torch.no_grad():
        up.zero_()
    assert layer.product().abs().sum() == 0
