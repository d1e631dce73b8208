"""Choose a rank for every layer that a survey has found, by ratios, a target, or one by one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.any_model.sites import Site, Survey
from lrsms.lowrank.any_model.work import Work
from lrsms.lowrank.any_model.work import readers as readers_of
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.maps import stable_rank
from lrsms.lowrank.plan import PlanEntry, Recurrent, rank_groups
from lrsms.lowrank.recurrent import cell_matrix, input_matrix, lstm_weights
from lrsms.lowrank.substitution import dense_matrix

WHERE = "factorize_"
Roles = Mapping[str, str]


def role_of(site: Site, roles: Roles | None) -> str | None:
    """The role of a layer: what ``roles`` says of one of its paths, else its kind; None if no role matches."""
    if roles is None:
        return site.kind
    for pattern, role in roles.items():
        if any(re.fullmatch(pattern, path.removesuffix(".input")) for path in site.paths):
            return site.kind if isinstance(role, Recurrent) else role
    return None


def entries_of(model: nn.Module, survey: Survey, roles: Roles | None) -> list[PlanEntry]:
    """An entry without a rank for each layer that has a role; the others are dropped from the survey."""
    entries, read_by = [], readers_of(model, survey)
    for site in list(survey.sites.values()):
        role = role_of(site, roles)
        if role is None:
            survey.drop(site.path, "no role matches it")
            continue
        outputs, inputs = site.shape
        entry = PlanEntry(site.path, role, 0, inputs, outputs, None)
        if site.kind == "recurrent" and site.reader:
            lstm, features = site.modules[0], read_by[site.path].out_features
            read = (1 + lstm.bidirectional) * features
            entry = replace(entry, reader=site.reader, weights=lstm_weights(lstm, features), read=read)
        entries.append(entry)
    return entries


def check_roles(named: Mapping[str, object], entries: Sequence[PlanEntry]) -> None:
    """Refuse ratios of roles that no layer has.

    Raises:
        LrsmsError: names the role, and those that there are.
    """
    present = sorted({entry.role for entry in entries})
    for role in named:
        if role not in present:
            raise LrsmsError(
                f"{WHERE}: ratio: no layer has the role {role!r}; roles are {', '.join(present) or 'none'}"
            )


def choose(
    model: nn.Module,
    entries: Sequence[PlanEntry],
    survey: Survey,
    config: LowRankConfig,
    ranks: Mapping[str, int],
    work: Work | None = None,
) -> list[PlanEntry]:
    """The entries with their ranks.

    Args:
        model: still dense.
        entries: from :func:`entries_of`.
        survey: what is known of the model.
        config: ratios by role, how they spread, and a target.
        ranks: path -> rank, 0 for dense; goes before everything else.
        work: what the example takes, for a target of multiply-accumulates.

    Raises:
        LrsmsError: an unknown path, a rank above the full one, a layer that cannot be factored, a target out of reach.
    """
    fixed = _named(ranks, entries, survey)
    weights = None
    if config.layer_map == "stable_rank":
        weights = {entry.module: stable_rank(_trained(survey.sites[entry.module])) for entry in entries}
        config = replace(config, layer_map="uniform")

    def at(scale: float) -> list[PlanEntry]:
        chosen = rank_groups(list(entries), config.scaled(scale), WHERE, weights, _family)
        return [_with_exception(entry, fixed, survey.sites[entry.module]) for entry in chosen]

    if config.target is None:
        return at(1.0)
    return _reach(config, at, _reduction(model, survey, work))


def _with_exception(entry: PlanEntry, fixed: Mapping[str, int], site: Site) -> PlanEntry:
    """The entry with the rank that ``ranks=`` gives it, or without one where only that could."""
    if entry.module in fixed:
        slow = f"{site.only_named}: the product is made at each call" if site.only_named else ""
        return replace(entry, rank=fixed[entry.module] or None, note=slow if fixed[entry.module] else "ranks= says so")
    return replace(entry, rank=None, note=f"{site.only_named}; ranks= can name it") if site.only_named else entry


def _reduction(model: nn.Module, survey: Survey, work: Work | None) -> Callable[[Sequence[PlanEntry]], float]:
    """How many times fewer multiply-accumulates the whole model takes, or parameters it has if there is no work."""
    total, readers = parameters(model), readers_of(model, survey)

    def reduction(entries: Sequence[PlanEntry]) -> float:
        if work is None:
            saved: float = sum(entry.dense_parameters - entry.parameters for entry in entries)
            return total / (total - saved)
        saved = sum(work.saved(survey.sites[entry.module], entry, readers.get(entry.module)) for entry in entries)
        return work.macs / max(work.macs - saved, 1.0)

    return reduction


def _family(entry: PlanEntry) -> tuple:
    """Layers of one shape whose paths differ in a number only: the maps spread ranks over these, in module order.

    A last number tells layers of one block apart (``blocks.3.0``), unless it is the only one (``0`` of a Sequential).
    """
    parts = entry.module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    if len(numbers) > 1 and numbers[-1] == len(parts) - 1:
        numbers.pop()
    pattern = ".".join("*" if index in numbers else part for index, part in enumerate(parts))
    return pattern, entry.role, entry.inputs, entry.outputs


def _named(ranks: Mapping[str, int], entries: Sequence[PlanEntry], survey: Survey) -> dict[str, int]:
    """Ranks by the path of their site."""
    by_path = {path: site.path for site in survey.sites.values() for path in site.paths}
    found = {}
    for path, rank in ranks.items():
        entry = next((entry for entry in entries if entry.module == by_path.get(path)), None)
        if entry is None:
            raise LrsmsError(f"{WHERE}: ranks: {path}: {_why_unknown(path, by_path, survey)}")
        most = entry.full_rank - (bool(entry.reader) or path.endswith(".input"))
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= most:
            raise LrsmsError(f"{WHERE}: ranks: {path}: {rank!r} is not a rank from 1 to {most}, or 0 for dense")
        found[entry.module] = rank
    return found


def _why_unknown(path: str, by_path: Mapping[str, str], survey: Survey) -> str:
    for name, reason in survey.reasons.items():
        if name.rpartition(".")[0] == path or name == path:
            return f"cannot be factored: {reason}"
    near = difflib.get_close_matches(path, by_path, n=1)
    return "no layer of that path" + (f"; did you mean {near[0]!r}?" if near else "")


def _trained(site: Site) -> torch.Tensor:
    module = site.modules[0]
    if isinstance(module, nn.LSTM):
        state = module.state_dict()
        return input_matrix(state) if site.kind == "recurrent_input" else state["weight_hh_l0"]
    return cell_matrix(module.state_dict())[0] if isinstance(module, nn.LSTMCell) else dense_matrix(module)


def _reach(
    config: LowRankConfig, at: Callable[[float], list[PlanEntry]], reduction: Callable[[Sequence[PlanEntry]], float]
) -> list[PlanEntry]:
    """Scale every ratio by the largest number with which the whole model reaches the target, and spend the rest."""
    assert config.target is not None
    what, times = config.target
    low, high = 0.0, 1 / min(config.ratios.values(), default=1.0)
    smallest = reduction(at(low))
    if smallest < times:
        raise LrsmsError(
            f"{WHERE}: target: {times:g}x fewer {what} is out of reach: the smallest ranks give {smallest:.2f}x"
            f"; print(factorize_(copy.deepcopy(model), ratio=0.01)) says what stays dense and why"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reduction(at(middle)) >= times else (low, middle)
    return _spend_what_is_left(at(low), at(high), lambda entries: reduction(entries) >= times)


def _spend_what_is_left(
    entries: list[PlanEntry], larger: list[PlanEntry], fits: Callable[[Sequence[PlanEntry]], bool]
) -> list[PlanEntry]:
    """Give families of layers the next larger rank, one after the other, where the target is still reached.

    At one scale, all layers of a size are rounded up together: with small models and large multiples that is much.
    """
    for family in dict.fromkeys(map(_family, entries)):
        more = [big if _family(small) == family else small for small, big in zip(entries, larger)]
        if fits(more):
            entries = more
    return entries


def parameters(model: nn.Module) -> int:
    """Parameters of a model; a guide that fades out is not counted, nor what has no shape yet."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not isinstance(parameter, nn.parameter.UninitializedTensorMixin) and "self_guide." not in f".{name}"
    )
