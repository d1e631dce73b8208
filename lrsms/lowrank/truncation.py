"""How a trained matrix is brought to a low rank: factors of full rank whose first r columns and rows are the best r.

``plain`` is the truncated SVD: the nearest matrix. ``whitened`` (SVD-LLM, Wang et al. 2024) is the nearest in what it
does to the inputs seen in calibration: the SVD of ``W L`` with ``L L^T`` the inputs' second moments; rows of an output
over tokens are weighed by how likely the tokens were, as errors of their scores are in the loss. ``activation_pca``
(LiteASR, Kamahori et al. 2025) keeps the principal components of the centered outputs and moves what is lost of their
mean into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

METHODS = ("plain", "whitened", "activation_pca")
_RIDGE = 1e-4  # of the mean eigenvalue: inputs that calibration never saw still count a little


@dataclass(frozen=True)
class Moments:
    """Of the ``count`` inputs of a layer in calibration: mean ``(in,)`` and second moment ``(in, in)``.

    Of an embedding, whose inputs are one-hot, ``second`` is the diagonal ``(in,)``: nothing else of it is not zero.
    ``rows``, ``(out,)``, are weights of the outputs, for an output over tokens how likely each was; None if all count
    alike.
    """

    mean: torch.Tensor
    second: torch.Tensor
    count: int
    rows: torch.Tensor | None = None


@dataclass(frozen=True)
class Factors:
    """``W ~ up[:, :r] @ down[:r]`` for every r at once.

    Attributes:
        up: ``(out, full)``.
        down: ``(full, in)``.
        values: ``(full,)`` importance of each component, falling.
        mean_output: ``(out,)`` ``W`` times the mean input, where the bias is to be corrected; else None.
    """

    up: torch.Tensor
    down: torch.Tensor
    values: torch.Tensor
    mean_output: torch.Tensor | None = None

    def transposed(self) -> Factors:
        """Of the transposed matrix, which has no bias to correct."""
        return Factors(self.down.T, self.up.T, self.values)

    def bias_change(self, rank: int) -> torch.Tensor | None:
        """What to add to the bias at ``rank``: the mean output that truncation loses."""
        if self.mean_output is None:
            return None
        # The columns of up are orthogonal; undo their scaling to project.
        directions = self.up[:, :rank]
        return self.mean_output - directions @ (
            (directions.T @ self.mean_output) / directions.square().sum(0).clamp_min(1e-30)
        )


def factorize(weight: torch.Tensor, method: str, moments: Moments | None, has_bias: bool) -> Factors:
    """Factors of a matrix.

    Args:
        weight: ``(out, in)``.
        method: one of :data:`METHODS`.
        moments: of its inputs; not needed for ``plain``.
        has_bias: whether the layer has a bias to correct.

    Raises:
        ValueError: moments are missing, or an unknown method.
    """
    weight = weight.double()
    if method == "plain":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return _balanced(left, values, values[:, None] * right)
    if moments is None:
        raise ValueError(f"{method} truncation needs the moments of the layer's inputs")
    mean, second = moments.mean.double(), moments.second.double()
    if method == "whitened":
        rows = None if moments.rows is None else _row_scale(moments.rows.double())
        scaled = weight if rows is None else rows[:, None] * weight
        left, values, _ = torch.linalg.svd(_whitened(scaled, second), full_matrices=False)
        # left^T W is what S V^T L^-1 comes to, without inverting anything
        return _balanced(left if rows is None else left / rows[:, None], values, left.T @ scaled)
    if method == "activation_pca":
        left, values = _components(weight, second - torch.outer(mean, mean) if has_bias else second)
        return _balanced(left, values, left.T @ weight, weight @ mean if has_bias else None)
    raise ValueError(f"unknown truncation {method!r}; one of {', '.join(METHODS)}")


def _components(weight: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal components of outputs and their standard deviations, of inputs whose covariance is ``spread``."""
    if len(weight) <= len(spread):
        energy, left = torch.linalg.eigh((weight * spread if spread.dim() == 1 else weight @ spread) @ weight.T)
        return left.flip(1), energy.flip(0).clamp_min(0).sqrt()
    if spread.dim() == 1:
        root = weight * spread.clamp_min(0).sqrt()
    else:
        energy, vectors = torch.linalg.eigh(spread)
        root = weight @ (vectors * energy.clamp_min(0).sqrt())
    left, values, _ = torch.linalg.svd(root, full_matrices=False)  # the covariance of a vocabulary is gigabytes
    return left, values


def _whitened(weight: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``W L`` with ``L L^T`` the second moments, a little of every direction added."""
    if second.dim() == 1:
        return weight * (second + _RIDGE * second.mean().clamp_min(1e-12)).sqrt()
    ridge = _RIDGE * second.diagonal().mean().clamp_min(1e-12)
    return weight @ torch.linalg.cholesky(second + ridge * torch.eye(len(second)).to(second))


def _row_scale(rows: torch.Tensor) -> torch.Tensor:
    """Of the errors of outputs: what is likely counts more, and what never was still counts as the average does."""
    share = rows / rows.sum()
    return (share + 1 / len(share)).sqrt()


def _balanced(left: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, mean_output=None) -> Factors:
    """Spread each component's size over both factors, so that fine-tuning finds them alike."""
    root = rows.norm(dim=1).clamp_min(1e-12).sqrt()
    mean_output = None if mean_output is None else mean_output.float()
    return Factors((left * root).float(), (rows / root[:, None]).float(), values.float(), mean_output)
