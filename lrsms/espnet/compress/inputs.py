"""What a folder of iterations was made from: a search goes on only with what it began with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lrsms import stamp
from lrsms.errors import LrsmsError

# Options that decide what a trial is and what its score means. Others may change from one command to the next: how many
# trials and iterations there are, how they are fine-tuned, what is accepted.
_OPTIONS = "budget roles ratios tie multiple truncation calibration fidelity search_set seed".split()
_OPTIONAL = "parts bands band_ranks".split()  # the same; recorded where they are given


def check_inputs(root: Path, options: Mapping, inputs: Iterable[Path]) -> None:
    """Record what a compression is made from, or compare it with what an earlier command has recorded.

    Args:
        root: folder of the iterations.
        options: of the compression.
        inputs: the original's weights, and the manifests of cuts.

    Raises:
        LrsmsError: it holds searches of another model, other cuts or other options; names which.
    """
    marker, arguments = root / "inputs.json", {key: options[key] for key in _OPTIONS}
    arguments |= {key: options[key] for key in _OPTIONAL if options.get(key) is not None}
    if options.get("band_ranks") is not None:
        arguments["rehearsal"] = options["rehearsal"]
    inputs = list(inputs)
    changed = stamp.differences(marker, arguments, inputs)
    if changed and (any(root.glob("iter*")) or (root / "banded").exists()):
        raise LrsmsError(
            f"{root} holds a compression of another {', another '.join(changed)}: its searches would be mixed with "
            f"those of now; give another --output_dir, or --force true to start again"
        )
    stamp.write(marker, arguments, inputs)
