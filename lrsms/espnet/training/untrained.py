"""What results say of a model that was not trained here: imported, or truncated and no more."""

from __future__ import annotations

from dataclasses import asdict

from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.models.cost import NOMINAL_TOKENS_PER_SECOND, cost
from lrsms.files import write_json
from lrsms.provenance import provenance

SUMMARY = "summary.json"


def summarize_untrained(experiment: Experiment) -> None:
    """Leave ``summary.json`` in the experiment's folder, as a training of no epochs would.

    Args:
        experiment: of weights and ``config.yaml``.

    Raises:
        LrsmsError: the model cannot be opened.
    """
    model, _ = experiment.load()
    untrained = dict.fromkeys(("train_hours", "train_step_seconds", "wall_seconds", "seed"))
    write_json(
        experiment.folder / SUMMARY,
        {
            "experiment": experiment.folder.name,
            "config": str(experiment.config_file),
            **asdict(cost(model, experiment.sampling_rate, NOMINAL_TOKENS_PER_SECOND)),
            **untrained,
            **{"epochs": 0, "max_epoch": 0},
            **provenance(),
        },
    )
