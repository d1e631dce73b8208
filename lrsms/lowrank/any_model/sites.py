"""What a model's weight matrices are, and the layers among them that can be given a rank."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from lrsms.lowrank.attention import LowRankMultiheadAttention


@dataclass(frozen=True)
class Matrix:
    """A parameter of the dense model with two dimensions or more.

    Attributes:
        names: all its names, the first of ``named_parameters()`` first.
        shape: of the parameter.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A layer that can be given a rank, or layers that share one weight.

    Attributes:
        path: as a plan names it: of the module, of an LSTM's input its ``.input``.
        kind: ``linear``, ``attention`` (a projection of torch's attention), ``convolution``, ``embedding``,
            ``recurrent`` (an LSTM or LSTMCell) or ``recurrent_input``.
        modules: the layer, and those that have the same weight.
        shape: ``(out, in)`` of the matrix.
        weights: names of the parameters of the dense model that it covers.
        paths: every path to these modules.
        reader: of an LSTM with a shared projection, name of the linear layer beside it.
        only_named: why no ratio, but only ``ranks=`` gives it a rank; empty for most.
    """

    path: str
    kind: str
    modules: tuple[nn.Module, ...]
    shape: tuple[int, int]
    weights: tuple[str, ...]
    paths: tuple[str, ...]
    reader: str = ""
    only_named: str = ""


@dataclass
class Survey:
    """What is known of a model.

    Attributes:
        matrices: every weight matrix, in the order of its parameters.
        sites: what can be factored, by path, in module order.
        reasons: name of a matrix -> why it stays as it is.
        unpacked: torch's attention modules that have been taken apart, and what stands in their place.
    """

    matrices: list[Matrix]
    sites: dict[str, Site] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unpacked: dict[nn.Module, LowRankMultiheadAttention] = field(default_factory=dict)

    def drop(self, path: str, why: str) -> None:
        """Let a layer stay as it is."""
        for name in self.sites.pop(path).weights:
            self.reasons[name] = why


def survey_matrices(model: nn.Module) -> list[Matrix]:
    """All parameters of ``model`` with two dimensions or more, each with all its names."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [
        Matrix(tuple(known), () if has_no_shape(parameter) else tuple(parameter.shape))
        for parameter, known in names.items()
        if has_no_shape(parameter) or parameter.dim() >= 2
    ]


def has_no_shape(parameter: nn.Parameter) -> bool:
    """Whether a parameter, of a lazy layer, will get its shape from the first input."""
    return isinstance(parameter, nn.parameter.UninitializedTensorMixin)
