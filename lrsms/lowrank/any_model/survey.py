"""Look at every weight matrix of a model: which layer it belongs to, and whether that can be factored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lrsms.lowrank import objections
from lrsms.lowrank.any_model.readers import weight_readers
from lrsms.lowrank.any_model.sites import Site, Survey, has_no_shape, survey_matrices
from lrsms.lowrank.attention import PARTS, LowRankMultiheadAttention
from lrsms.lowrank.hooks import hooked
from lrsms.lowrank.layers import Factored, TransposedLinear
from lrsms.lowrank.placement import paths, put_, replace_
from lrsms.lowrank.recurrent import LowRankLSTM, LowRankLSTMCell, LSTMInput
from lrsms.lowrank.self_guided import SelfGuide
from lrsms.lowrank.substitution import layer_shape

_OURS = (Factored, LowRankLSTM, LowRankLSTMCell, LSTMInput, SelfGuide, TransposedLinear)


class Surveyor:
    """Sorts the matrices of a model into those that can be factored and those that cannot.

    Args:
        model: torch's attention modules in it are taken apart, in place, where they can be.
        exclude: regular expressions of paths that stay as they are, with everything within.
        readers: path of an LSTM -> name of the linear layer beside it that alone reads its output.
        packed: torch's attention modules that are to stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        exclude: Sequence[str],
        readers: Mapping[str, str],
        packed: Collection[nn.Module] = (),
    ):
        self.model, self.exclude, self.readers, self.packed = model, exclude, readers, packed
        self.survey = Survey(survey_matrices(model))
        self.read_by = weight_readers(model)
        self.left_packed: set[nn.Module] = set()
        self.owners = self._owners()
        self.memory = self._memory()
        self.first_name = {name: matrix.names[0] for matrix in self.survey.matrices for name in matrix.names}

    def run(self) -> Survey:
        """Take attention apart and look at every module."""
        self._unpack_attention()
        self.paths = paths(self.model)
        self.readers = {path: name for path, name in self.readers.items() if self._can_get_thinner(path)}
        inside_ours = {inner for module in self.paths if isinstance(module, _OURS) for inner in module.modules()}
        taken = {self._reader_of(path) for path in self.readers}
        for module, known in self.paths.items():
            if module in inside_ours:
                self._refuse(module, known[0], "it is factored already")
            elif module in self.left_packed:
                continue
            elif module in taken:
                self._refuse(module, known[0], "it gets thinner with the LSTM that it reads")
            elif why := self._excluded(known):
                self._refuse(module, known[0], why)
            else:
                self._look_at(module, known)
        self._tie()
        return self.survey

    def undo(self) -> None:
        """Put attention together again."""
        for old, new in self.survey.unpacked.items():
            put_(self.model, new, old)

    def _look_at(self, module: nn.Module, known: list[str]) -> None:
        path, own = known[0], self._own_matrices(module)
        if not own:
            return
        layer = objections.is_recurrent(module) or "weight" in own
        if path == "" and layer:
            self._refuse(module, path, "it is the whole model, which cannot be replaced in place")
        elif objections.is_recurrent(module):
            self._look_at_recurrent(module, known)
        elif "weight" in own:
            why = objections.to_its_parameter(module) or objections.to_its_kind(module) or self._why_shared(module)
            if why:
                self._refuse(module, path, why)
            else:
                self._add(module, known)
        else:
            self._refuse(module, path, f"it belongs to {type(module).__name__}, which is not a layer known here")

    def _why_shared(self, module: nn.Module) -> str:
        """What speaks against factors because of who else has the weight."""
        weight = module._parameters["weight"]
        sharing = self.owners[weight]
        unlike = [owner for owner in sharing if type(owner) not in (nn.Linear, nn.Embedding)]
        if len(sharing) > 1 and unlike:
            other = next((owner for owner in unlike if owner is not module), sharing[0])
            return f"its weight is also that of a {type(other).__name__}"
        return self._why_in_memory(weight)

    def _why_in_memory(self, weight: nn.Parameter) -> str:
        other = self.memory.get(weight)
        return f"its weight lies in the memory of another parameter, {other}" if other else ""

    def _why_read(self, module: nn.Module) -> str:
        """Who reads the weight. With factors, the product would be made at each call: right, but slow."""
        return f"its weight is read by {self.read_by[module]}" if module in self.read_by else ""

    def _add(self, module: nn.Module, known: list[str]) -> None:
        name, shape = self._dense_name(known[0]), layer_shape(module)
        site = Site(known[0], self._kind(module), (module,), shape, (name,), tuple(known))
        self._add_site(replace(site, only_named=self._why_read(module)))

    def _add_site(self, site: Site) -> None:
        self.survey.sites[site.path] = site

    def _kind(self, module: nn.Module) -> str:
        if isinstance(module, nn.Embedding):
            return "embedding"
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            return "convolution"
        inside = (getattr(attention, part) for attention in self.survey.unpacked.values() for part in _PROJECTIONS)
        return "attention" if any(module is part for part in inside) else "linear"

    def _dense_name(self, path: str, name: str = "weight") -> str:
        """First name in the dense model of a parameter of the module at ``path``."""
        parent, _, part = path.rpartition(".")
        attention = self.model.get_submodule(parent)
        if attention in self.survey.unpacked.values():
            full = _join(parent, attention.dense_name(part))
        else:
            full = _join(path, name)
        return self.first_name.get(full, full)

    # --- recurrent layers

    def _look_at_recurrent(self, module: nn.Module, known: list[str]) -> None:
        why = objections.to_recurrent(module) or self._why_read(module)
        shared = next((name for name, weight in module.named_parameters() if len(self.owners[weight]) > 1), None)
        if why or shared:
            self._refuse(module, known[0], why or f"its {shared} is also another module's")
            return
        matrices = {name: self._dense_name(known[0], name) for name in self._own_matrices(module)}
        if isinstance(module, nn.LSTMCell):
            shape = (4 * module.hidden_size, module.input_size + module.hidden_size)
            self._add_site(Site(known[0], "recurrent", (module,), shape, tuple(matrices.values()), tuple(known)))
            return
        inputs = tuple(full for name, full in matrices.items() if name.startswith("weight_ih_l0"))
        rest = tuple(full for full in matrices.values() if full not in inputs)
        if reader := self.readers.get(known[0], ""):
            read = self._dense_name(_join(known[0].rpartition(".")[0], reader))
            shape = (4 * module.hidden_size, module.hidden_size)
            self._add_site(Site(known[0], "recurrent", (module,), shape, (*rest, read), tuple(known), reader))
        else:
            self.survey.reasons.update(dict.fromkeys(rest, NO_READER))
        shape = ((1 + module.bidirectional) * 4 * module.hidden_size, module.input_size)
        aliases = tuple(f"{path}.input" for path in known)
        self._add_site(Site(aliases[0], "recurrent_input", (module,), shape, inputs, aliases, reader))

    def _reader_of(self, path: str) -> nn.Module:
        return self.model.get_submodule(path.rpartition(".")[0]).get_submodule(self.readers[path])

    def _can_get_thinner(self, path: str) -> bool:
        """Whether the reader of the LSTM at ``path`` is a plain linear layer of its own, and neither is excluded."""
        reader, lstm = self._reader_of(path), self.model.get_submodule(path)
        why = objections.to_its_parameter(reader) or self._why_shared(reader) or self._why_read(reader)
        plain = type(reader) is nn.Linear and not why
        known = [*self.paths[reader], *self.paths[lstm]]
        # A hook would see fewer numbers than before.
        return plain and len(known) == 2 and not self._excluded(known) and not hooked(lstm, reader)

    # --- attention

    def _unpack_attention(self) -> None:
        for module, known in paths(self.model).items():
            if not isinstance(module, nn.MultiheadAttention):
                continue
            why = self._excluded(known) or self._why_not_unpacked(module)
            if why:
                self.left_packed.add(module.out_proj)
                for inner, owner in (("", module), ("out_proj", module.out_proj)):
                    self._refuse(owner, _join(known[0], inner), why)
            else:
                self.survey.unpacked[module] = attention = LowRankMultiheadAttention(module)
                replace_(self.model, module, attention)
        self.owners = self._owners()
        self.read_by = weight_readers(self.model)

    def _why_not_unpacked(self, module: nn.MultiheadAttention) -> str:
        if type(module) is not nn.MultiheadAttention:
            return f"{type(module).__name__} is made from nn.MultiheadAttention and may read its weights itself"
        if module is self.model:
            return "it is the whole model, which cannot be replaced in place"
        if module in self.packed:
            return "taken apart, it changes the output"
        names = ["in_proj_weight"] if module.in_proj_weight is not None else [f"{part}_weight" for part in PARTS]
        for owner, name in [(module, name) for name in names] + [(module.out_proj, "weight")]:
            why = objections.to_its_parameter(owner, name)
            if not why and len(self.owners[getattr(owner, name)]) > 1:
                why = f"its {name} is also another module's"
            why = why or self._why_in_memory(getattr(owner, name))
            if why:
                return f"torch's attention reads its weights itself, and {why}"
        for owner in (module, module.out_proj):
            if owner in self.read_by:
                return f"its weights are read by {self.read_by[owner]}"
        hooked = module.out_proj._forward_hooks or module.out_proj._forward_pre_hooks
        return "a hook is on its out_proj, which torch never calls" if hooked else ""

    # --- what several modules have in common

    def _owners(self) -> dict[nn.Parameter, list[nn.Module]]:
        owners: dict[nn.Parameter, list[nn.Module]] = {}
        for module in self.model.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    owners.setdefault(parameter, []).append(module)
        return owners

    def _memory(self) -> dict[nn.Parameter, str]:
        """Parameters whose memory is also that of a parameter of another module, and that one's name."""
        seen: dict[int, tuple[nn.Module, nn.Parameter, str]] = {}
        shared = {}
        for path, module in self.model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is None or not objections.has_memory(parameter):
                    continue
                full = _join(path, name)
                owner, other, known = seen.setdefault(parameter.untyped_storage().data_ptr(), (module, parameter, full))
                if other is not parameter and owner is not module:
                    shared[parameter], shared[other] = known, full
        return shared

    def _tie(self) -> None:
        """Join sites with one weight; where one of its owners cannot be factored, none is."""
        by_weight: dict[nn.Parameter, list[Site]] = {}
        for site in self.survey.sites.values():
            if site.kind in ("linear", "embedding"):
                by_weight.setdefault(site.modules[0].weight, []).append(site)
        for weight, sites in by_weight.items():
            sited = [site.modules[0] for site in sites]
            dense = [owner for owner in self.owners[weight] if all(owner is not module for module in sited)]
            if dense:
                for site in sites:
                    why = f"its weight is also that of {self.paths[dense[0]][0]}, which stays dense"
                    self.survey.drop(site.path, why)
            elif len(sites) > 1:
                self._join_sites(sites)

    def _join_sites(self, sites: list[Site]) -> None:
        # An embedding first: a linear layer can be made from its factors, not the other way round.
        sites = sorted(sites, key=lambda site: site.kind != "embedding")
        for site in sites:
            del self.survey.sites[site.path]
        modules = tuple(site.modules[0] for site in sites)
        known = tuple(path for site in sites for path in site.paths)
        first = sites[0]
        read = next((site.only_named for site in sites if site.only_named), "")
        self._add_site(replace(first, modules=modules, paths=known, only_named=read))

    # --- reasons

    def _own_matrices(self, module: nn.Module) -> list[str]:
        return [
            name
            for name, parameter in module._parameters.items()
            if parameter is not None and (has_no_shape(parameter) or parameter.dim() >= 2)
        ] + (["weight"] if _makes_its_weight(module) and "weight" not in module._parameters else [])

    def _refuse(self, module: nn.Module, path: str, why: str) -> None:
        """Note why the matrices of ``module`` stay as they are; those that it makes its weight from as well."""
        made_from = getattr(module, "parametrizations", None)
        for inner, owner in [("", module), *(made_from.named_modules(prefix="parametrizations") if made_from else ())]:
            for name, parameter in owner._parameters.items():
                if parameter is not None and (has_no_shape(parameter) or parameter.dim() >= 2):
                    self.survey.reasons.setdefault(self._dense_name(_join(path, inner), name), why)

    def _excluded(self, known: list[str]) -> str:
        for path in known:
            above = [path, *(path[: match.start()] for match in re.finditer(r"\.", path))]
            for pattern in self.exclude:
                if any(re.fullmatch(pattern, part) for part in above):
                    return f"excluded by {pattern!r}"
        return ""


_PROJECTIONS = (*PARTS, "out_proj")
NO_READER = "no linear layer is known that alone reads the LSTM's output; example= looks for one"


def _join(path: str, name: str) -> str:
    return ".".join(filter(None, (path, name)))


def _makes_its_weight(module: nn.Module) -> bool:
    """Whether a layer has a weight that is not a parameter of its own: a weight norm, a spectral norm."""
    return "weight" not in module._parameters and isinstance(getattr(module, "weight", None), torch.Tensor)
