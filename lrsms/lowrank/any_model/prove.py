"""Prove on an example that layers can be factored: at full rank, the model's output has to stay what it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.any_model.example import TOLERANCE, Example, call, difference, evaluating, run
from lrsms.lowrank.any_model.sites import Site
from lrsms.lowrank.initialization import initialization_skipped
from lrsms.lowrank.placement import paths, put_, replace_
from lrsms.lowrank.substitution import substitute, substitute_lstm, tied_to

NOT_RUN = "the example does not run it"


def rotation(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of full rank whose product is ``matrix``: a random rotation, and what undoes it times the matrix."""
    assert rank == min(matrix.shape)
    turn = _turn(rank).to(matrix.device)
    matrix = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
    turn = turn.to(matrix.dtype)
    return (turn, turn.T @ matrix) if matrix.shape[0] == rank else (matrix @ turn.T, turn)


def _turn(size: int) -> torch.Tensor:
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(noise)[0]


class Proof:
    """Compares a model with itself after layers have been replaced by factors of full rank.

    Args:
        model: changed while a comparison runs, and put back.
        example: what it is run on.

    Raises:
        LrsmsError: the example does not run, gives no tensor, or gives another output each time.
    """

    def __init__(self, model: nn.Module, example: Example):
        self.model, self.example = model, example
        dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        self.tolerance = max((TOLERANCE.get(dtype, 1e-3) for dtype in dtypes), default=1e-3)
        if any(parameter.is_meta for parameter in model.parameters()) or initialization_skipped():
            raise LrsmsError("example: the model has no weights yet; a proof needs them")
        with evaluating(model), _counting(model.modules()) as self.calls:
            self.expected = run(model, example)
        if not self.expected:
            raise LrsmsError("example: the model's output has no tensor to compare")
        if any(bool(tensor.isnan().any()) for tensor in self.expected):
            raise LrsmsError("example: the model's output has values that are no numbers (NaN); is a weight not set?")
        if not self.unchanged():
            raise LrsmsError("example: in evaluation mode, the model gives another output each time")

    def recount(self) -> None:
        """Count calls of the modules that are there now."""
        with evaluating(self.model), _counting(self.model.modules()) as self.calls:
            run(self.model, self.example)

    def check_that_it_runs(self) -> None:
        """Run the model at the ranks it has now.

        Raises:
            LrsmsError: it does not run, or its output has other shapes.
        """
        try:
            with evaluating(self.model):
                shapes = [tensor.shape for tensor in run(self.model, self.example)]
        except Exception as error:
            raise LrsmsError(
                f"example: with the ranks chosen the model raises {type(error).__name__}: {error}; if it makes states "
                f"of an LSTM's hidden_size itself, exclude the LSTM"
            ) from error
        # What a function makes of the model may be as long as what it decodes.
        if not callable(self.example) and shapes != [tensor.shape for tensor in self.expected]:
            raise LrsmsError("example: with the ranks chosen the output has other shapes; exclude its LSTMs")

    def unchanged(self) -> bool:
        """Whether the model as it is now gives what it gave at first."""
        try:
            with evaluating(self.model):
                return difference(self.expected, run(self.model, self.example)) <= self.tolerance
        except Exception:  # whatever the model raises: it cannot run with these layers
            return False

    def apart(self, unpacked: Mapping[nn.Module, nn.Module]) -> set[nn.Module]:
        """Of attention modules that have been taken apart, those that change the output by it.

        Args:
            unpacked: torch's module -> what stands in its place.
        """
        if self.unchanged():
            return set()
        wrong = set()
        for old in unpacked:
            others = [(there, back) for back, there in unpacked.items() if back is not old]
            with self._replaced(others):
                if not self.unchanged():
                    wrong.add(old)
        return wrong or set(unpacked)

    def failures(self, sites: Sequence[Site]) -> dict[str, str]:
        """Paths of the layers that cannot be factored, and why."""
        failed = {}
        reached = []
        for site in sites:
            if any(self.calls.get(module) for module in site.modules):
                reached.append(site)
            else:
                failed[site.path] = NOT_RUN
        wrong = list(self._search(reached))
        failed |= {site.path: self._what_happens(site) for site in wrong}
        kept = [site for site in reached if site not in wrong]
        if kept and wrong and not self._holds(kept):
            raise LrsmsError("example: layers that can be factored one by one change the output together")
        return failed

    def _search(self, sites: Sequence[Site]) -> Iterator[Site]:
        if not sites or self._holds(sites):
            return
        if len(sites) == 1:
            yield sites[0]
            return
        half = len(sites) // 2
        yield from self._search(sites[:half])
        yield from self._search(sites[half:])

    def _holds(self, sites: Sequence[Site]) -> bool:
        with self._at_full_rank(sites) as new, _counting(new) as calls:
            return self.unchanged() and all(calls.get(layer, 0) == count for layer, count in new.items())

    def reads_alone(self, lstm: str, reader: str) -> bool:
        """Whether nothing but the layer ``reader`` beside the LSTM at the path ``lstm`` sees its hidden units."""
        beside = self.model.get_submodule(lstm.rpartition(".")[0]).get_submodule(reader)
        with self._replaced(turned(self.model.get_submodule(lstm), beside)):
            return self.unchanged()

    def _at_full_rank(self, sites: Sequence[Site]):
        return self._replaced(pair for site in sites for pair in full_rank(self.model, site))

    @contextmanager
    def _replaced(self, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> Iterator[Mapping[nn.Module, int]]:
        """The model with these layers replaced; gives them, and how often each has to be called."""
        replaced: list[tuple[nn.Module, nn.Module]] = []
        try:
            for old, new in pairs:
                replace_(self.model, old, new)
                replaced.append((old, new))
            yield {new: self.calls.get(old, 0) for old, new in replaced}
        finally:
            for old, new in reversed(replaced):
                put_(self.model, new, old)

    def _what_happens(self, site: Site) -> str:
        """What goes wrong where one layer alone is replaced."""
        with self._at_full_rank([site]) as new, _counting(new) as calls:
            try:
                with evaluating(self.model):
                    change = difference(self.expected, run(self.model, self.example))
            except Exception as error:
                return f"with factors of full rank the model raises {type(error).__name__}: {error}"
        if change > self.tolerance:
            return (
                f"with factors of full rank the output changes by {change:.1e} of its size, above {self.tolerance:.0e}"
            )
        missing = sum(new.values()) - sum(calls.get(layer, 0) for layer in new)
        return f"it is called {missing} times from where it cannot be replaced, such as a plain list of modules"


def full_rank(model: nn.Module, site: Site) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each layer of ``site`` and its factored form of full rank; an LSTM's reader as well."""
    first, *tied = site.modules
    if site.kind == "recurrent_input":
        if isinstance(first, nn.LSTM):
            yield first, substitute_lstm(first, "", None, None, min(site.shape), rotation)[0]
    elif isinstance(first, nn.LSTM):
        parent = site.path.rpartition(".")[0]
        reader = model.get_submodule(parent).get_submodule(site.reader)
        yield from turned(first, reader)
    else:
        layer = substitute(first, min(site.shape), rotation)
        yield first, layer
        for dense in tied:
            yield dense, tied_to(layer, dense)


def turned(lstm: nn.LSTM, reader: nn.Linear) -> Iterator[tuple[nn.Module, nn.Module]]:
    """An LSTM that hands out its hidden units rotated, and a reader that undoes it.

    If the output stays the same, nothing but this reader sees the hidden units, and it sees them as they are.
    """
    turn = _turn(lstm.hidden_size).to(reader.weight)
    wide = nn.Linear(reader.in_features, reader.out_features, bias=reader.bias is not None, device="meta")
    parts = reader.weight.detach().split(lstm.hidden_size, dim=1)
    wide.weight = nn.Parameter(torch.cat([part @ turn.T for part in parts], dim=1))
    wide.bias = reader.bias
    yield lstm, TurnedLSTM(lstm, turn)
    yield reader, wide


class TurnedLSTM(nn.LSTM):
    """An LSTM whose hidden units, wherever they are seen from outside, are multiplied with a rotation."""

    def __init__(self, lstm: nn.LSTM, turn: torch.Tensor):
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in lstm.__dict__.items() if name not in nn.Module().__dict__})
        self.inner, self.turn = [lstm], turn

    def forward(self, input, hx=None):
        """As ``nn.LSTM``."""
        if hx is not None:
            hx = hx[0] @ self.turn, hx[1]
        output, (hidden, cell) = self.inner[0](input, hx)
        packed = isinstance(output, nn.utils.rnn.PackedSequence)
        data = output.data if packed else output
        data = (data.unflatten(-1, (-1, self.hidden_size)) @ self.turn.T).flatten(-2)
        return output._replace(data=data) if packed else data, (hidden @ self.turn.T, cell)


