"""Effective ranks over training: their values, the rows of experiments, what is refused."""

import json

import pytest
import torch
import yaml

from lrsms.bench.spectrum import effective_rank, spectra_over_training
from lrsms.errors import LrsmsError

LAYERS = [
    {"module": "encoder.a", "role": "attention", "inputs": 6, "outputs": 8, "rank": 3},
    {"module": "encoder.b", "role": "feed_forward", "inputs": 6, "outputs": 8, "rank": None},
    {"module": "decoder.embed", "role": "embedding", "inputs": 9, "outputs": 6, "rank": 2},
    {"module": "encoder.conv", "role": "subsampling", "inputs": 6, "outputs": 8, "rank": 2},
    {"module": "encoder.lstm", "role": "recurrent", "inputs": 6, "outputs": 8, "rank": 2},
]


def with_values(*values):
    """A matrix (8, 6) with these singular values."""
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(8, 8))[0], torch.linalg.qr(torch.randn(6, 6))[0]
    return left[:, : len(values)] @ torch.diag(torch.tensor(values)) @ right[: len(values)]


def test_effective_rank_counts_equal_directions_and_hardly_small_ones():
    assert effective_rank(with_values(3.0, 3.0, 3.0, 3.0)) == pytest.approx(4, abs=1e-4)
    assert effective_rank(with_values(3.0, 1e-6)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(with_values(1.0, 0.5)) == pytest.approx(1.88988, abs=1e-4)  # by hand: 3 / 2^(2/3)
    assert effective_rank(torch.zeros(8, 6)) == 0


def test_that_of_factors_is_that_of_their_product():
    up, down = torch.randn(8, 3), torch.randn(3, 6)
    assert effective_rank(up, down) == pytest.approx(effective_rank(up @ down), rel=1e-4)


@pytest.fixture
def trainings(tmp_path):
    """A low-rank one of two epochs, the last of which has lost a direction of encoder.a, and a dense one."""
    low, dense = tmp_path / "low", tmp_path / "dense"
    low.mkdir(), dense.mkdir()
    (low / "rank_plan.yaml").write_text(yaml.safe_dump({"layers": LAYERS}))
    torch.manual_seed(0)
    up, down = torch.linalg.qr(torch.randn(8, 3))[0], torch.linalg.qr(torch.randn(6, 3))[0].T
    for epoch, last in ((2, 1.0), (10, 0.0)):
        state = {"encoder.a.0.weight": torch.diag(torch.tensor([1.0, 1.0, last])) @ down, "encoder.a.1.weight": up}
        state |= {"encoder.b.weight": with_values(1.0, 1.0)}
        state |= {"decoder.embed.0.weight": torch.eye(9)[:, :2], "decoder.embed.1.weight": torch.eye(6)[:, :2]}
        one = torch.zeros(2, 3, 1, 2)
        one[0] = 1.0
        state |= {"encoder.conv.0.weight": one, "encoder.conv.1.weight": torch.eye(8)[:, :2, None, None]}
        torch.save(state, low / f"{epoch}epoch.pth")
    torch.save(
        {"encoder.a.weight": with_values(2.0), "encoder.b.weight": torch.eye(8)[:, :6]}
        | {"decoder.embed.weight": torch.randn(9, 6), "encoder.conv.weight": torch.randn(8, 3, 1, 2)},
        dense / "1epoch.pth",
    )
    return low, dense


def test_each_layer_after_each_epoch_beside_a_dense_training(trainings, tmp_path):
    table = spectra_over_training(trainings, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "spectrum.json").read_text())["results"]
    share = {(one["experiment"], one["epoch"], one["module"]): one["share"] for one in found}
    assert share["low", 2, "encoder.a"] == pytest.approx(1, abs=1e-4)
    assert share["low", 10, "encoder.a"] == pytest.approx(2 / 3, abs=1e-4)
    assert share["low", 10, "encoder.b"] == pytest.approx(2 / 6, abs=1e-4)  # dense here, too: of its full rank
    assert share["dense", 1, "encoder.a"] == pytest.approx(1 / 6, abs=1e-4)
    assert share["dense", 1, "encoder.b"] == pytest.approx(1, abs=1e-4)
    assert share["low", 2, "decoder.embed"] == pytest.approx(1, abs=1e-4)  # two equal directions
    assert share["low", 2, "encoder.conv"] == pytest.approx(0.5, abs=1e-4)  # one of two, over kernel and inputs
    assert not any("lstm" in module for _, _, module in share)
    row = next(line for line in table.splitlines() if "low" in line and "attention" in line)
    assert "2 to 10" in row and "100% to 67%" in row and "`encoder.a`" in row
    assert (tmp_path / "out" / "spectrum.png").stat().st_size > 10_000


def test_experiments_of_one_name_are_told_apart_and_no_layer_of_any_plan_is_left_out(trainings, tmp_path):
    low, dense = trainings
    other = tmp_path / "elsewhere" / "low"
    other.mkdir(parents=True)
    (other / "rank_plan.yaml").write_text(yaml.safe_dump({"layers": [LAYERS[1]]}))
    torch.save(torch.load(dense / "1epoch.pth"), other / "1epoch.pth")
    table = spectra_over_training([other, low], tmp_path / "out")
    found = json.loads((tmp_path / "out" / "spectrum.json").read_text())["results"]
    assert {(one["experiment"], one["module"]) for one in found if one["epoch"] == 1} == {
        (str(other), layer["module"]) for layer in LAYERS[:4]
    }
    assert str(low) in table and str(other) in table


def test_what_cannot_be_compared_is_refused(trainings, tmp_path):
    low, dense = trainings
    with pytest.raises(LrsmsError, match=r"--asr_exp .*nowhere: no such folder"):
        spectra_over_training([low, tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(LrsmsError, match=r"rank_plan.yaml of .*dense has layers; name a low-rank one"):
        spectra_over_training([dense], tmp_path / "out")
    torch.save({"encoder.b.weight": torch.eye(8)}, dense / "3epoch.pth")
    with pytest.raises(LrsmsError, match=r"3epoch.pth: encoder.a.weight is missing"):
        spectra_over_training([low, dense], tmp_path / "out")
    for path in low.glob("*epoch.pth"):
        path.unlink()
    with pytest.raises(LrsmsError, match=r"low: no weights of single epochs.*keep_nbest_models"):
        spectra_over_training([low], tmp_path / "out")
