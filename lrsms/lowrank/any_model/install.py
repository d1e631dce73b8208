"""Put factored layers into a model by a survey and its ranks, or take all of it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.aids import AIDS, AfterStep, unique_layers
from lrsms.lowrank.any_model.example import Example, call, evaluating
from lrsms.lowrank.any_model.sites import Site, Survey
from lrsms.lowrank.apply_plan import accept_dense_weights
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.fast_path import avoid_fast_path
from lrsms.lowrank.initialization import INITIALIZERS
from lrsms.lowrank.layers import Factored
from lrsms.lowrank.moments import input_moments
from lrsms.lowrank.placement import paths, put_, replace_
from lrsms.lowrank.plan import PlanEntry
from lrsms.lowrank.recurrent import LowRankLSTMCell, cell_matrix
from lrsms.lowrank.self_guided import SelfGuide
from lrsms.lowrank.substitution import Factorizer, substitute, substitute_lstm, tied_to
from lrsms.lowrank.truncation import Moments, factorize


class Installation:
    """Layers that have been replaced in a model, which can be put back.

    Args:
        model: changed in place.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.survey: Survey | None = None
        self.replaced: list[tuple[nn.Module, nn.Module]] = []
        self.guided: dict[str, torch.Tensor] = {}  # dense weights by the path of the layer that has replaced them

    def undo(self) -> None:
        """Put everything back: the model is the object it was, down to its layers and parameters."""
        for old, new in reversed(self.replaced):
            put_(self.model, new, old)
        for old, new in self.survey.unpacked.items() if self.survey else ():
            put_(self.model, new, old)

    def factor(
        self,
        survey: Survey,
        entries: Sequence[PlanEntry],
        init: str,
        calibration: Iterable[Example] | None = None,
    ) -> set[str]:
        """Replace the layers of ``entries``, all of which have a rank.

        Returns:
            Paths of the layers that calibration did not run: their factors are those of the plain matrix.

        Raises:
            LrsmsError: calibration has no batch.
        """
        moments = {} if calibration is None else self._moments(survey, entries, calibration)
        ranks = {entry.module: entry.rank for entry in entries}
        known = paths(self.model)
        for path, rank in ranks.items():
            site = survey.sites[path]
            first = site.modules[0]
            assert rank is not None
            if isinstance(first, nn.LSTM):
                lstm_path = path.removesuffix(".input") if site.kind == "recurrent_input" else path
                if site.kind == "recurrent" or lstm_path not in ranks:  # else it came, or comes, with the LSTM
                    self._lstm(survey, lstm_path, ranks, init, moments)
                continue
            layer = substitute(first, rank, _factorizer(init, iter([moments.get(path)])))
            (layer.gates if isinstance(layer, LowRankLSTMCell) else layer).init_method = init
            self._remember_guide(site, known)
            self._replace(first, layer)
            for dense in site.modules[1:]:
                assert isinstance(layer, Factored)
                self._replace(dense, tied_to(layer, dense))
        return set() if calibration is None else {path for path in ranks if not moments.get(path)}

    def _lstm(self, survey: Survey, path: str, ranks: Mapping, init: str, moments: Mapping) -> None:
        site = survey.sites.get(path) or survey.sites[f"{path}.input"]
        dense, rank, input_rank = site.modules[0], ranks.get(path), ranks.get(f"{path}.input")
        reader = None
        if site.reader and rank is not None:
            reader = self.model.get_submodule(path.rpartition(".")[0]).get_submodule(site.reader)
        seen = moments.get(path) or {}
        names = [name for name, _ in dense.named_parameters() if name.startswith("weight_hh")]
        order = ([moments.get(f"{path}.input")] if input_rank else []) + [seen.get(name) for name in names]
        name = site.reader if reader is not None else ""
        lstm, thin = substitute_lstm(dense, name, reader, rank, input_rank, _factorizer(init, iter(order)))
        lstm.init_method = init
        self._replace(dense, lstm)
        if reader is not None:
            assert thin is not None
            self._replace(reader, thin)

    def _replace(self, old: nn.Module, new: nn.Module) -> None:
        replace_(self.model, old, new)
        self.replaced.append((old, new))

    def _remember_guide(self, site: Site, known: Mapping[nn.Module, list[str]]) -> None:
        first = site.modules[0]
        if isinstance(first, nn.LSTMCell):
            self.guided[f"{site.path}.gates"] = cell_matrix(first.state_dict())[0]
        else:
            weight = first.weight.detach()
            self.guided |= {known[module][0]: weight for module in site.modules}

    def _moments(self, survey: Survey, entries: Sequence[PlanEntry], calibration: Iterable[Example]) -> dict:
        """What the layers see of the calibration inputs; of a table tied with an output, what the output sees."""
        known = paths(self.model)
        seen_at = {}
        for entry in entries:
            site = survey.sites[entry.module]
            output = next((module for module in site.modules if isinstance(module, nn.Linear)), None)
            seen_at[entry.module] = entry.module if output is None else known[output][0]

        batches = 0

        def run() -> None:
            nonlocal batches
            for batch in calibration:
                call(self.model, batch)
                batches += 1

        with evaluating(self.model):
            found = input_moments(self.model, dict.fromkeys(seen_at.values()), run)
        if not batches:
            raise LrsmsError("calibration: there is no batch in it")
        moments: dict = {path: found.get(at) for path, at in seen_at.items()}
        for path, at in seen_at.items():
            if at != path and moments[path] is not None:
                moments[path] = _Transposed(moments[path])
        return moments

    def finish(self, config: LowRankConfig) -> None:
        """What goes with the factors, once nothing can fail any more."""
        assert self.survey is not None
        for old, new in self.survey.unpacked.items():
            if not any(isinstance(inner, Factored) for inner in new.modules()):
                put_(self.model, new, old)  # nothing in it was factored
        if not self.replaced:
            return
        avoid_fast_path(self.model, {new for _, new in self.replaced})
        accept_dense_weights(self.model)
        layers = [
            layer for layer in unique_layers(self.model) if any(layer in new.modules() for _, new in self.replaced)
        ]
        guides = []
        if config.self_guided and self.guided:
            self.model.self_guide = SelfGuide(self.model, self.guided, config.self_guided)
            guides = [self.model.self_guide]
        aids = self.model.__dict__.setdefault(AIDS, AfterStep([], [], []))
        if config.frobenius_decay:
            aids.decayed.append((layers, config.frobenius_decay))
        if config.semi_orthogonal:
            aids.constrained.append((layers, config.semi_orthogonal))
        aids.guides += guides


class _Transposed:
    """Moments of what the transpose of a matrix is multiplied with."""

    def __init__(self, moments: Moments):
        self.moments = moments


def _factorizer(init: str, moments: Iterator) -> Factorizer:
    """Factors by calibration where there are moments, taken one by one; else by ``init``."""

    def make(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen = next(moments, None)
        if seen is None:
            return INITIALIZERS[init](matrix, rank)
        if isinstance(seen, _Transposed):
            factors = factorize(matrix.T, "whitened", seen.moments, has_bias=False)
            return factors.down[:rank].T, factors.up[:, :rank].T
        factors = factorize(matrix, "whitened", seen, has_bias=False)
        return factors.up[:, :rank], factors.down[:rank]

    return make