def find_readers(model: nn.Module, example: Example) -> dict[str, str]:
    """LSTMs whose output a linear layer beside them takes as it is: path -> name of that layer."""
    known = paths(model)
    outputs: dict[nn.Module, torch.Tensor] = {}
    readers: dict[str, str] = {}

    def remember(lstm: nn.Module, _, output) -> None:
        data = output[0].data if isinstance(output[0], nn.utils.rnn.PackedSequence) else output[0]
        outputs[lstm] = data

    def compare(linear: nn.Module, inputs: tuple) -> None:
        for lstm, output in outputs.items():
            path = known[lstm][0]
            parent, _, _ = path.rpartition(".")
            inside = f"{parent}." if parent else ""
            if path not in readers and known[linear][0].startswith(inside) and _same_numbers(inputs, output):
                readers[path] = known[linear][0].removeprefix(inside)

    hooks = []
    for module, where in known.items():
        if type(module) is nn.LSTM and not module.proj_size and len(where) == 1:
            hooks.append(module.register_forward_hook(remember))
        elif type(module) is nn.Linear and len(where) == 1:
            hooks.append(module.register_forward_pre_hook(compare))
    try:
        with evaluating(model):
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return readers


def _same_numbers(inputs: tuple, output: torch.Tensor) -> bool:
    """Whether a layer's input is an LSTM's output, perhaps with batch and frames in another order, or cut."""
    x = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
    if x is None or x.dim() == 0 or x.shape[-1] != output.shape[-1] or not x.numel():
        return False
    rows = output.flatten(0, -2)
    return bool((rows == x.flatten(0, -2)[0]).all(dim=1).any())


@contextmanager
def _counting(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, int]]:
    """How often each module is called within this context."""
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, *_) -> None:
        calls[module] = calls.get(module, 0) + 1

    hooks = [module.register_forward_pre_hook(count) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
