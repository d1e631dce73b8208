"""Targets and stable ranks become plain ratios and ranks; `output` of the encoder's block is CTC's layer."""

import copy

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.models.cost import NOMINAL_TOKENS_PER_SECOND, cost
from lrsms.espnet.models.rank_plan_file import save_plans
from lrsms.espnet.models.rank_targets import stable_rank
from lrsms.espnet.models.role_table import LOW_RANK_ENCODERS
from lrsms.espnet.training.preflight import rank_plans
from lrsms.lowrank import LowRankConfig, LowRankLinear, RankPlan, low_rank_layers

CONFORMER = {
    "encoder_conf": {
        **{"output_size": 32, "attention_heads": 2, "linear_units": 128, "num_blocks": 3, "rel_pos_type": "latest"},
        **{"macaron_style": True, "cnn_module_kernel": 7},
    },
    "decoder_conf": {"attention_heads": 2, "linear_units": 128, "num_blocks": 2},
}
RNN = {
    "encoder": "lowrank_rnn",
    "encoder_conf": {"output_size": 32, "hidden_size": 48, "num_layers": 3, "subsample": (2, 2, 1)},
    "decoder": "lowrank_rnn",
    "decoder_conf": {"hidden_size": 48, "num_layers": 2, "att_conf": {"adim": 24, "aconv_chans": 3, "aconv_filts": 5}},
}
ROLES = {"attention": 0.1, "feed_forward": 0.2, "multiple": 1}
RECURRENT = {"recurrent": 0.2, "multiple": 1}


@pytest.fixture
def args_with(tiny_args):
    """``args_with(encoder, decoder, model)``: ESPnet's arguments with these two ``low_rank`` blocks."""

    def make(encoder=None, decoder=None, model=None, **changes):
        changes = copy.deepcopy((model or CONFORMER) | changes)
        for part, block in (("encoder", encoder), ("decoder", decoder)):
            if block is not None:
                changes[f"{part}_conf"]["low_rank"] = copy.deepcopy(block)
        return tiny_args(**changes)

    return make


def build(args) -> nn.Module:
    torch.manual_seed(1)
    return ASRTask.build_model(args)


def reduction(model: nn.Module, what: str) -> float:
    """How many times fewer parameters or multiply-accumulates than dense, measured on the model itself."""
    found = cost(model, 16000, NOMINAL_TOKENS_PER_SECOND)
    if what == "parameters":
        return found.dense_parameters / found.parameters
    return found.dense_macs_per_second / found.macs_per_second


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


TARGETS = [
    pytest.param(CONFORMER, ROLES, {"parameters": "2.0x"}, id="conformer-parameters"),
    pytest.param(CONFORMER, ROLES | {"layer_map": "linear", "subsampling": 0.2}, {"macs": "1.5x"}, id="conformer-macs"),
    pytest.param(CONFORMER, ROLES | {"of": "parameters", "output": 0.3}, {"parameters": 1.3}, id="conformer-little"),
    pytest.param(RNN, RECURRENT, {"parameters": 2}, id="rnn-parameters"),
    pytest.param(RNN, RECURRENT | {"recurrent_input": 0.2}, {"parameters": 3}, id="rnn-input"),
    pytest.param(RNN, RECURRENT, {"macs": "1.7x"}, id="rnn-macs"),
]


@pytest.mark.parametrize(("base", "roles", "target"), TARGETS)
def test_a_target_is_reached_and_by_no_more_than_one_rank(args_with, base, roles, target):
    ((what, times),) = target.items()
    times = float(str(times).removesuffix("x"))
    decoder = {role: ratio for role, ratio in roles.items() if role not in ("subsampling", "output", "recurrent_input")}
    args = args_with(roles | {"target": target}, decoder, base)
    model = build(args)
    assert reduction(model, what) >= times
    larger = copy.deepcopy(args)
    for part in ("encoder", "decoder"):
        block = getattr(larger, f"{part}_conf")["low_rank"]
        ratios = LowRankConfig.parse(block).ratios
        block.update({role: min(1.0, ratio * (1 + 1e-6)) for role, ratio in ratios.items()})
    # A low-rank cell has one bias where the dense one has two, which a plan does not count.
    assert reduction(build(larger), what) < times * (1.005 if base is RNN else 1)


