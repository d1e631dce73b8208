"""Training aid: steps of Muon for factors and other matrices, in place of the optimizer's own.

The momentum of a matrix is made orthogonal before it is subtracted (Jordan et al. 2024, "Muon: An optimizer for hidden
layers in neural networks"), and is as long as a step of Adam (Liu et al. 2025, arXiv 2502.16982), so that one learning
rate serves both. Directions that gradients seldom have then grow as fast as those that they always have, and a thin
factor has no direction to spare.

What is orthogonal is found by Newton and Schulz's iteration, as in Muon, but on the Gram matrix of the shorter side,
``(rank, rank)``, and for all matrices of one such side at once; on a GPU for all of about one such side
(:mod:`lrsms.lowrank.stacks`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from lrsms.lowrank.stacks import Stacks, stacks_on_gpu

_MOMENTUM = 0.95
_LENGTH = 0.2  # root mean square of a step of Adam
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Muon: quick for small singular values, which end between 0.7 and 1.2
_ITERATIONS = 5
_BUFFER = "momentum_buffer"  # in the optimizer's state, so that it is saved and loaded with it


class Muon:
    """Takes the gradients of matrices from an optimizer, and makes steps of its own with them.

    Args:
        weights: of two dimensions or more; what is behind the first counts as one. Not of embeddings and outputs, whose
            rows are tokens, of which a step sees few.
        rate: learning rate, times the optimizer's.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter], rate: float = 1.0):
        self.rate = rate
        self.weights = list(dict.fromkeys(weights))
        self._directions: dict[torch.nn.Parameter, torch.Tensor] = {}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have it done in each step of ``optimizer``, with the learning rate and weight decay of its groups."""
        optimizer.register_step_pre_hook(self._take)
        optimizer.register_step_post_hook(self._step)

    @torch.no_grad()
    def _take(self, optimizer: torch.optim.Optimizer, *_) -> None:
        weights = [weight for weight in self.weights if weight.grad is not None]
        if not weights:
            return
        if step_is_skipped(optimizer):
            _without_gradients(weights)
            return
        for weight in weights:
            state = optimizer.state[weight]
            if _BUFFER not in state:
                state |= {_BUFFER: torch.zeros_like(weight), "step": torch.tensor(0.0)}
            state["step"] += 1  # without which Adam cannot load a state
        momenta = [optimizer.state[weight][_BUFFER] for weight in weights]
        gradients = [weight.grad for weight in weights]
        if (scale := getattr(optimizer, "grad_scale", None)) is not None:  # of a GradScaler, for a fused optimizer
            gradients = torch._foreach_div(gradients, scale)
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov's momentum
        self._directions = dict(zip(weights, self._orthogonalised(weights, ahead), strict=True))
        _without_gradients(weights)

    def _orthogonalised(
        self, weights: Sequence[torch.nn.Parameter], ahead: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Of all weights on a GPU, those without a gradient as zeros: stacks are made once, not for each selection."""
        stacks = stacks_on_gpu(self.weights)
        if stacks is None or len(weights) == len(self.weights):
            return orthogonalised(ahead, stacks)
        given = dict(zip(weights, ahead, strict=True))
        every = [given[weight] if weight in given else torch.zeros_like(weight) for weight in self.weights]
        found = dict(zip(self.weights, orthogonalised(every, stacks), strict=True))
        return [found[weight] for weight in weights]

    @torch.no_grad()
    def _step(self, optimizer: torch.optim.Optimizer, *_) -> None:
        directions = self._directions
        self._directions = {}
        for options in optimizer.param_groups:
            weights = [weight for weight in options["params"] if weight in directions]
            if weights:
                rate = self.rate * float(options["lr"])
                torch._foreach_mul_(weights, 1 - rate * options.get("weight_decay", 0.0))
                torch._foreach_add_(weights, [directions[weight] for weight in weights], alpha=-rate)


def _without_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """For an optimizer to leave them as they are."""
    for weight in weights:
        weight.grad = None


def step_is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler has found a gradient that is not finite.

    It then does not call an optimizer, unless that is fused: then it leaves the skipping to the optimizer's kernel.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def orthogonalised(tensors: Sequence[torch.Tensor], stacks: Stacks | None = None) -> list[torch.Tensor]:
    """Tensors with the singular vectors of these, as matrices ``(first dimension, others)``, and equal singular values.

    About equal, between 0.7 and 1.2 times a value for which entries are as large as those of a step of Adam. Singular
    values of less than a thousandth of the largest stay smaller.

    Args:
        tensors: of two dimensions or more.
        stacks: of tensors of these shapes, to compute in few batches; None for a batch of each shorter side.
    """
    if stacks is not None:
        return _orthogonalised_in(stacks, tensors)
    matrices = [tensor.float().flatten(1) for tensor in tensors]
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    alike = defaultdict(list)
    for index, matrix in enumerate(wide):
        alike[len(matrix), matrix.device].append(index)
    result = list(tensors)
    for (_, device), indices in alike.items():
        with torch.autocast(device.type, enabled=False):  # Gram matrices in bfloat16 are no Gram matrices
            gram = torch.stack([wide[index] @ wide[index].T for index in indices])
            change = _change(gram, torch.tensor([wide[index].shape[1] for index in indices], device=device))
            found = [of_one @ wide[index] for index, of_one in zip(indices, change.unbind(), strict=True)]
        for index, matrix in zip(indices, found, strict=True):
            tall = wide[index] is not matrices[index]
            result[index] = (matrix.T if tall else matrix).reshape(tensors[index].shape).to(tensors[index].dtype)
    return result


def _orthogonalised_in(stacks: Stacks, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """:func:`orthogonalised` in the batches of ``stacks``; those with as many rows take the iteration together."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        batches = stacks.pack(tensors)
        alike = defaultdict(list)
        for number, batch in enumerate(batches):
            alike[batch.shape[1]].append(number)
        found = list(batches)
        for numbers in alike.values():
            gram = torch.cat([batches[number] @ batches[number].mT for number in numbers])
            change = _change(gram, torch.cat([stacks.sides[number][:, 1] for number in numbers]))
            for number, part in zip(numbers, change.split([len(batches[number]) for number in numbers]), strict=True):
                found[number] = part @ batches[number]
    return [part.to(tensor.dtype) for part, tensor in zip(stacks.unpack(found), tensors, strict=True)]


def _change(gram: torch.Tensor, longer: torch.Tensor) -> torch.Tensor:
    """What to multiply matrices with, of their Gram matrices ``(count, rank, rank)`` and longer sides ``(count,)``."""
    size = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-30)  # of each matrix, squared
    return _newton_schulz(gram / size[:, None, None]) * (_LENGTH * (longer / size).sqrt())[:, None, None]


def _newton_schulz(gram: torch.Tensor) -> torch.Tensor:
    """``T`` for which ``T X`` is about orthogonal, of ``X X^T``, ``(count, rank, rank)``, whose trace is 1."""
    a, b, c = _COEFFICIENTS
    first = a * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    change = None
    for step in range(_ITERATIONS):
        factor = first + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        change = factor if change is None else factor @ change
        if step + 1 < _ITERATIONS:
            gram = factor @ gram @ factor
    assert change is not None
    return change
