"""Three ways to a low rank."""

from dataclasses import replace

import pytest
import torch

from lrsms.lowrank.truncation import Moments, factorize


@pytest.fixture
def correlated():
    """A weight and inputs that live mostly in a few directions, away from zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 32, generator=generator)
    mixing = torch.randn(32, 32, generator=generator) * torch.logspace(0, -3, 32)
    x = torch.randn(2000, 32, generator=generator) @ mixing.T + 2.0 * torch.randn(32, generator=generator)
    return weight, x, Moments(x.mean(0), x.T @ x / len(x), len(x))


def product(factors, rank):
    return factors.up[:, :rank] @ factors.down[:rank]


def output_error(weight, x, factors, rank):
    change = factors.bias_change(rank)
    change = 0 if change is None else change
    return float((x @ weight.T - (x @ product(factors, rank).T + change)).norm())


def test_plain_is_the_nearest_matrix(correlated):
    weight, _, _ = correlated
    factors = factorize(weight, "plain", None, True)
    values = torch.linalg.svdvals(weight)
    for rank in (1, 5, 20):
        assert float((weight - product(factors, rank)).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-4)
    torch.testing.assert_close(factors.values, values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["plain", "whitened", "activation_pca"])
def test_full_rank_is_the_matrix_itself(method, correlated):
    weight, _, moments = correlated
    factors = factorize(weight, method, moments, True)
    torch.testing.assert_close(product(factors, 24), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(factors.up.norm(dim=0), factors.down.norm(dim=1), rtol=1e-3, atol=1e-4)  # balanced
    assert factors.values.tolist() == sorted(factors.values.tolist(), reverse=True)


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_whitened_does_less_harm_to_correlated_inputs_than_plain(rank, correlated):
    weight, x, moments = correlated
    plain = output_error(weight, x, factorize(weight, "plain", None, True), rank)
    assert output_error(weight, x, factorize(weight, "whitened", moments, True), rank) < 0.6 * plain


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_bias_takes_up_the_mean_that_activation_pca_loses(rank, correlated):
    weight, x, moments = correlated
    factors = factorize(weight, "activation_pca", moments, True)
    wanted, got = (x @ weight.T).mean(0), (x @ product(factors, rank).T).mean(0) + factors.bias_change(rank)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-2)
    whitened = factorize(weight, "whitened", moments, True)
    assert output_error(weight, x, factors, rank) <= output_error(weight, x, whitened, rank) * 1.001


def test_without_a_bias_nothing_is_corrected(correlated):
    weight, x, moments = correlated
    factors = factorize(weight, "activation_pca", moments, False)
    assert factors.bias_change(3) is None
    plain = output_error(weight, x, factorize(weight, "plain", None, False), 3)
    assert output_error(weight, x, factors, 3) < plain


def test_moments_are_asked_for(correlated):
    with pytest.raises(ValueError, match="whitened truncation needs the moments"):
        factorize(correlated[0], "whitened", None, True)
    with pytest.raises(ValueError, match="unknown truncation 'qr'"):
        factorize(correlated[0], "qr", correlated[2], True)


def test_inputs_that_never_vary_are_no_obstacle(correlated):
    weight, _, _ = correlated
    constant = Moments(torch.ones(32), torch.ones(32, 32), 10)
    assert factorize(weight, "whitened", constant, True).up.isfinite().all()
    assert factorize(weight, "activation_pca", constant, True).down.isfinite().all()


def test_rows_that_are_likely_count_more():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 12, generator=generator)
    inputs = torch.randn(200, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    likely = torch.rand(40, generator=generator) ** 8
    share = likely / likely.sum() + 1 / 40
    moments = Moments(inputs.mean(0), inputs.T @ inputs / 200, 200)
    lost = {}
    for name, seen in (("likely", replace(moments, rows=likely)), ("alike", moments)):
        factors = factorize(weight, "whitened", seen, has_bias=False)
        torch.testing.assert_close(factors.up @ factors.down, weight, atol=1e-4, rtol=1e-4)
        rest = (weight - factors.up[:, :5] @ factors.down[:5]) @ inputs.T
        lost[name] = float((share[:, None] * rest.square()).sum())
    assert lost["likely"] < 0.98 * lost["alike"]


def test_transposed_factors_are_those_of_the_transposed_matrix():
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    factors = factorize(weight, "plain", None, has_bias=False)
    turned = factors.transposed()
    torch.testing.assert_close(turned.up[:, :2] @ turned.down[:2], (factors.up[:, :2] @ factors.down[:2]).T)


def test_activation_pca_of_a_tall_matrix_needs_no_covariance_of_its_outputs():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300_000, 4, generator=generator)  # whose covariance would be 720 GB
    inputs = torch.randn(50, 4, generator=generator) * torch.tensor([4.0, 2.0, 1.0, 0.5]) + 1
    moments = Moments(inputs.mean(0), inputs.T @ inputs / len(inputs), len(inputs))
    factors = factorize(weight, "activation_pca", moments, True)
    few = torch.randperm(300_000, generator=generator)[:1000]
    outputs = (inputs - inputs.mean(0)) @ weight.T
    left = torch.linalg.svd(outputs.T.double(), full_matrices=False)[0][:, :2]
    expected = left @ (left.T @ weight.double())
    torch.testing.assert_close(product(factors, 2)[few].double(), expected[few], rtol=1e-3, atol=1e-3)