@pytest.mark.parametrize(("base", "roles", "target"), TARGETS)
def test_the_saved_config_holds_plain_ratios_in_their_proportions(args_with, base, roles, target):
    decoder = {role: 2 * ratio for role, ratio in roles.items() if role in ("attention", "feed_forward", "recurrent")}
    args = args_with(roles | {"target": target}, decoder | {"multiple": 1}, base)
    build(args)
    scales, written = [], [args.encoder_conf["low_rank"], args.decoder_conf["low_rank"]]
    for block, asked in zip(written, (roles, decoder | {"multiple": 1})):
        assert set(block) == set(asked)  # no target any more
        ratios = LowRankConfig.parse(asked).ratios
        assert {k: v for k, v in block.items() if k not in ratios} == {
            k: v for k, v in asked.items() if k not in ratios
        }
        scales += [block[role] / ratio for role, ratio in ratios.items() if block[role] < 1]  # at 1 it is dense
    assert scales == pytest.approx([scales[0]] * len(scales)) and scales[0] != pytest.approx(1)
    assert yaml.safe_load(yaml.safe_dump(written)) == written


@pytest.mark.parametrize("target", [{"parameters": 2}, {"macs": 1.25}])
def test_the_same_seed_gives_the_same_weights_with_a_target_and_from_the_saved_config(args_with, target):
    args = args_with(ROLES | {"target": target}, ROLES)
    first, second = build(args), build(args_with(ROLES | {"target": target}, ROLES))
    assert same_weights(first, second)
    saved = copy.deepcopy(args)
    assert same_weights(first, build(args)) and vars(args) == vars(saved)  # resolved once, never again


@pytest.mark.parametrize("target", [{}, {"target": {"parameters": 2}}])
def test_a_block_is_parsed_once_and_stays_plain_in_the_options_that_are_saved(args_with, monkeypatch, target):
    parsed, parse = [], LowRankConfig.parse.__func__

    def count(cls, block, **where):
        parsed.extend(where.values() if block is not None else [])
        return parse(cls, block, **where)

    monkeypatch.setattr(LowRankConfig, "parse", classmethod(count))
    args = args_with(ROLES | target, ROLES)
    model = build(args)
    assert parsed == ["encoder_conf.low_rank", "decoder_conf.low_rank"]
    assert type(args.encoder_conf["low_rank"]) is type(args.decoder_conf["low_rank"]) is dict
    assert model.encoder.low_rank_config == parse(LowRankConfig, args.encoder_conf["low_rank"])
    assert model.decoder.low_rank_config == parse(LowRankConfig, args.decoder_conf["low_rank"])


def test_a_target_of_the_decoders_block_is_the_whole_models_too(args_with):
    args = args_with(ROLES, ROLES | {"target": {"parameters": 2}})
    assert reduction(build(args), "parameters") >= 2
    other = args_with(ROLES | {"target": {"parameters": 2}}, ROLES | {"target": {"parameters": "2.0x"}})
    build(other)
    assert other.encoder_conf == args.encoder_conf and other.decoder_conf == args.decoder_conf
    assert args.encoder_conf["low_rank"]["attention"] == args.decoder_conf["low_rank"]["attention"] != 0.1


@pytest.mark.parametrize(("what", "roles"), [("parameters", {"attention": 0.1}), ("macs", {"feed_forward": 0.5})])
def test_a_target_out_of_reach_says_what_is_within(args_with, what, roles):
    with pytest.raises(LrsmsError) as error:
        build(args_with(roles | {"multiple": 2, "target": {what: 50}}))
    message = str(error.value)
    assert message.startswith(f"low_rank.target.{what}: 50.0x is out of reach with these roles; the smallest")
    smallest = build(args_with(dict.fromkeys(roles, 1e-6) | {"multiple": 2}))
    assert f"{reduction(smallest, what):.2f}x" in message


def test_targets_that_contradict_each_other_or_have_nothing_to_scale_are_refused(args_with):
    with pytest.raises(LrsmsError, match="encoder_conf.low_rank.target and decoder_conf.low_rank.target differ"):
        build(args_with(ROLES | {"target": {"parameters": 2}}, ROLES | {"target": {"parameters": 3}}))
    with pytest.raises(LrsmsError, match="encoder_conf.low_rank.target and decoder_conf.low_rank.target differ"):
        build(args_with(ROLES | {"target": {"parameters": 2}}, ROLES | {"target": {"macs": 2}}))
    with pytest.raises(LrsmsError, match=r"encoder_conf\.low_rank\.convolution: .* has no such layer"):
        model = copy.deepcopy(CONFORMER)
        model["encoder_conf"]["use_cnn_module"] = False
        build(args_with({"convolution": 0.1, "target": {"parameters": 2}}, model=model))


