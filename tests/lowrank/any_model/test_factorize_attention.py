"""torch's attention and Transformer through lrsms.factorize_: packed projections, masks, and the fast path."""

import copy

import pytest
import torch
from torch import nn

import lrsms
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.attention import LowRankMultiheadAttention

SIZE, HEADS, BATCH, QUERIES, KEYS = 16, 4, 3, 5, 7


class Around(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, **options)

    def forward(self, *inputs, **masks):
        return self.attention(*inputs, **masks)


def around(**options) -> Around:
    torch.manual_seed(0)
    net = Around(**options).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def full_rank(net: Around) -> LowRankMultiheadAttention:
    """The attention of a copy whose four projections are factors of full rank."""
    twin = copy.deepcopy(net)
    sizes = {"q_proj": SIZE, "k_proj": twin.attention.kdim, "v_proj": twin.attention.vdim, "out_proj": SIZE}
    plan = lrsms.factorize_(twin, ranks={f"attention.{part}": size for part, size in sizes.items()})
    assert len(plan.ranks) == 4 and isinstance(twin.attention, LowRankMultiheadAttention)
    return twin.attention


def inputs(options: dict) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((QUERIES, SIZE), (KEYS, options.get("kdim") or SIZE), (KEYS, options.get("vdim") or SIZE))
    batched = [torch.randn(BATCH, *size, generator=generator) for size in sizes]
    return tuple(x if options.get("batch_first") else x.transpose(0, 1) for x in batched)


OPTIONS = [
    {"batch_first": True},
    {},
    {"bias": False},
    {"add_bias_kv": True, "batch_first": True},
    {"add_zero_attn": True, "add_bias_kv": True},
    {"kdim": 8, "vdim": 12, "batch_first": True},
]
BOOLEAN = torch.rand(QUERIES, KEYS, generator=torch.Generator().manual_seed(2)) < 0.3
PADDING = torch.arange(KEYS) >= torch.tensor([[KEYS], [4], [6]])
MASKS = [
    {},
    {"need_weights": False},
    {"key_padding_mask": PADDING},
    {"attn_mask": BOOLEAN, "need_weights": False},
    {"attn_mask": BOOLEAN.float() * -3, "key_padding_mask": PADDING.float() * -5},
    {"attn_mask": torch.randn(BATCH * HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(3))},
    {"average_attn_weights": False},
    {"attn_mask": torch.ones(QUERIES, KEYS).triu(1).bool(), "is_causal": True, "need_weights": False},
    {"attn_mask": torch.ones(QUERIES, KEYS).triu(1).bool(), "is_causal": True, "key_padding_mask": PADDING},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("masks", MASKS, ids=lambda masks: "-".join(masks) or "plain")
def test_at_full_rank_it_is_torchs_attention(options, masks):
    net = around(**options)
    attention, x = full_rank(net), inputs(options)
    with torch.no_grad():
        expected, weights = net(*x, **masks)
        output, ours = attention(*x, **masks)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert (ours is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(ours, weights, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_inputs_without_a_batch():
    net = around()
    attention, x = full_rank(net), [x[:, 0] for x in inputs({})]
    mask = torch.tensor([False] * 5 + [True] * 2)
    for ours, theirs in zip(attention(*x, key_padding_mask=mask), net(*x, key_padding_mask=mask)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_causal_hint_without_a_mask_is_refused_as_by_torch():
    net = around(batch_first=True)
    for attention in (net.attention, full_rank(net)):
        with pytest.raises(RuntimeError, match="Need attn_mask"):
            attention(*inputs({"batch_first": True}), is_causal=True)


def test_dropout_acts_in_training_only():
    net = around(dropout=0.5, batch_first=True)
    attention, x = full_rank(net), inputs({"batch_first": True})
    assert torch.equal(attention(*x)[0], attention(*x)[0])
    attention.train()
    assert not torch.equal(attention(*x)[0], attention(*x)[0])
    assert not torch.equal(attention(*x, need_weights=False)[0], attention(*x, need_weights=False)[0])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_state_dicts_go_both_ways(options):
    net, other = around(**options), around(**options)
    nn.init.normal_(next(other.parameters()), std=0.5)
    x = inputs(options)
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1)
    assert {row.weight for row in plan.rows} == {
        name for name, parameter in other.named_parameters() if parameter.dim() >= 2 and "bias_" not in name
    } | ({"attention.bias_k", "attention.bias_v"} if options.get("add_bias_kv") else set())
    again = around(**options)
    lrsms.factorize_(again, ranks=plan.ranks)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(*x)[0], net(*x)[0])
    net.load_state_dict(other.state_dict())
    lrsms.factorize_(other, ranks=plan.ranks)
    torch.testing.assert_close(net(*x)[0], other(*x)[0], rtol=1e-4, atol=1e-5)
    expected = net(*x)[0]
    lrsms.merge_(net)
    stock = around(**options)
    assert type(net.attention) is nn.MultiheadAttention
    stock.load_state_dict(net.state_dict())
    torch.testing.assert_close(stock(*x)[0], expected, rtol=1e-4, atol=1e-5)


def test_attention_whose_projections_all_stay_dense_is_torchs_own_again():
    net = around()
    before = net.attention
    assert lrsms.factorize_(net, ratio=0.9).ranks == {} and net.attention is before


def test_a_class_made_from_torchs_attention_is_refused():
    class Own(nn.MultiheadAttention):
        pass

    net = nn.Sequential(Own(SIZE, HEADS))
    plan = lrsms.factorize_(net, ratio=0.25)
    assert {row.why for row in plan.rows} == {"Own is made from nn.MultiheadAttention and may read its weights itself"}
    assert not any(low_rank_layers(net))


def test_code_that_asks_for_the_class_keeps_it():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.asked, self.called = (nn.MultiheadAttention(SIZE, HEADS) for _ in range(2))

        def forward(self, x):
            sign = 1 if type(self.asked) is nn.MultiheadAttention else -1
            return self.called(x, x, x)[0] + sign * self.asked(x, x, x)[0]

    torch.manual_seed(0)
    net = Asking().eval()
    asked = net.asked
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1, example=torch.randn(5, 2, SIZE))
    assert net.asked is asked and set(plan.ranks) == {f"called.{part}_proj" for part in ("q", "k", "v", "out")}
    assert {row.why for row in plan.rows if row.rank is None} == {"taken apart, it changes the output"}


def test_code_that_reads_the_packed_projection_keeps_it():
    class Reader(Around):
        def forward(self, query, key, value):
            return nn.functional.linear(query, self.attention.in_proj_weight)

    plan = lrsms.factorize_(Reader(), ratio=0.25)
    assert {row.why for row in plan.rows} == {"its weights are read by Reader.forward"}


# --- torch's Transformer, which reads the weights of its layers on a fast path


X = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(0))
LONG = torch.arange(9) >= torch.tensor([[9], [6], [4]])


