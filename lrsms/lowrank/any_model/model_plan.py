"""What ``factorize_`` has done to a model, said of each of its weight matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrsms.lowrank.any_model.sites import Survey
from lrsms.lowrank.plan import PlanEntry


@dataclass(frozen=True)
class Row:
    """A weight matrix of the dense model, or a part of one.

    Attributes:
        weight: its name among the dense model's parameters.
        shape: of the parameter.
        layer: path that ``ranks=`` knows it by; empty for what cannot be factored.
        role: of the layer.
        rank: None if it has stayed dense.
        why: why it has stayed dense, or what else is to be said.
    """

    weight: str
    shape: tuple[int, ...]
    layer: str = ""
    role: str = ""
    rank: int | None = None
    why: str = ""


@dataclass(frozen=True)
class ModelPlan:
    """What was factored, what stayed as it was, and why. ``print`` shows it as a table.

    Attributes:
        rows: every weight matrix, in the order of the dense model's parameters.
        entries: the layers, with their ranks and costs.
        dense_parameters: parameters of the model before.
        parameters: of the model now; a guide that fades out is not counted.
        proved: whether each replaced layer was proved on an example.
    """

    rows: tuple[Row, ...]
    entries: tuple[PlanEntry, ...]
    dense_parameters: int
    parameters: int
    proved: bool

    @property
    def ranks(self) -> dict[str, int]:
        """Path -> rank of what was factored: with ``ranks=`` of it, a new model of the class gets the same layers."""
        return {entry.module: entry.rank for entry in self.entries if entry.rank is not None}

    def __str__(self) -> str:
        heads = ("weight", "shape", "layer", "role", "rank", "")
        lines = [heads, *map(_cells, self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([*table, "", self.summary()])

    def summary(self) -> str:
        """One sentence on how many matrices were factored, and what that saves."""
        factored = len({row.weight for row in self.rows if row.rank is not None})
        matrices = len({row.weight for row in self.rows})
        times = self.dense_parameters / self.parameters
        proof = "; each was proved at full rank on the example" if self.proved and factored else ""
        return (
            f"{factored} of {matrices} weight matrices factored{proof}. Parameters {self.dense_parameters:,} -> "
            f"{self.parameters:,}: {times:.2f}x fewer"
        )


def _cells(row: Row) -> tuple[str, ...]:
    rank = "dense" if row.rank is None else str(row.rank)
    return row.weight, " x ".join(map(str, row.shape)), row.layer, row.role, rank, row.why


def rows_of(survey: Survey, entries: Sequence[PlanEntry], ratios: bool) -> tuple[Row, ...]:
    """A row for each matrix of the dense model, or for each layer that it is split into.

    Args:
        survey: what is known of the model.
        entries: with their ranks.
        ratios: whether layers were given ranks by ratios, or by ``ranks=`` alone.
    """
    chosen = {entry.module: entry for entry in entries}
    rows = []
    for matrix in survey.matrices:
        covering = [site for site in survey.sites.values() if matrix.names[0] in site.weights]
        if not covering:
            why = survey.reasons.get(matrix.names[0], "it is not the weight of a layer known here")
            rows.append(Row(matrix.names[0], matrix.shape, why=_with_others(why, matrix.names, ())))
        for site in covering:
            entry = chosen[site.path]
            why = entry.note
            if entry.rank is None and not why:
                why = f"role {entry.role} has no ratio" if ratios else "ranks= does not name it"
            if (
                site.kind == "recurrent"
                and site.reader
                and matrix.names[0] == site.weights[-1]
                and entry.rank is not None
            ):
                why = f"gets thinner with {site.path}, which it reads"
            rows.append(
                Row(
                    matrix.names[0],
                    matrix.shape,
                    site.path,
                    entry.role,
                    entry.rank,
                    _with_others(why, matrix.names, site.paths),
                )
            )
    return tuple(rows)


def _with_others(why: str, names: tuple[str, ...], paths: tuple[str, ...]) -> str:
    """The other names of a matrix that several layers have, or that several paths lead to."""
    others = f"also {', '.join(names[1:])}" if len(names) > 1 else ""
    return "; ".join(filter(None, (why, others)))
