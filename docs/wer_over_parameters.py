"""Draw README's figure from the committed results of GRID: test WER over parameters while three models are compressed.

    python docs/wer_over_parameters.py

writes docs/wer_over_parameters.png.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lrsms.scoring.pictures import STYLE

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "egs" / "grid" / "asr1" / "compression"
MODELS = {
    "Conformer": "train_dense",
    "LSTM with attention": "train_rnn",
    "LSTM with projections": "train_projected_rnn",
}
Curve = list[tuple[float, float, float, float, bool]]  # parameters, WER, interval's ends in percent, accepted


def from_loop(path: Path) -> Curve:
    """The original and the loop's iterations in ``loop.json``; intervals are of the difference to the original."""
    rows = [row for row in json.loads(path.read_text())["results"] if row["way"] in ("original", "loop")]
    original = rows[0]["wer"]
    return [
        (row["cost"], row["wer"], original + row["low"], original + row["high"], row["accepted"] is not False)
        for row in rows
    ]


def from_results(folder: Path) -> Curve:
    """The same of ``results.json``; intervals are those of each error rate."""
    iterations = json.loads((folder / "compression.json").read_text())["iterations"]
    rejected = {row["folder"] for row in iterations if not row["accepted"]}
    rows = [row for row in json.loads((folder / "results.json").read_text()) if row["split"] == "test"]
    return [
        (row["parameters"], row["wer"], row["wer_low"], row["wer_high"], Path(row["experiment"]).name not in rejected)
        for row in rows
    ]


def main() -> None:
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
        for number, (name, folder) in enumerate(MODELS.items()):
            loop = RESULTS / folder / "loop.json"
            curve = from_loop(loop) if loop.exists() else from_results(RESULTS / folder)
            color, accepted = f"C{number}", sorted(point for point in curve if point[-1])
            axis.axhline(curve[0][1], color=color, linestyle="--", linewidth=0.8, alpha=0.6)
            axis.plot([point[0] for point in accepted], [point[1] for point in accepted], "o-", color=color, label=name)
            for parameters, wer, low, high, holds in curve:
                axis.plot([parameters] * 2, [low, high], color=color, linewidth=1, alpha=0.5)
                if not holds:
                    axis.plot(parameters, wer, "o", color=color, markerfacecolor="white")
        axis.set_xscale("log")
        ticks = [2e5, 3e5, 5e5, 1e6, 2e6, 5e6]
        axis.set_xticks(ticks, [f"{tick / 1e6:g} M" for tick in ticks])
        axis.minorticks_off()
        axis.invert_xaxis()
        axis.set_ylim(0)
        axis.set_xlabel("parameters (the original is the leftmost point; hollow: rejected on dev)")
        axis.set_ylabel("test WER, %")
        axis.legend(loc="upper left", ncols=3, frameon=False, bbox_to_anchor=(0, 1.12))
        figure.savefig(DOCS / "wer_over_parameters.png", dpi=110)


if __name__ == "__main__":
    main()
