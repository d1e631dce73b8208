"""How many directions trained layers use: effective rank of each product of factors, over the epochs of a training."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from lrsms.bench import pictures
from lrsms.bench.results import write_results
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_weights
from lrsms.training_yaml import read_yaml

_PLAN = "rank_plan.yaml"
_EPOCH = re.compile(r"(\d+)epoch\.pth")


def effective_rank(*factors: torch.Tensor) -> float:
    """Exponential of the entropy of the singular values, each divided by their sum (Roy and Vetterli 2007).

    Args:
        factors: one matrix, or two of which the product ``up @ down`` is meant, ``(out, rank)`` and ``(rank, in)``.

    Returns:
        From 1, for a matrix with one direction, to its smaller side, or the rank; 0 for a matrix of zeros.
    """
    if len(factors) == 1:
        matrix = factors[0].double()
    else:
        up, down = (factor.double() for factor in factors)
        matrix = torch.linalg.qr(up, mode="r").R @ torch.linalg.qr(down.T, mode="r").R.T
    values = torch.linalg.svdvals(matrix)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(share).sum().exp()) if values.any() else 0.0


def spectra_over_training(folders: Sequence[Path], output_dir: Path) -> str:
    """Effective rank of every covered layer after each epoch whose weights are there, by role.

    Layers are those that one of the plans covers; a dense training may have no plan of its own.

    Args:
        folders: experiments that stage 3 has trained.
        output_dir: folder for table, JSON and picture.

    Returns:
        The table.

    Raises:
        LrsmsError: a folder is missing, none has a plan with layers, one has no weights of single epochs, or no weights
            of a layer.
    """
    for folder in folders:
        if not folder.is_dir():
            raise LrsmsError(f"--asr_exp {folder}: no such folder")
    layers = {layer["module"]: layer for folder in reversed(folders) for layer in _planned(folder)}
    if not layers:
        names = ", ".join(map(str, folders))
        raise LrsmsError(f"--asr_exp: no {_PLAN} of {names} has layers; name a low-rank one, too")
    alike = len({folder.name for folder in folders}) < len(folders)
    results = []
    for folder in folders:
        own = {layer["module"]: layer for layer in _planned(folder)}
        shown = str(folder) if alike else folder.name
        for epoch, path in tqdm(_epochs(folder), desc=str(folder), unit="epoch"):
            weights = read_weights(path)
            for name, layer in layers.items():
                rank = own.get(name, {}).get("rank")
                used = effective_rank(*_matrices(weights, name, rank, path))
                most = rank or min(layer["inputs"], layer["outputs"])
                results.append(
                    {
                        **{
                            "experiment": shown,
                            "epoch": epoch,
                            "module": name,
                            "role": layer["role"],
                        },
                        **{"rank": most, "effective": used, "share": used / most},
                    }
                )
    pictures.spectra(results, output_dir / "spectrum.png")
    return write_results(
        output_dir,
        "spectrum",
        "Effective rank over training",
        (
            "experiment",
            "role",
            "layers",
            "rank",
            "epochs",
            "effective rank",
            "share of rank",
            "least",
            "least used layer",
        ),
        _rows(results),
        [
            "Effective rank: exponential of the entropy of a matrix's singular values, mean over the role's layers, "
            "after the first and the last of the epochs that were found. Rank: that of the factors, or full rank. "
            "Least: share of the layer that uses least of its rank after the last epoch."
        ],
        {"results": results},
        left=2,
        pictures=["spectrum.png"],
    )


def _planned(folder: Path) -> list[dict]:
    """The layers of an experiment's plan, but LSTMs."""
    path = folder / _PLAN
    if not path.exists():
        return []
    return [layer for layer in read_yaml(path).get("layers") or [] if not layer["role"].startswith("recurrent")]


def _epochs(folder: Path) -> list[tuple[int, Path]]:
    found = [(int(match[1]), path) for path in folder.glob("*epoch.pth") if (match := _EPOCH.fullmatch(path.name))]
    if not found:
        raise LrsmsError(
            f"{folder}: no weights of single epochs, such as 3epoch.pth; train with keep_nbest_models: 1000 to keep all"
        )
    return sorted(found)


def _matrices(weights: Mapping[str, torch.Tensor], name: str, rank: int | None, path: Path) -> list[torch.Tensor]:
    """The dense matrix, or ``up`` and ``down``."""
    names = [f"{name}.weight"] if rank is None else [f"{name}.1.weight", f"{name}.0.weight"]
    missing = [one for one in names if one not in weights]
    if missing:
        raise LrsmsError(f"{path}: {missing[0]} is missing; give experiments of one architecture")
    matrices = [weights[one].flatten(1) for one in names]
    if rank is not None and matrices[1].shape[0] != rank:  # an embedding's first table is (tokens, rank)
        matrices[1] = matrices[1].T
    return matrices


def _rows(results: Sequence[Mapping]) -> list[tuple[str, ...]]:
    groups = defaultdict(list)
    for result in results:
        groups[result["experiment"], result["role"]].append(result)
    rows: list[tuple[str, ...]] = []
    for (experiment, role), found in groups.items():
        epochs = sorted({one["epoch"] for one in found})
        first, last = ([one for one in found if one["epoch"] == epoch] for epoch in (epochs[0], epochs[-1]))
        least = min(last, key=lambda one: one["share"])
        rows.append(
            (
                *(experiment, role, str(len(last)), f"{_mean(last, 'rank'):.1f}", f"{epochs[0]} to {epochs[-1]}"),
                f"{_mean(first, 'effective'):.1f} to {_mean(last, 'effective'):.1f}",
                f"{_mean(first, 'share'):.0%} to {_mean(last, 'share'):.0%}",
                *(f"{least['share']:.0%}", f"`{least['module']}`"),
            )
        )
    return rows


def _mean(results: Sequence[Mapping], key: str) -> float:
    return sum(result[key] for result in results) / len(results)