def encoder(**options) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("exclude", [(), r".*self_attn", r".*linear[12]"])
@pytest.mark.parametrize("mask", [None, LONG])
def test_the_fast_path_is_left_in_evaluation_and_taken_again_after_merging(exclude, mask):
    dense, net = encoder(), encoder()
    plan = lrsms.factorize_(net, ratio=0.25, example=X, exclude=exclude)
    assert plan.ranks
    with torch.no_grad():
        slow = net(X, src_key_padding_mask=mask)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    torch.testing.assert_close(slow, net(X, src_key_padding_mask=mask), rtol=1e-4, atol=1e-5)
    net.eval()
    lrsms.merge_(net)
    assert net.use_nested_tensor and net.layers[0].activation_relu_or_gelu == 1
    dense.load_state_dict(net.state_dict())
    with torch.no_grad():
        merged, stock = (model(X, src_key_padding_mask=mask) for model in (net, dense))
    torch.testing.assert_close(merged, stock, rtol=1e-4, atol=1e-5)
    kept = slice(None) if mask is None else ~mask
    torch.testing.assert_close(merged[kept], slow[kept], rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_are_proved_and_train():
    torch.manual_seed(0)
    net = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
    example = (X, X[:, :5])
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    plan = lrsms.factorize_(net, ratio=0.25, example={"src": X, "tgt": X[:, :5], "tgt_mask": mask})
    assert len({row.weight for row in plan.rows if row.rank}) == len(plan.rows) - 6  # three packed ones have three rows
    net(*example).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    torch.export.export(copy.deepcopy(net).eval(), example)


def test_a_hook_on_attention_stays():
    net, seen = around(batch_first=True), []
    net.attention.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    lrsms.factorize_(net, ratio=0.25, multiple=1)
    net(*inputs({"batch_first": True}))
    lrsms.merge_(net)
    net(*inputs({"batch_first": True}))
    assert seen == ["LowRankMultiheadAttention", "MultiheadAttention"]
