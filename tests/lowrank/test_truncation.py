"""Three ways to a low rank."""

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
