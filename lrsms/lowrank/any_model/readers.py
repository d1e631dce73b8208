"""Find code that reads a layer's weight itself, in place of calling the layer: a factored one has no such matrix."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Iterator

from torch import nn

# What a layer is told at its start, or says of itself, is not part of computing with it.
_SETUP = ("__init__", "repr__", "extra_repr", "__setstate__", "reset_parameters", "init_weights", "tie_weights")
_OF_THE_TENSOR = ("dtype", "device", "shape", "ndim", "is_cuda", "size", "dim")  # right of the product as well


def weight_readers(model: nn.Module) -> dict[nn.Module, str]:
    """Modules within ``model`` whose weight is read by another module's code, and by which: ``TextDecoder.forward``.

    Found by reading the source of each class for ``self.name.weight``. What is not found so (a function outside of
    any module, or a class without source) reads the product of the factors, which is right but made anew each time.
    """
    found: dict[nn.Module, str] = {}
    for module in model.modules():
        for path, where in _reads(module.__class__):
            target = _resolve(module, path)
            if target is not None:
                found.setdefault(target, where)
    return found


def _resolve(module: nn.Module, path: tuple[str, ...]) -> nn.Module | None:
    target: object = module
    for name in path:
        target = getattr(target, name, None)
    return target if isinstance(target, nn.Module) else None


@functools.cache
def _reads(cls: type) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Of ``self.a.b.weight`` in the methods of ``cls``, ``("a", "b")`` and the method's name."""
    reads: dict[tuple[str, ...], str] = {}
    for base in cls.__mro__:
        # torch's own that read weights are its attention and the Transformer around it, which are known here.
        if not issubclass(base, nn.Module) or base.__module__.startswith(("torch.nn.modules.", "lrsms.lowrank.")):
            continue
        for method in _methods(base):
            for path in _weights_read(method):
                reads.setdefault(path, f"{cls.__name__}.{method.name}")
    return tuple(reads.items())


def _methods(cls: type) -> Iterator[ast.FunctionDef]:
    try:
        node = _classes(inspect.getsourcefile(cls) or "").get(cls.__qualname__)
    except TypeError:  # a class made where there is no file
        return
    for method in node.body if node else ():
        if isinstance(method, ast.FunctionDef) and not any(part in method.name for part in _SETUP):
            yield method


@functools.cache
def _classes(file: str) -> dict[str, ast.ClassDef]:
    """The classes of a file by their qualified names; none if it cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found = {}
    nodes: list[tuple[ast.AST, str]] = [(tree, "")]
    while nodes:
        node, prefix = nodes.pop()
        for inner in ast.iter_child_nodes(node):
            below = prefix
            if isinstance(inner, ast.ClassDef):
                found[f"{prefix}{inner.name}"] = inner
                below = f"{prefix}{inner.name}."
            elif isinstance(inner, ast.FunctionDef):
                below = f"{prefix}{inner.name}.<locals>."
            nodes.append((inner, below))
    return found


def _weights_read(method: ast.FunctionDef) -> Iterator[tuple[str, ...]]:
    of_the_tensor = {
        node.value for node in ast.walk(method) if isinstance(node, ast.Attribute) and node.attr in _OF_THE_TENSOR
    }
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and _is_weight(node.attr) and node not in of_the_tensor:
            path = _chain(node.value)
            if len(path) > 1 and path[0] == "self":
                yield path[1:]


def _is_weight(name: str) -> bool:
    return name == "weight" or name.startswith("weight_") or name.endswith("_proj_weight")


def _chain(node: ast.expr) -> tuple[str, ...]:
    """``self.a.b`` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()
