"""Factor any torch model in one line, right or refused with the reason."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.any_model.choose_ranks import WHERE, check_roles, choose, entries_of, parameters
from lrsms.lowrank.any_model.example import Example
from lrsms.lowrank.any_model.install import Installation
from lrsms.lowrank.any_model.model_plan import ModelPlan, rows_of
from lrsms.lowrank.any_model.prove import Proof, find_readers
from lrsms.lowrank.any_model.sites import Survey
from lrsms.lowrank.any_model.survey import Surveyor
from lrsms.lowrank.any_model.work import count
from lrsms.lowrank.attention import PARTS
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.plan import PlanEntry, Recurrent


def factorize_(
    model: nn.Module,
    *,
    target: str | Mapping[str, float | str] | None = None,
    ratio: float | Mapping[str, float] | None = None,
    ranks: Mapping[str, int] | None = None,
    roles: Mapping[str, str] | None = None,
    exclude: str | Sequence[str] = (),
    example: Example | None = None,
    calibration: Iterable[Example] | None = None,
    of: str = "full_rank",
    layer_map: str | Sequence[float] = "uniform",
    init: str = "svd",
    multiple: int = 8,
    frobenius_decay: float = 0.0,
    semi_orthogonal: float = 0.0,
    self_guided: int = 0,
) -> ModelPlan:
    """Replace weight matrices of ``model`` by two thin factors each, in place.

    What can be factored is, at the ranks asked for; what cannot stays as it is, and the plan says why. If an error is
    raised, the model is as it was. Make the optimizer afterwards: one made before trains weights that are gone.

    Args:
        model: any module. Its layers are replaced at every path that leads to them; their biases, hooks, and whether
            they have gradients stay. From then on it also loads state dicts of the dense model it was.
        target: ``"2x"``: as many ranks as leave the whole model half the parameters; ``{"macs": 2.0}`` counts
            multiply-accumulates on ``example``.
        ratio: rank as a part of the full rank, for all layers or by role; with ``target``, their proportions.
        ranks: path of a layer, as the plan prints it -> rank, 0 for dense. Goes before ``ratio`` and ``target``;
            without these two, nothing else is factored.
        roles: regular expression of a path (matched whole) -> role, a name of your own, or
            :class:`lrsms.lowrank.Recurrent` for an LSTM; layers without one stay dense. If it is left out, the role of
            a layer is its kind: ``linear``, ``attention`` (``nn.MultiheadAttention``), ``convolution``,
            ``embedding``, ``recurrent``, ``recurrent_input``.
        exclude: regular expressions of paths that stay dense, with everything within.
        example: an input: a tensor, a tuple of arguments, a mapping of keyword arguments, or a function that runs
            the model it is given. Each layer is proved on it: with factors of full rank, in evaluation mode, every
            output has to stay within 1e-3 of its largest magnitude (float32); else it stays dense, as does what
            the example does not run. LSTMs need it for more than their input.
        calibration: inputs like ``example``, without padding; ranks are then cut where it matters least to what the
            layers of the trained model see (whitened truncation, Wang et al. 2024).
        of: ``full_rank``, or ``parameters``: the ratio is one of the rank from which on factors save nothing.
        layer_map: how ranks spread over equal layers: ``uniform``, ``linear``, ``linear_decreasing``, ``cosine``,
            ``stable_rank`` (of the model's own weights), or a list of weights.
        init: ``svd``, or for training from scratch another of :data:`lrsms.lowrank.initialization.INITIALIZERS`.
        multiple: ranks are multiples of this.
        frobenius_decay: training aid: strength of the decay of the products. Aids act in :func:`lrsms.after_step`.
        semi_orthogonal: training aid: strength of the constraint on the first factors.
        self_guided: training aid: steps until the dense weights that lead have faded out.

    Returns:
        What was done, for every weight matrix; ``print`` it.

    Raises:
        LrsmsError: an unknown option, path or role; a rank for what cannot be factored; a target out of reach; an
            example that does not run.
    """
    config = _config(
        target, of, layer_map, init, multiple, frobenius_decay, semi_orthogonal, self_guided, calibration is not None
    )
    if target is None and ratio is None and ranks is None:
        raise LrsmsError(f"{WHERE}: say how small: target='2x', ratio=0.25, or ranks={{'path': 16}}")
    if config.target and config.target[0] == "macs" and example is None:
        raise LrsmsError(f"{WHERE}: target: multiply-accumulates are counted on example=, which is missing")
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    _check_patterns(model, patterns, "exclude")
    _check_patterns(model, list(roles or ()), "roles")
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise LrsmsError(
            f"{WHERE}: DistributedDataParallel has gathered the parameters already; factor what it wraps first"
        )
    if self_guided and hasattr(model, "self_guide"):
        raise LrsmsError(f"{WHERE}: self_guided: the model has a self_guide already")
    before = parameters(model)
    installation = Installation(model)
    try:
        proof = None if example is None else Proof(model, example)
        survey = installation.survey = _survey(model, roles or {}, patterns, proof)
        entries = entries_of(model, survey, roles)
        config = replace(config, ratios=_ratios(ratio, target, entries))
        counted = count(model, example) if config.target and config.target[0] == "macs" else None
        entries = choose(model, entries, survey, config, ranks or {}, counted)
        chosen = [entry for entry in entries if entry.rank is not None]
        unseen = installation.factor(survey, chosen, init, calibration)
        entries = [replace(entry, note=_UNSEEN) if entry.module in unseen else entry for entry in entries]
        if proof is not None:
            proof.check_that_it_runs()
    except BaseException:
        installation.undo()
        raise
    installation.finish(config)
    rows = rows_of(survey, entries, bool(config.ratios))
    return ModelPlan(rows, tuple(entries), before, parameters(model), proof is not None)


def _config(target, of, layer_map, init, multiple, frobenius, orthogonal, guided, calibrated: bool) -> LowRankConfig:
    stable = isinstance(layer_map, str) and layer_map == "stable_rank"
    if calibrated and init != "svd":
        raise LrsmsError(f"{WHERE}: init: {init!r} does not go with calibration=, which chooses the factors")
    config = LowRankConfig.parse(
        {
            "target": target,
            "of": of,
            "layer_map": "uniform" if stable else layer_map,
            "init": init,
            "multiple": multiple,
            "frobenius_decay": frobenius,
            "semi_orthogonal": orthogonal,
            "self_guided": guided,
        },
        where=WHERE,
    )
    return replace(config, layer_map="stable_rank") if stable else config


def _ratios(ratio, target, entries: Sequence[PlanEntry]) -> dict[str, float]:
    if ratio is None and target is None:
        return {}
    roles = dict.fromkeys(entry.role for entry in entries)
    given = ratio if isinstance(ratio, Mapping) else dict.fromkeys(roles, 1.0 if ratio is None else ratio)
    check_roles(given, entries)
    for role, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise LrsmsError(f"{WHERE}: ratio: {role}: {value!r} is not a number in (0, 1]; leave a role out for dense")
    return dict(given)


_UNSEEN = "calibration does not run it: the plain matrix was truncated"


def _survey(model: nn.Module, roles: Mapping[str, str], exclude: Sequence[str], proof: Proof | None) -> Survey:
    """What can be factored, proved on the example if there is one; attention is taken apart."""
    readers = {}
    if proof is not None:
        found = find_readers(model, proof.example)
        readers = {path: name for path, name in found.items() if proof.reads_alone(path, name)}
        readers |= _named_readers(model, roles)
    surveyor = Surveyor(model, exclude, readers)
    try:
        survey = surveyor.run()
        if proof is not None:
            if packed := proof.apart(survey.unpacked):
                surveyor.undo()
                surveyor = Surveyor(model, exclude, readers, packed)
                survey = surveyor.run()
            proof.recount()
            for path, why in proof.failures(list(survey.sites.values())).items():
                survey.drop(path, why)
    except BaseException:
        surveyor.undo()
        raise
    return survey


def _named_readers(model: nn.Module, roles: Mapping[str, str]) -> dict[str, str]:
    """Path of an LSTM -> name of the layer beside it that ``roles`` says reads it."""
    found = {}
    for path, module in model.named_modules():
        for pattern, role in roles.items() if type(module) is nn.LSTM and not module.proj_size else ():
            match = re.fullmatch(pattern, path)
            if match and isinstance(role, Recurrent):
                found[path] = match.expand(role)
                _check_reader(model, path, module, found[path])
    return found


def _check_reader(model: nn.Module, path: str, lstm: nn.LSTM, name: str) -> None:
    inside = f"{path.rpartition('.')[0]}.".lstrip(".")
    reader = dict(model.named_modules()).get(f"{inside}{name}")
    wanted = lstm.hidden_size * (1 + lstm.bidirectional)
    if not isinstance(reader, nn.Linear) or reader.in_features != wanted:
        raise LrsmsError(
            f"{WHERE}: roles: {path}: {inside}{name} is not a linear layer that takes the {wanted} numbers it gives"
        )


def _check_patterns(model: nn.Module, patterns: Iterable[str], what: str) -> None:
    """Refuse regular expressions that match no path of the model: they would be ignored unseen."""
    known = [path for path, _ in model.named_modules(remove_duplicate=False)]
    known += [
        f"{path}.{part}"
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for part in PARTS
    ]
    for pattern in patterns:
        try:
            matches = any(re.fullmatch(pattern, path) for path in known)
        except re.error as error:
            raise LrsmsError(f"{WHERE}: {what}: {pattern!r} is not a regular expression: {error}") from None
        if not matches:
            near = difflib.get_close_matches(pattern, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; write for example r'.*attention.*'"
            raise LrsmsError(
                f"{WHERE}: {what}: {pattern!r} matches no module of {type(model).__name__} as a whole{hint}"
            )