@pytest.mark.parametrize("base", [CONFORMER, RNN])
def test_a_target_alone_chooses_proportions_map_and_aid_for_both_parts(args_with, base):
    args = args_with({"target": "1.5x"}, None, base)
    model = build(args)
    assert 1.5 <= reduction(model, "parameters") < 1.7
    blocks = {part: getattr(args, f"{part}_conf")["low_rank"] for part in ("encoder", "decoder")}
    for part, block in blocks.items():
        assert block["layer_map"] == "linear" and block["semi_orthogonal"] == block["muon"] == 1.0
        assert block["multiple"] == 2
        assert "target" not in block and any(entry.rank for entry in getattr(model, part).rank_plan.entries)
    if base is CONFORMER:
        assert blocks["encoder"]["attention"] == pytest.approx(2 * blocks["encoder"]["feed_forward"])
        assert blocks["encoder"]["attention"] == blocks["decoder"]["attention"] and "output" not in blocks["encoder"]
    again = build(args)  # from what is saved
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_what_is_written_beside_a_target_is_kept(args_with):
    args = args_with({"target": "1.3x", "semi_orthogonal": 0, "multiple": 4, "init": "xavier"}, None)
    args.decoder_conf["low_rank"] = None  # stays dense
    model = build(args)
    block = args.encoder_conf["low_rank"]
    assert (block["semi_orthogonal"], block["multiple"], block["init"], block["layer_map"]) == (
        0,
        4,
        "xavier",
        "linear",
    )
    assert not dict(low_rank_layers(model.decoder)) and dict(low_rank_layers(model.encoder))
    with pytest.raises(LrsmsError, match="encoder: conformer is ESPnet's dense class"):
        build(args_with({"target": "2x"}, model=CONFORMER | {"encoder": "conformer"}))


def test_a_class_by_itself_cannot_know_the_whole_model():
    for block in ({"target": {"macs": 2}}, {"layer_map": "stable_rank", "stable_rank_from": "dense.pth"}):
        with pytest.raises(LrsmsError, match=r"^encoder_conf\.low_rank: target and stable_rank_from look at the whole"):
            LOW_RANK_ENCODERS["lowrank_conformer"](20, **CONFORMER["encoder_conf"], low_rank=ROLES | block)


def test_a_dense_class_is_named_with_those_that_would_do(args_with):
    with pytest.raises(LrsmsError, match="^encoder_conf.low_rank: encoder: conformer is ESPnet's.*lowrank_conformer"):
        build(args_with(ROLES | {"target": {"parameters": 2}}, model=CONFORMER | {"encoder": "conformer"}))


def test_a_model_without_a_decoder_takes_both_blocks(args_with, tmp_path):
    model = CONFORMER | {"model_conf": {"ctc_weight": 1.0}}
    args = args_with(ROLES | {"target": {"parameters": 2}}, ROLES, model)
    built = build(args)
    assert built.decoder is None and reduction(built, "parameters") >= 2
    torch.save(build(args_with(model=model)).state_dict(), tmp_path / "dense.pth")
    stable = ROLES | {"layer_map": "stable_rank", "stable_rank_from": str(tmp_path / "dense.pth")}
    args = args_with(stable, stable, model)
    assert build(args).encoder.rank_plan.entries
    assert "stable_rank_from" not in args.decoder_conf["low_rank"] and "ranks" in args.encoder_conf["low_rank"]


def test_stable_ranks_by_hand():
    assert stable_rank(torch.eye(5)) == pytest.approx(5)
    assert stable_rank(torch.ones(4, 9)) == pytest.approx(1)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 0.0]))) == pytest.approx(1.25)
    assert stable_rank(7 * torch.diag(torch.tensor([2.0, 1.0, 0.0])).bfloat16()) == pytest.approx(1.25, rel=0.01)


@pytest.fixture
def dense_checkpoint(args_with, tmp_path):
    """``dense_checkpoint(model)``: weights of a dense model, the first of each family near rank one."""

    def save(base=None):
        model = build(args_with(model=base))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("encoders.0.self_attn.linear_q.weight", "encoders.1.feed_forward.w_1.weight")) or (
                    name in ("encoder.enc.0.birnn1.weight_hh_l0", "decoder.decoder.1.weight_ih", "decoder.embed.weight")
                    or name.startswith("encoder.enc.0.birnn2.weight_ih_l0")
                ):
                    weight.copy_(0.02 * weight + torch.ones_like(weight))
        torch.save(model.state_dict(), tmp_path / "dense.pth")
        return str(tmp_path / "dense.pth")

    return save


def by_role_and_shape(plan: RankPlan) -> dict:
    totals = {}
    for entry in plan.entries:
        key = entry.role, entry.inputs, entry.outputs
        totals[key] = totals.get(key, 0) + (entry.rank or 0)
    return totals


