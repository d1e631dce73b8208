"""Averages of checkpoints, when a config asks for several."""

import pytest
import torch
from espnet2.train import trainer as espnet_trainer
from espnet2.train.reporter import Reporter

from lrsms.espnet.training.trainer import _averages_apart

ACC, LOSS = ("valid", "acc", "max"), ("valid", "loss", "min")


@pytest.fixture
def trained(tmp_path):
    """Three epochs whose weight is their number; accuracy is best in 3 and 2, loss in 3 and 1."""
    reporter = Reporter()
    for epoch, (acc, loss) in enumerate([(0.1, 0.2), (0.2, 0.3), (0.3, 0.1)], 1):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as observed:
            observed.register({"acc": acc, "loss": loss}, 1)
            observed.next()
        torch.save({"w": torch.tensor(float(epoch))}, tmp_path / f"{epoch}epoch.pth")
    return tmp_path, reporter


@pytest.mark.parametrize(
    ("criteria", "numbers", "averages"),
    [
        ([ACC, LOSS], 2, {"acc.ave_2best": 2.5, "loss.ave_2best": 2.0, "acc.ave": 2.5, "loss.ave": 2.0}),
        ([ACC], [3, 2], {"acc.ave_2best": 2.5, "acc.ave_3best": 2.0, "acc.ave": 2.0}),
        ([ACC], [2, 10], {"acc.ave_2best": 2.5, "acc.ave": 2.5}),  # there are three epochs
        ([ACC], 10, {"acc.ave_1best": 3.0, "acc.ave": 3.0}),
        ([ACC, ("valid", "wer", "min")], 1, {"acc.ave": 3.0}),  # a criterion that nothing was reported for
    ],
)
def test_each_average_is_one(trained, criteria, numbers, averages):
    folder, reporter = trained
    before = espnet_trainer.average_nbest_models
    with _averages_apart():
        espnet_trainer.average_nbest_models(
            reporter=reporter, output_dir=folder, best_model_criterion=criteria, nbest=numbers
        )
    assert espnet_trainer.average_nbest_models is before
    for name, value in averages.items():
        assert float(torch.load(folder / f"valid.{name}.pth", weights_only=True)["w"]) == pytest.approx(value)
    assert not (folder / "valid.acc.ave_10best.pth").exists()
