"""What the factors are at the start of a training."""

import pytest
import torch
from torch import nn

from lrsms.lowrank import low_rank_layers, skip_initialization
from lrsms.lowrank.initialization import INITIALIZERS, initialize_
from lrsms.lowrank.layers import factored_like

LAYERS = {
    "linear": (lambda: nn.Linear(20, 12), (3, 20), 12),
    "conv1d": (lambda: nn.Conv1d(20, 12, 1), (2, 20, 7), 12),
    "conv2d": (lambda: nn.Conv2d(3, 10, 3, stride=2), (2, 3, 9, 11), 10),
    "embedding": (lambda: nn.Embedding(30, 12), (2, 7), 12),
}


def example(kind: str) -> torch.Tensor:
    shape = LAYERS[kind][1]
    return torch.randint(30, shape) if kind == "embedding" else torch.randn(shape)


def factored(dense: nn.Module, rank: int, method: str):
    layer = factored_like(dense, rank)
    initialize_(layer, dense.weight, getattr(dense, "bias", None), method)
    return layer


@pytest.mark.parametrize("kind", LAYERS)
def test_svd_at_full_rank_is_the_dense_layer(kind):
    torch.manual_seed(0)
    make, _, full = LAYERS[kind]
    dense, x = make(), example(kind)
    torch.testing.assert_close(factored(dense, full, "svd")(x), dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_truncated_svd_is_the_best_approximation(kind, rank):
    """Eckart and Young 1936: the squared error is the sum of the squared singular values cut off."""
    torch.manual_seed(0)
    dense = LAYERS[kind][0]()
    layer = factored(dense, rank, "svd")
    tail = torch.linalg.svdvals(dense.weight.flatten(1))[rank:]
    error = (layer.product() - dense.weight).norm()
    torch.testing.assert_close(error, tail.norm(), rtol=1e-4, atol=1e-5)
    up, down = layer.factors()
    torch.testing.assert_close(up.T @ up, down @ down.T, rtol=1e-4, atol=1e-5)  # both carry sqrt(S)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("method", INITIALIZERS)
def test_every_initialization_sets_both_factors_and_lets_gradients_through(kind, method):
    torch.manual_seed(0)
    dense = LAYERS[kind][0]()
    bias = getattr(dense, "bias", None)
    layer = factored_like(dense, 4)
    before = [factor.clone() for factor in layer.factors()]
    initialize_(layer, dense.weight, bias, method)
    assert all(not torch.equal(old, new) for old, new in zip(before, layer.factors()))
    assert layer.bias is None if bias is None else torch.equal(layer.bias, bias)
    assert layer.init_method == method
    assert layer.product().shape == dense.weight.shape
    layer(example(kind)).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    assert dense.weight.grad is None


def test_orthogonal_has_the_dense_norm_and_orthogonal_columns():
    torch.manual_seed(0)
    dense = nn.Linear(20, 12)
    layer = factored(dense, 5, "orthogonal")
    torch.testing.assert_close(layer.product().norm(), dense.weight.norm(), rtol=1e-5, atol=1e-5)
    up, down = layer.factors()
    for gram in (up.T @ up, down @ down.T):
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "up_bound", "down_bound"), [
    ("xavier", (6 / (12 + 4)) ** 0.5, (6 / (4 + 20)) ** 0.5),
    ("kaiming", (3 / 4) ** 0.5, (3 / 20) ** 0.5),
])  # fmt: skip
def test_uniform_initializations_fill_their_bound(method, up_bound, down_bound):
    torch.manual_seed(0)
    up, down = factored(nn.Linear(20, 12), 4, method).factors()
    assert 0.9 * up_bound < up.abs().max() <= up_bound
    assert 0.9 * down_bound < down.abs().max() <= down_bound


@pytest.mark.parametrize(
    "dense",
    [
        nn.Linear(400, 300),
        nn.Linear(300, 900),
        nn.Conv1d(400, 300, 1),
        nn.Conv2d(32, 64, 3),
        nn.Embedding(500, 300),
    ],
)
@pytest.mark.parametrize("rank", [16, 128])
def test_variance_matched_has_the_dense_weights_variance(dense, rank):
    torch.manual_seed(0)
    layer = factored(dense, rank, "variance_matched")
    product, variance = layer.product().detach(), float(dense.weight.detach().square().mean())
    assert float(product.square().mean()) == pytest.approx(variance, rel=0.06)
    assert float(product.mean().abs()) < 0.05 * variance**0.5


def test_variance_matched_keeps_the_variance_of_the_input_through_the_first_factor():
    torch.manual_seed(0)
    dense = nn.Linear(800, 600)
    layer, x = factored(dense, 200, "variance_matched"), torch.randn(200, 800) * 3
    with torch.no_grad():
        assert float(layer[0](x).var()) == pytest.approx(9, rel=0.05)
        assert float(layer(x).var()) == pytest.approx(float(dense(x).var()), rel=0.05)


@pytest.mark.parametrize("method", INITIALIZERS)
def test_the_padding_row_of_an_embedding_starts_at_zero(method):
    dense = nn.Embedding(30, 12, padding_idx=29)
    layer = factored(dense, 4, method)
    assert (layer(torch.tensor([29])) == 0).all() and layer(torch.tensor([28])).abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", INITIALIZERS)
def test_other_dtypes(method, dtype):
    layer = factored(nn.Linear(20, 12, dtype=dtype), 4, method)
    assert layer(torch.randn(2, 20, dtype=dtype)).dtype == dtype


def test_skip_initialization_does_no_svd_and_ends_with_the_context(monkeypatch):
    def refuse(*_):
        raise AssertionError("an SVD was made")

    monkeypatch.setitem(INITIALIZERS, "svd", refuse)
    dense = nn.Linear(20, 12)
    with skip_initialization():
        with skip_initialization():
            factored(dense, 4, "svd")
        layer = factored(dense, 4, "svd")
    assert layer.init_method == "svd"
    with pytest.raises(AssertionError):
        factored(dense, 4, "svd")
    with pytest.raises(KeyError), skip_initialization():
        raise KeyError
    with pytest.raises(AssertionError):
        factored(dense, 4, "svd")


def test_dynamic_quantization_takes_the_factors_and_stays_close():
    torch.manual_seed(0)
    model = nn.Sequential(factored(nn.Linear(64, 48), 8, "svd"), nn.ReLU(), factored(nn.Linear(48, 16), 4, "svd"))
    x = torch.randn(5, 64)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kinds = [type(module).__module__ for _, layer in low_rank_layers(quantized) for module in layer]
    assert len(kinds) == 4 and all("quantized.dynamic" in kind for kind in kinds)
    expected = model(x)
    assert (quantized(x) - expected).norm() < 0.05 * expected.norm()
