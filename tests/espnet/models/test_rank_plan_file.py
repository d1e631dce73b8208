import yaml
from torch import nn

from lrsms.espnet.models.rank_plan_file import save_plans
from lrsms.lowrank import LowRankConfig, RankPlan

ROLES = {r"blocks\.\d+\.attention\.q": "attention", r"blocks\.\d+\.w": "feed_forward"}


def make(block: dict) -> RankPlan:
    layers = {"attention": lambda: nn.ModuleDict({"q": nn.Linear(64, 64)}), "w": lambda: nn.Linear(64, 256)}
    blocks = nn.ModuleList(nn.ModuleDict({name: new() for name, new in layers.items()}) for _ in range(4))
    return RankPlan.make(nn.ModuleDict({"blocks": blocks}), ROLES, LowRankConfig.parse(block), "low_rank")


def test_saved_plans_come_back(tmp_path):
    plans = {"encoder": make({"attention": 0.25, "init": "xavier"}), "decoder": make({"of": "parameters"})}
    save_plans(tmp_path / "rank_plan.yaml", plans, {"parameters": 5, "macs_per_second": 1.5})
    saved = yaml.safe_load((tmp_path / "rank_plan.yaml").read_text())
    assert saved["totals"] == {"parameters": 5, "macs_per_second": 1.5}
    assert saved["parts"]["encoder"] == {"of": "full_rank", "layer_map": "uniform", "init": "xavier"}
    assert saved["parts"]["decoder"]["of"] == "parameters"
    assert len(saved["layers"]) == len(plans["encoder"].entries) + len(plans["decoder"].entries)
    layer = next(layer for layer in saved["layers"] if layer["module"] == "encoder.blocks.2.attention.q")
    expected = {"role": "attention", "depth": 2, "inputs": 64, "outputs": 64, "rank": 16, "note": ""}
    assert layer == {"module": layer["module"], **expected, "parameters": 2048, "dense_parameters": 4096}