def test_ranks_follow_the_stable_ranks_at_the_budget_of_uniform(args_with, dense_checkpoint):
    source = dense_checkpoint()
    roles = {"attention": 0.25, "feed_forward": 0.25, "multiple": 1}
    stable = roles | {"layer_map": "stable_rank", "stable_rank_from": source}
    args = args_with(stable, stable)
    model, uniform = build(args), build(args_with(roles, roles))
    weights = torch.load(source)
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(model, part).rank_plan, getattr(uniform, part).rank_plan
        assert by_role_and_shape(ours) == by_role_and_shape(theirs)
        assert ours.parameters == theirs.parameters
        for key in by_role_and_shape(ours):
            family = [entry for entry in ours.entries if (entry.role, entry.inputs, entry.outputs) == key]
            shares = [stable_rank(weights[f"{part}.{entry.module}.weight"]) for entry in family if entry.rank]
            ordered = sorted(zip(shares, (entry.rank for entry in family)))
            assert [rank for _, rank in ordered] == sorted(rank for _, rank in ordered), key
    ranks = {path: layer.rank for path, layer in low_rank_layers(model.encoder)}
    assert ranks["encoders.0.self_attn.linear_q"] < 4 < ranks["encoders.1.self_attn.linear_q"]
    assert ranks["encoders.1.feed_forward.w_1"] < 4 < ranks["encoders.0.feed_forward.w_1"]


def test_the_saved_config_of_stable_ranks_needs_no_checkpoint(args_with, dense_checkpoint, tmp_path):
    source = dense_checkpoint()
    stable = {"attention": 0.25, "multiple": 1, "layer_map": "stable_rank", "stable_rank_from": source}
    args = args_with(stable | {"ranks": {"encoders.2.self_attn.linear_out": 5}, "output": 0.25})
    model = build(args)
    block = args.encoder_conf["low_rank"]
    assert set(block) == {"attention", "output", "multiple", "layer_map", "ranks"} and block["layer_map"] == "uniform"
    assert block["ranks"]["encoders.2.self_attn.linear_out"] == 5  # the user's own wins
    assert block["ranks"]["encoders.0.feed_forward.w_1"] == 0
    (tmp_path / "dense.pth").unlink()
    assert same_weights(model, build(args))
    assert model.ctc.ctc_lo.rank == 8  # 0.25 of 30 tokens


def test_stable_ranks_and_a_target_together(args_with, dense_checkpoint):
    stable = {"layer_map": "stable_rank", "stable_rank_from": dense_checkpoint()}
    model = build(args_with(ROLES | stable | {"target": {"parameters": 2}}, ROLES))
    ranks = {path: layer.rank for path, layer in low_rank_layers(model.encoder)}
    assert 2 <= reduction(model, "parameters") < 2.1
    assert ranks["encoders.0.self_attn.linear_q"] < ranks["encoders.1.self_attn.linear_q"]


def test_stable_ranks_of_recurrent_layers_and_embeddings(args_with, dense_checkpoint):
    source = dense_checkpoint(RNN)
    stable = {"layer_map": "stable_rank", "stable_rank_from": source, "multiple": 1}
    decoder = {"recurrent": 0.2, "embedding": 0.25, "attention": 0.25} | stable
    model = build(args_with({"recurrent": 0.2, "recurrent_input": 0.2} | stable, decoder, RNN))
    ranks = {entry.module: entry.rank for entry in model.encoder.rank_plan.entries}
    assert ranks["enc.0.birnn1"] < min(ranks["enc.0.birnn0"], ranks["enc.0.birnn2"])
    assert sum(ranks[f"enc.0.birnn{layer}"] for layer in range(3)) == 3 * round(0.2 * 48)
    # Layers 1 and 2 take in what a projection of 32 hands out; layer 0 reads the features, and is alone.
    assert ranks["enc.0.birnn1.input"] > ranks["enc.0.birnn2.input"]
    assert ranks["enc.0.birnn1.input"] + ranks["enc.0.birnn2.input"] == 2 * round(0.2 * 32)
    assert {entry.role for entry in model.decoder.rank_plan.entries if entry.rank} == {*decoder} - {*stable}


