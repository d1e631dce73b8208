"""What lrsms.factorize_ makes of layers that are not torch's plain ones: right, or refused with the reason."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import lrsms
from lrsms.lowrank import LowRankEmbedding, LowRankLinear, low_rank_layers
from lrsms.lowrank.own_forward import LowRankOwnForward

X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


def in_a_model(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.Identity()).eval()


def refusal(layer: nn.Module, weight: str = "0.weight", **options) -> str:
    """Why a layer stays dense, with nothing changed in the model."""
    net = in_a_model(layer)
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1, **options)
    assert net[0] is layer and plan.ranks == {} and not any(low_rank_layers(net))
    return next(row.why for row in plan.rows if row.weight == weight)


class Casting(nn.Linear):
    """As openai-whisper's."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class CastingConv(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class Scaled(nn.Linear):
    def forward(self, x):
        return 2.8 * super().forward(x)


class Activated(nn.Module):
    """As icefall's ActivationDropoutAndLinear: weight and bias of its own, an activation and a dropout before them."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        layer = nn.Linear(in_channels, out_channels, bias=bias)
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return F.linear(self.dropout(F.silu(x)), self.weight, self.bias)


class Adapted(nn.Linear):
    """As an adapter that starts at zero: today it computes what a linear layer does."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.low = nn.Parameter(torch.zeros(sizes[1], 2))

    def forward(self, x):
        return super().forward(x) + (x[..., :2] @ self.low.T)


class Quantizing(nn.Linear):
    """Another forward in training only."""

    def forward(self, x):
        weight = (self.weight * 8).round() / 8 if self.training else self.weight
        return F.linear(x, weight, self.bias)


class Banked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("bank", torch.ones(3))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [Casting, Activated])
def test_a_forward_of_its_own_that_is_linear_in_the_weight_is_factored(make, bias):
    torch.manual_seed(0)
    net = in_a_model(make(16, 12, bias=bias))
    dense = copy.deepcopy(net)
    plan = lrsms.factorize_(net, ranks={"0": 12}, example=X)
    assert plan.ranks == {"0": 12} and isinstance(net[0], LowRankOwnForward) and type(net[0][0]) is make
    torch.testing.assert_close(net(X), dense(X), rtol=1e-4, atol=1e-5)
    net.load_state_dict(dense.state_dict())
    torch.testing.assert_close(net(X), dense(X), rtol=1e-4, atol=1e-5)
    lrsms.merge_(net)
    assert type(net[0]) is make and net.state_dict().keys() == dense.state_dict().keys()
    torch.testing.assert_close(net(X), dense(X), rtol=1e-4, atol=1e-5)


def test_a_layer_that_casts_still_casts():
    net = in_a_model(nn.Sequential(CastingConv(16, 12, 3, padding=1), nn.Identity()))
    linear = in_a_model(Casting(16, 12))
    lrsms.factorize_(net, ratio=0.25, multiple=1)
    lrsms.factorize_(linear, ratio=0.25, multiple=1)
    half = X.to(torch.bfloat16)
    assert linear(half).dtype == net(half.transpose(1, 2)).dtype == torch.bfloat16
    lrsms.merge_(net)
    assert type(net[0][0]) is CastingConv and net(half.transpose(1, 2)).dtype == torch.bfloat16


def test_the_activation_before_a_weight_counts_once_in_training_and_in_calibration():
    torch.manual_seed(0)
    net = in_a_model(Activated(16, 12))
    dense, x = copy.deepcopy(net), torch.randn(400, 4) @ torch.randn(4, 16)
    lrsms.factorize_(net, ratio=0.5, multiple=1, calibration=[x], self_guided=10)
    plain = copy.deepcopy(dense)
    lrsms.factorize_(plain, ratio=0.5, multiple=1)
    lost, kept = ((model(x) - dense(x)).norm() for model in (plain, net))
    assert kept < lost
    net.train()
    net[0][0].dropout.p = 0.0
    torch.testing.assert_close(net(X), dense(X), rtol=1e-4, atol=1e-4)  # the guide alone, at first


