"""``rank_plan.yaml``: the rank of every layer of a model, beside its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml

from lrsms.lowrank.plan import RankPlan


def save_plans(path: Path, plans: Mapping[str, RankPlan], totals: Mapping) -> None:
    """Write the plans of a model's parts (``encoder``, ``decoder``) as one YAML file.

    Args:
        path: file to write.
        plans: part -> its plan; module paths are prefixed with the part.
        totals: numbers of the whole model to store beside them.
    """
    parts = {
        part: {"of": plan.config.of, "layer_map": _plain(plan.config.layer_map), "init": plan.config.init}
        for part, plan in plans.items()
    }
    layers = [
        {
            **{key: value for key, value in asdict(entry).items() if key not in ("reader", "weights", "read")},
            "module": f"{part}.{entry.module}",
            "parameters": entry.parameters,
            "dense_parameters": entry.dense_parameters,
        }
        for part, plan in plans.items()
        for entry in plan.entries
    ]
    path.write_text(yaml.safe_dump({"totals": dict(totals), "parts": parts, "layers": layers}, sort_keys=False))


def _plain(layer_map: str | tuple) -> str | list:
    return layer_map if isinstance(layer_map, str) else list(layer_map)
