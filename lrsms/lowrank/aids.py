"""Training aids at work: what happens to the factors after each step of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.frobenius_decay import decay_product_
from lrsms.lowrank.layers import Factored, LowRankEmbedding
from lrsms.lowrank.muon import Muon, step_is_skipped
from lrsms.lowrank.self_guided import SelfGuide
from lrsms.lowrank.semi_orthogonal import EVERY, constrain_all_
from lrsms.lowrank.stacks import stacks_on_gpu

AIDS = "low_rank_aids"  # attribute of a model that factorize_ has given its aids


class AfterStep:
    """What is done to a model's factors after each step.

    Args:
        decayed: layers under Frobenius decay, and its strength.
        constrained: layers under the semi-orthogonal constraint, and its strength.
        guides: dense weights that fade out.
    """

    def __init__(
        self,
        decayed: list[tuple[list[Factored], float]],
        constrained: list[tuple[list[Factored], float]],
        guides: list[SelfGuide],
    ):
        self.decayed, self.constrained, self.guides = decayed, constrained, guides
        self.steps = 0
        self._counted: int | None = None  # the optimizer that they are of

    def __call__(self, optimizer: torch.optim.Optimizer, *_) -> None:
        device = optimizer.param_groups[0]["params"][0].device.type
        with torch.autocast(device, enabled=False):  # a trainer may call the optimizer within it
            self._aid(optimizer)

    def _aid(self, optimizer: torch.optim.Optimizer) -> None:
        if step_is_skipped(optimizer):
            return
        rate = optimizer.param_groups[0]["lr"]
        for layers, strength in self.decayed:
            for layer in layers:
                decay_product_(layer, rate * strength)
        if self._step(optimizer) % EVERY == 0:
            for layers, strength in self.constrained:
                constrain_all_(layers, strength, stacks_on_gpu([layer.factors()[1] for layer in layers]))
        for guide in self.guides:
            guide.advance()

    def _step(self, optimizer: torch.optim.Optimizer) -> int:
        """Steps so far: the optimizer's own count if it keeps one, for that survives an interruption.

        One on a GPU is read once: it would have to be waited for after each step.
        """
        first: dict = next(iter(optimizer.state.values()), {})
        count = first.get("step")
        known = isinstance(count, torch.Tensor) and count.is_cuda and self._counted == id(optimizer)
        self.steps = self.steps + 1 if count is None or known else int(count)
        self._counted = id(optimizer)
        return self.steps


def after_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Call it after each ``optimizer.step()``: it does what the training aids of ``factorize_`` ask for.

    Without aids it still makes sure that the optimizer trains the factors.

    Args:
        model: what ``factorize_`` was given, a copy of it, or what wraps it (DistributedDataParallel).
        optimizer: made after ``factorize_``.

    Raises:
        LrsmsError: the optimizer has none of the factors, for it was made before there were any; or it decays the
            factors, which are under Frobenius decay already.
    """
    _check_trained(model, optimizer, "after_step")
    for module in model.modules():
        aids = module.__dict__.get(AIDS)
        if aids is not None:
            _refuse_two_decays(aids, optimizer)
            aids(optimizer)


def attach_muon(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float = 1.0) -> None:
    """Have the factors of a model take steps of Muon, see :mod:`lrsms.lowrank.muon`, in each step of its optimizer.

    Factors of embeddings stay with the optimizer, and what was not factored does.

    Args:
        model: what ``factorize_`` was given, a copy of it, or what wraps it (DistributedDataParallel).
        optimizer: made after ``factorize_``; its groups have the learning rate and the weight decay.
        rate: learning rate of the factors, times the optimizer's.

    Raises:
        LrsmsError: the optimizer has none of the factors, for it was made before there were any.
    """
    _check_trained(model, optimizer, "attach_muon")
    layers = [layer for layer in unique_layers(model) if not isinstance(layer, LowRankEmbedding)]
    Muon([factor for layer in layers for factor in _factors(layer)], rate).attach(optimizer)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """What an optimizer takes in place of ``model.parameters()`` if the factors are under Frobenius decay.

    Args:
        model: after ``factorize_``.
        weight_decay: of everything but the factors under Frobenius decay, which have none.
    """
    decayed = {factor for layer in _decayed(model) for factor in _factors(layer)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter not in decayed], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter in decayed], "weight_decay": 0.0},
    ]


def unique_layers(model: nn.Module) -> Iterator[Factored]:
    """Every factored layer of ``model``; of those that share their factors, the first."""
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, Factored) and not seen.issuperset(_factors(module)):
            seen.update(_factors(module))
            yield module


def _factors(layer: Factored) -> tuple[nn.Parameter, nn.Parameter]:
    return layer[0].weight, layer[1].weight


def _decayed(model: nn.Module) -> Iterable[Factored]:
    for module in model.modules():
        for layers, _ in getattr(module.__dict__.get(AIDS), "decayed", ()):
            yield from layers


def _check_trained(model: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    wanted = [factor for layer in unique_layers(model) for factor in _factors(layer) if factor.requires_grad]
    if wanted and not any(factor in trained for factor in wanted):
        raise LrsmsError(
            f"{where}: the optimizer holds none of the model's factors, so it goes on training the dense weights "
            "that they have replaced; make the optimizer after factorize_"
        )


def _refuse_two_decays(aids: AfterStep, optimizer: torch.optim.Optimizer) -> None:
    decayed = {factor for layers, _ in aids.decayed for layer in layers for factor in _factors(layer)}
    for group in optimizer.param_groups if decayed else ():
        if group.get("weight_decay") and not decayed.isdisjoint(group["params"]):
            amount = group["weight_decay"]
            raise LrsmsError(
                f"after_step: frobenius_decay replaces weight decay on the factors, but the optimizer decays them by "
                f"{amount:g} as well; make it from lrsms.parameter_groups(model, weight_decay={amount:g})"
            )