def test_a_checkpoint_of_another_model_is_refused_by_name(args_with, dense_checkpoint, tmp_path):
    source = dense_checkpoint()
    block = {"attention": 0.25, "multiple": 1, "layer_map": "stable_rank", "stable_rank_from": source}
    wider = copy.deepcopy(CONFORMER)
    wider["encoder_conf"]["output_size"] = 64
    with pytest.raises(LrsmsError) as error:
        build(args_with(block, model=wider))
    assert str(error.value).startswith(f"encoder_conf.low_rank.stable_rank_from: {source} has no dense weight of 64 x ")
    assert "at encoder." in str(error.value)
    with pytest.raises(LrsmsError, match=r"decoder_conf\.low_rank\.stable_rank_from: .*dense weight.* at decoder\."):
        build(args_with(decoder=block, model=CONFORMER | {key: RNN[key] for key in ("decoder", "decoder_conf")}))
    torch.save(build(args_with(ROLES)).state_dict(), tmp_path / "low.pth")
    with pytest.raises(LrsmsError, match=r"low\.pth has no dense weight of 32 x 32 at encoder\..*dense model"):
        build(args_with(block | {"stable_rank_from": str(tmp_path / "low.pth")}))
    with pytest.raises(LrsmsError, match=r"absent\.pth: no such checkpoint"):
        build(args_with(block | {"stable_rank_from": str(tmp_path / "absent.pth")}))


OUTPUT = {"attention": 0.25, "output": 0.25, "multiple": 1}


def test_output_of_the_encoders_block_is_ctcs_layer(args_with, tmp_path):
    model = build(args_with(OUTPUT))
    layer = model.ctc.ctc_lo
    assert isinstance(layer, LowRankLinear) and (layer.rank, layer.out_features) == (8, 30)
    assert {path for path, _ in low_rank_layers(model) if "self_attn" not in path} == {"ctc.ctc_lo"}
    plans = rank_plans(model)
    assert list(plans) == ["encoder", "decoder", "ctc"]
    assert [(entry.module, entry.role, entry.rank) for entry in plans["ctc"].entries] == [("ctc_lo", "output", 8)]
    save_plans(tmp_path / "rank_plan.yaml", plans, {})
    saved = yaml.safe_load((tmp_path / "rank_plan.yaml").read_text())
    assert saved["parts"]["ctc"] == {"of": "full_rank", "layer_map": "uniform", "init": "svd"}
    assert [layer["rank"] for layer in saved["layers"] if layer["module"] == "ctc.ctc_lo"] == [8]


def test_ctcs_factors_are_the_svd_of_its_dense_weight(args_with):
    layer, dense = build(args_with({"output": 0.25, "multiple": 1})).ctc.ctc_lo, build(args_with()).ctc.ctc_lo
    left, values, right = torch.linalg.svd(dense.weight.detach(), full_matrices=False)
    torch.testing.assert_close(layer.product(), left[:, :8] * values[:8] @ right[:8], rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.bias, dense.bias)


def test_the_layer_before_ctc_counts_in_the_cost(args_with):
    blocks = OUTPUT, {"attention": 0.25, "multiple": 1}
    with_it, without = (cost(build(args_with(block)), 16000, 4.0) for block in blocks)
    assert without.parameters - with_it.parameters == 30 * 32 - 8 * (30 + 32)
    assert with_it.dense_parameters == without.dense_parameters
    assert with_it.dense_macs_per_second == pytest.approx(without.dense_macs_per_second)
    assert with_it.macs_per_second < without.macs_per_second


def test_only_the_encoders_block_reaches_ctc(args_with):
    model = build(args_with({"attention": 0.25, "multiple": 1}, {"output": 0.25, "multiple": 1}))
    assert type(model.ctc.ctc_lo) is nn.Linear and list(rank_plans(model)) == ["encoder", "decoder"]
    assert {path for path, _ in low_rank_layers(model.decoder)} == {"output_layer"}
    model = build(args_with({"output": 0.25, "multiple": 1}))
    assert [path for path, _ in low_rank_layers(model)] == ["ctc.ctc_lo"]


def test_gradients_reach_ctcs_factors(args_with):
    model = build(args_with(OUTPUT)).train()
    speech, lengths = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 12000])
    loss, *_ = model(speech, lengths, torch.tensor([[5, 6, 7], [8, 9, -1]]), torch.tensor([3, 2]))
    loss.backward()
    assert all(model.ctc.ctc_lo[index].weight.grad.abs().sum() > 0 for index in (0, 1))


@pytest.mark.parametrize("target", [{}, {"target": {"parameters": 1.5}}])
def test_a_model_without_ctc_refuses_output(args_with, target):
    args = args_with(ROLES | {"output": 0.25} | target, model_conf={"ctc_weight": 0.0})
    with pytest.raises(LrsmsError, match=r"^encoder_conf\.low_rank\.output: the model has no CTC .*ctc_weight: 0\.0"):
        build(args)
    assert build(args_with(ROLES | target, model_conf={"ctc_weight": 0.0})).ctc is None
