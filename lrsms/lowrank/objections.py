"""Why a module's weight matrix cannot be factored: each function gives a sentence, or nothing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from lrsms.lowrank.layers import factored_like
from lrsms.lowrank.own_forward import why_not_linear

_STATE_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_RNNS = (nn.RNNBase, nn.RNNCellBase)


def to_its_parameter(module: nn.Module, name: str = "weight") -> str:
    """What speaks against factors in place of the parameter ``name``."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a scripted module"
    if parametrize.is_parametrized(module, name):
        made_by = ", ".join(type(step).__name__.lstrip("_") for step in module.parametrizations[name])
        return f"its {name} is parametrized by {made_by}"
    weight = module._parameters.get(name)
    if weight is None:
        makers = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
        return f"its {name} is not a parameter, but made before each call" + (f" by {makers[0]}" if makers else "")
    if isinstance(weight, nn.parameter.UninitializedTensorMixin):
        return "it has no shape yet; run the model once, then factor it"
    if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor or weight.layout is not torch.strided:
        return f"its {name} is a {type(weight).__name__} of {type(weight.data).__name__}"
    if not weight.is_floating_point():
        return f"its {name} is of {weight.dtype}"
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return f"a hook is on the gradient of its {name}"
    if any(getattr(module, hooks, None) for hooks in _STATE_HOOKS):
        return "it has hooks on its state dict"
    if "forward" in module.__dict__:
        return "its forward has been replaced"
    return ""


def to_its_kind(module: nn.Module) -> str:
    """What speaks against factors for a module that has a parameter ``weight``: its class, or its options."""
    cls = type(module)
    if cls in (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d) and (more := _what_else(module)):
        return f"it has {more} beside its weight"
    if isinstance(module, nn.Embedding):
        return _to_embedding(module)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _to_convolution(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        return f"nn.{cls.__name__} cannot be factored: a Conv1d or Conv2d can"
    if cls is nn.Linear:
        return ""
    of_torch = cls.__module__.startswith("torch.nn.modules") and not isinstance(module, nn.Linear)
    if module.weight.dim() != 2 or of_torch:
        return f"{cls.__name__} is not a layer known here"
    return why_not_linear(module)


def _what_else(module: nn.Module) -> str:
    """Name of a parameter, buffer or module that the factored form would not have; empty if there is none."""
    mine = {name for name, value in module._parameters.items() if value is not None} - {"weight", "bias"}
    return next(iter([*sorted(mine), *module._buffers, *module._modules]), "")


def has_memory(parameter: nn.Parameter) -> bool:
    """Whether a parameter has an address that another could have as well."""
    lazy = isinstance(parameter, nn.parameter.UninitializedTensorMixin)
    return not lazy and not parameter.is_meta and parameter.layout == torch.strided and parameter.numel() > 0


def _to_embedding(module: nn.Embedding) -> str:
    if type(module) is not nn.Embedding:
        return f"{type(module).__name__} is made from nn.Embedding and may compute something else"
    options = [name for name in ("max_norm", "sparse", "scale_grad_by_freq") if getattr(module, name)]
    return f"an embedding with {options[0]}" if options else ""


def _to_convolution(module: nn.Conv1d | nn.Conv2d) -> str:
    if module.groups > 1:
        depthwise = module.groups == module.in_channels
        return f"{'a depthwise' if depthwise else 'a grouped'} convolution (groups={module.groups})"
    plain = nn.Conv1d if isinstance(module, nn.Conv1d) else nn.Conv2d
    if type(module) is plain:
        return ""
    cls = type(module)
    if cls.__init__ is not plain.__init__:
        return f"{cls.__name__} is made from {plain.__name__} with a constructor of its own"
    if more := _what_else(module):
        return f"{cls.__name__} has {more} beside its weight"
    tried = _with_values(module) if module.weight.is_meta else module
    with torch.device(tried.weight.device):  # whatever device models are being made on
        convolves = _convolves(tried)
    return "" if convolves else f"{cls.__name__} is made from {plain.__name__} and computes something else"


def _with_values(module: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The like of a convolution on torch's meta device, whose class has torch's constructor, with random values."""
    options = (module.kernel_size, module.stride, module.padding, module.dilation, 1, module.bias is not None)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        like = type(module)(module.in_channels, module.out_channels, *options, module.padding_mode)
        for parameter in like.parameters():
            nn.init.normal_(parameter.data, std=0.1)
    return like.train(module.training)


@torch.no_grad()
def _convolves(module: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether a class made from a convolution computes it, on random numbers, in both modes."""
    training = module.training
    factored = factored_like(module, module.out_channels)
    weight = module.weight.flatten(1)
    factored.set_factors(torch.eye(len(weight), dtype=weight.dtype, device=weight.device), weight)
    if module.bias is not None:
        factored[1].bias = module.bias
    size = [dilation * (kernel - 1) + 5 for kernel, dilation in zip(module.kernel_size, module.dilation)]
    x = torch.randn(2, module.in_channels, *size, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        for mode in (False, True):
            module.training = factored.training = mode
            # The class's own forward, without hooks.
            expected, result = module.forward(x), factored(x)
            if result.shape != expected.shape or not torch.allclose(
                result, expected, rtol=0, atol=1e-4 * float(expected.abs().max())
            ):
                return False
        return True
    finally:
        module.training = training


def to_recurrent(module: nn.Module) -> str:
    """What speaks against a low-rank form of a recurrent module; empty for an LSTM or LSTMCell of torch's own."""
    cls = type(module)
    if isinstance(module, nn.LSTM) and (cls is not nn.LSTM or module.proj_size):
        return f"an LSTM with proj_size={module.proj_size} has a projection already" if cls is nn.LSTM else _made(cls)
    if isinstance(module, nn.LSTM):
        return next(filter(None, (to_its_parameter(module, name) for name in module._flat_weights_names)), "")
    if isinstance(module, nn.LSTMCell):
        wrong = (to_its_parameter(module, name) for name in ("weight_ih", "weight_hh"))
        return _made(cls) if cls is not nn.LSTMCell else next(filter(None, wrong), "")
    return f"nn.{cls.__name__} cannot be factored: an LSTM or LSTMCell can"


def _made(cls: type) -> str:
    return f"{cls.__name__} is made from torch's and may compute something else"


def is_recurrent(module: nn.Module) -> bool:
    """Whether :func:`to_recurrent` is the one to ask."""
    return isinstance(module, _RNNS)