REFUSED = {
    "scaled": (Scaled(16, 12), "Scaled has a forward of its own that is not linear in its weight"),
    "adapted": (Adapted(16, 12), "Adapted has low beside its weight"),
    "quantizing": (Quantizing(16, 12), "Quantizing has a forward of its own that is not linear in its weight"),
    "buffer": (Banked(16, 12), "Banked has bank beside its weight"),
    "bilinear": (nn.Bilinear(16, 16, 12), "Bilinear is not a layer known here"),
    "bag": (nn.EmbeddingBag(30, 12), "EmbeddingBag is not a layer known here"),
    "3-D": (nn.Conv3d(4, 4, 3), "nn.Conv3d cannot be factored: a Conv1d or Conv2d can"),
    "transposed": (nn.ConvTranspose1d(16, 16, 3), "nn.ConvTranspose1d cannot be factored: a Conv1d or Conv2d can"),
    "depthwise": (nn.Conv1d(16, 16, 3, groups=16), "a depthwise convolution (groups=16)"),
    "grouped": (nn.Conv2d(16, 16, 3, groups=4), "a grouped convolution (groups=4)"),
    "lazy": (nn.LazyLinear(12), "it has no shape yet; run the model once, then factor it"),
    "max_norm": (nn.Embedding(30, 12, max_norm=1.0), "an embedding with max_norm"),
    "sparse": (nn.Embedding(30, 12, sparse=True), "an embedding with sparse"),
    "integer": (nn.Embedding.from_pretrained(torch.ones(30, 12, dtype=torch.int8)), "its weight is of torch.int8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_factored_stays_with_the_reason(case):
    layer, why = REFUSED[case]
    assert refusal(copy.deepcopy(layer)) == why


def test_a_class_made_from_an_embedding_is_refused():
    class Positions(nn.Embedding):  # as in transformers' Whisper
        def forward(self, x):
            return self.weight[: x.shape[1]]

    assert refusal(Positions(30, 12)) == "Positions is made from nn.Embedding and may compute something else"


def test_a_class_made_from_a_convolution_that_computes_something_else_is_refused():
    class Causal(nn.Conv1d):
        def forward(self, x):
            return super().forward(F.pad(x, (2, 0)))

    class Sized(nn.Conv1d):
        def __init__(self, size):
            super().__init__(size, size, 3)

    assert refusal(Causal(16, 12, 3)) == "Causal is made from Conv1d and computes something else"
    assert refusal(Sized(16)) == "Sized is made from Conv1d with a constructor of its own"


@pytest.mark.parametrize("bound", [True, False])
def test_a_forward_that_was_replaced_is_refused(bound):
    layer = nn.Linear(16, 12)
    layer.forward = layer.forward if bound else lambda x: x
    assert refusal(layer) == "its forward has been replaced"


NORMS = {
    "weight_norm": (
        nn.utils.parametrizations.weight_norm,
        "0.parametrizations.weight.original1",
        "parametrized by WeightNorm",
    ),
    "spectral_norm": (
        nn.utils.parametrizations.spectral_norm,
        "0.parametrizations.weight.original",
        "parametrized by SpectralNorm",
    ),
    "old weight_norm": (
        nn.utils.weight_norm,
        "0.weight_v",
        "is not a parameter, but made before each call by WeightNorm",
    ),
    "old spectral_norm": (nn.utils.spectral_norm, "0.weight_orig", "made before each call by SpectralNorm"),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(16, 12), lambda: nn.Conv1d(16, 12, 3)])
def test_a_norm_of_the_weight_is_not_lost(norm, make):
    apply, weight, why = NORMS[norm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = apply(make())
    assert why in refusal(layer, weight)


@pytest.mark.parametrize("attach", ["parameter", "buffer", "module"])
def test_what_was_attached_to_a_plain_layer_is_not_lost(attach):
    for layer, weight in ((nn.Linear(16, 12), "0.weight"), (nn.Conv1d(16, 12, 1), "0.weight")):
        if attach == "parameter":
            layer.more = nn.Parameter(torch.ones(3))
        elif attach == "buffer":
            layer.register_buffer("more", torch.ones(3))
        else:
            layer.more = nn.ReLU()
        assert refusal(layer, weight) == "it has more beside its weight"


def test_a_pruned_layer_keeps_its_mask():
    layer = prune.random_unstructured(nn.Linear(16, 12), "weight", amount=0.5)
    assert refusal(layer, "0.weight_orig").endswith("made before each call by RandomUnstructured")


def test_hooks_on_the_state_dict_are_refused():
    layer = nn.Linear(16, 12)
    layer.register_state_dict_post_hook(lambda *_: None)
    assert refusal(layer) == "it has hooks on its state dict"


def test_weights_in_the_same_memory_are_refused():
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    net[1].weight.data = net[0].weight.data
    plan = lrsms.factorize_(net, ratio=0.25)
    assert plan.ranks == {}
    assert [row.why for row in plan.rows] == [
        f"its weight lies in the memory of another parameter, {other}.weight" for other in (1, 0)
    ]


# --- weights that other code reads


class Reader(nn.Module):
    """As openai-whisper's decoder: the output is the embedding's weight, read as it is."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner = nn.Embedding(60, 16), nn.Linear(16, 16)
        self.probed = nn.Linear(16, 16)

    def forward(self, tokens):
        x = self.probed(self.inner(self.embed(tokens)).to(self.probed.weight.dtype))
        return x @ torch.transpose(self.embed.weight.to(x.dtype), 0, 1)


TOKENS = torch.randint(0, 60, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("example", [None, TOKENS])
def test_a_weight_that_other_code_reads_stays_where_it_is(example):
    net = Reader().eval()
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1, example=example)
    assert plan.rows[0].why == "its weight is read by Reader.forward; ranks= can name it"
    assert set(plan.ranks) == {"inner", "probed"}  # to ask for a dtype is not to read
    net(TOKENS)


def test_a_weight_that_other_code_reads_is_factored_if_its_rank_is_named():
    torch.manual_seed(0)
    net = Reader().eval()
    dense = copy.deepcopy(net)
    plan = lrsms.factorize_(net, ranks={"embed": 16}, example=TOKENS)
    assert plan.ranks == {"embed": 16}
    assert plan.rows[0].why == "its weight is read by Reader.forward: the product is made at each call"
    torch.testing.assert_close(net(TOKENS), dense(TOKENS), rtol=1e-4, atol=1e-4)
    net(TOKENS).sum().backward()
    assert net.embed[0].weight.grad.abs().sum() > 0


# --- tied weights


class Tied(nn.Module):
    def __init__(self, bias: bool = True):
        super().__init__()
        self.embed, self.block, self.output = nn.Embedding(60, 16), nn.Linear(16, 16), nn.Linear(16, 60, bias=bias)
        self.output.weight = self.embed.weight

    def forward(self, tokens):
        return self.output(self.block(self.embed(tokens)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_table_and_the_output_tied_to_it_share_their_factors(bias):
    torch.manual_seed(0)
    net = Tied(bias).eval()
    dense = copy.deepcopy(net)
    plan = lrsms.factorize_(net, ranks={"output": 6}, example=TOKENS)  # by either path
    assert plan.ranks == {"embed": 6} and plan.rows[0].why == "also output.weight"
    assert net.output[1].weight is net.embed[0].weight and net.output[0].weight is net.embed[1].weight
    assert plan.parameters == sum(p.numel() for p in dense.parameters()) - 60 * 16 + 6 * (60 + 16)
    h = torch.randn(2, 16)
    torch.testing.assert_close(net.output(h), F.linear(h, net.embed.product(), net.output.bias))
    net(TOKENS).sum().backward()
    assert net.embed[0].weight.grad.abs().sum() > 0 and net.embed[1].weight.grad.abs().sum() > 0
    twin = copy.deepcopy(net)
    assert twin.output[1].weight is twin.embed[0].weight
    twin.load_state_dict(dense.state_dict())
    torch.testing.assert_close(twin(TOKENS), net(TOKENS), rtol=1e-4, atol=1e-4)
    again = Tied(bias).eval()
    lrsms.factorize_(again, ranks=plan.ranks)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(TOKENS), net(TOKENS)) and again.output[1].weight is again.embed[0].weight
    expected = net(TOKENS)
    lrsms.merge_(net)
    assert net.output.weight is net.embed.weight
    dense.load_state_dict(net.state_dict())
    torch.testing.assert_close(dense(TOKENS), expected, rtol=1e-4, atol=1e-4)


def test_factors_of_another_rank_load_into_tied_layers():
    torch.manual_seed(0)
    full, thin = Tied().eval(), Tied().eval()
    thin.load_state_dict(full.state_dict())
    lrsms.factorize_(full, ranks={"embed": 12})
    lrsms.factorize_(thin, ranks={"embed": 5})
    expected = thin(TOKENS)
    nn.init.zeros_(thin.embed[0].weight)
    thin.load_state_dict(full.state_dict())
    torch.testing.assert_close(thin(TOKENS), expected, rtol=1e-3, atol=1e-3)


def test_tied_layers_are_calibrated_for_the_output_guided_together_and_aided_once():
    torch.manual_seed(0)
    dense = Tied().eval()
    plain, fitted = copy.deepcopy(dense), copy.deepcopy(dense)
    lrsms.factorize_(plain, ranks={"embed": 6})
    lrsms.factorize_(fitted, ranks={"embed": 6}, calibration=[TOKENS], self_guided=4, frobenius_decay=0.1)
    assert len(fitted.self_guide.weights) == 1
    assert [len(layers) for layers, _ in fitted.low_rank_aids.decayed] == [1]
    h = dense.block(dense.embed(TOKENS))
    lost, kept = ((net.output(h) - dense.output(h)).norm() for net in (plain, fitted))
    assert kept < lost


def test_two_tables_or_two_layers_of_one_weight_share_their_factors():
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {"a": nn.Linear(16, 16), "b": nn.Linear(16, 16), "c": nn.Embedding(60, 16), "d": nn.Embedding(60, 16)}
    )
    net["b"].weight, net["d"].weight = net["a"].weight, net["c"].weight
    lrsms.factorize_(net, ratio=0.25, multiple=1)
    assert isinstance(net["b"], LowRankLinear) and isinstance(net["d"], LowRankEmbedding)
    for first, second in ("ab", "cd"):
        assert net[first][0].weight is net[second][0].weight and net[first][1].weight is net[second][1].weight
    assert net["a"].bias is not net["b"].bias
    lrsms.merge_(net)
    assert net["a"].weight is net["b"].weight and net["c"].weight is net["d"].weight


def test_a_weight_tied_to_what_cannot_be_factored_stays():
    net = Tied()
    net.norm = nn.utils.skip_init(nn.EmbeddingBag, 60, 16)
    net.norm.weight = net.embed.weight
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1)
    assert set(plan.ranks) == {"block"} and "EmbeddingBag" in plan.rows[0].why
    plan = lrsms.factorize_(Tied(), ratio=0.25, multiple=1, exclude="output")
    assert plan.rows[0].why.startswith("its weight is also that of output, which stays dense")
