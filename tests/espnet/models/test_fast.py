"""Fast paths against ESPnet's own code: the same numbers, the same weights, and out of the way where they must be."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrsms.errors import LrsmsError
from lrsms.espnet.models.av_conformer import AVConformerEncoder
from lrsms.espnet.models.fast import plain_paths
from lrsms.espnet.models.fast.attention import FastAttention, FastRelPositionAttention
from lrsms.espnet.models.fast.convolution import FastConv2d
from lrsms.espnet.models.fast.dropout import FastDropout
from lrsms.espnet.models.fast.rounding import rounded_weights
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.lowrank.merge import merge_

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}  # float32; sums are taken in another order
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64
TINY = {"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 2, "rel_pos_type": "latest"}
TINY |= {"macaron_style": True, "cnn_module_kernel": 7, "dropout_rate": 0.0, "positional_dropout_rate": 0.0}
ALL_ROLES = {"attention": 0.25, "attention_pos": 0.25, "feed_forward": 0.25, "convolution": 0.25, "subsampling": 0.25}
LOW_RANK = pytest.mark.parametrize("low_rank", [None, ALL_ROLES | {"multiple": 4}], ids=["dense", "low_rank"])


def encoder(name="lowrank_conformer", low_rank=None, **changes):
    torch.manual_seed(0)
    options = TINY | changes
    model = LOW_RANK_ENCODERS[name](20, **options, low_rank=low_rank)
    for module in model.modules():  # ESPnet's ReLU and batch norm start where much is zero
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def a_batch(lengths):
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.randn(len(lengths), max(lengths), 20, generator=generator), torch.tensor(lengths)


def gradients(model, x, lengths):
    model.zero_grad()
    x = x.to(next(model.parameters()).dtype, copy=True).requires_grad_()
    output = model(x, lengths)[0]
    output.mul(torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return {"output": output.detach(), "input": x.grad} | {name: one.grad for name, one in model.named_parameters()}


def assert_alike(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def assert_fast_is_plain(model, make_batch, lengths):
    """Gradients in float64 while training, outputs in float32 after it."""
    fast = gradients(model, *make_batch(lengths))
    with plain_paths():
        assert_alike(fast, gradients(model, *make_batch(lengths)))
    model.eval().float()
    with torch.no_grad():
        found = model(*make_batch(lengths))[0]
        with plain_paths():
            torch.testing.assert_close(found, model(*make_batch(lengths))[0], **TOLERANCE)


@LOW_RANK
@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"])
@pytest.mark.parametrize("lengths", [[83], [64, 64, 64], [97, 41, 66]])
def test_a_conformer_and_its_gradients_are_espnets(low_rank, input_layer, lengths):
    model = encoder(low_rank=low_rank, input_layer=input_layer).train().double()
    assert_fast_is_plain(model, a_batch, lengths)


@pytest.mark.parametrize("name", ["lowrank_branchformer", "lowrank_e_branchformer"])
def test_branchformers_are_espnets(name):
    torch.manual_seed(0)
    options = {"output_size": 32, "attention_heads": 2, "num_blocks": 2, "dropout_rate": 0.0}
    model = LOW_RANK_ENCODERS[name](20, **options, positional_dropout_rate=0.0, low_rank={"attention": 0.25}).double()
    fast = gradients(model, *a_batch([90, 50]))
    assert any(isinstance(one, FastRelPositionAttention) for one in model.modules())
    with plain_paths():
        assert_alike(fast, gradients(model, *a_batch([90, 50])))


def test_random_lengths_are_masked_as_espnet_does():
    model = encoder(low_rank=ALL_ROLES).double()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        count = int(torch.randint(1, 6, (1,), generator=generator))
        batch = a_batch(torch.randint(15, 150, (count,), generator=generator).tolist())
        fast = gradients(model, *batch)
        with plain_paths():
            assert_alike(fast, gradients(model, *batch))


def test_bfloat16_autocast_is_as_near_to_float32_as_espnets():
    model = encoder(low_rank=ALL_ROLES).train()

    def distances():
        with torch.autocast("cpu", torch.bfloat16):
            rough = gradients(model, *a_batch([97, 41]))
        assert all(rough[name].dtype == torch.float32 for name in rough if name != "output")
        return torch.stack([(rough[name].float() - value).norm() / (value.norm() + 1) for name, value in exact.items()])

    exact = gradients(model, *a_batch([97, 41]))
    fast = distances()
    with plain_paths():
        assert fast.mean() < 1.5 * distances().mean()


class Casts(TorchDispatchMode):
    """Counts what autocast rounds by itself."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@LOW_RANK
def test_weights_are_rounded_at_once_with_the_gradients_of_autocasts_own(low_rank, monkeypatch):
    model, (x, lengths) = encoder(low_rank=low_rank), a_batch([64, 41])
    layers = [
        layer for block in model.encoders for layer in block.modules() if isinstance(layer, nn.Linear | nn.Conv1d)
    ]
    weights = sum(len(layer._parameters) for layer in layers)

    def found():
        with Casts() as casts, torch.autocast("cpu", torch.bfloat16):
            return gradients(model, x, lengths), casts.count

    at_once, few = found()
    assert all(isinstance(layer.weight, nn.Parameter) for layer in layers)
    monkeypatch.setattr("lrsms.espnet.models.fast.encoder_layer.rounded_weights", lambda block: nullcontext())
    each, many = found()
    assert many - few > weights  # one for each of them, and another for most of their gradients
    assert set(at_once) == set(each)
    for name, value in each.items():
        assert torch.equal(at_once[name], value), name


def test_no_gradient_is_computed_for_weights_that_are_frozen():
    block = encoder().encoders[0]
    block.feed_forward.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), rounded_weights(block):
        assert isinstance(block.feed_forward.w_1.weight, nn.Parameter)
        assert block.self_attn.linear_q.weight.dtype == torch.bfloat16 and block.self_attn.linear_q.weight.requires_grad


def test_weights_are_themselves_again_after_an_error():
    block = encoder().encoders[0]
    with pytest.raises(RuntimeError), torch.autocast("cpu", torch.bfloat16):
        block((torch.zeros(1, 9, 7), torch.zeros(1, 17, 32)), None)  # 7 features in place of 32
    assert all(isinstance(layer.weight, nn.Parameter) for layer in block.modules() if isinstance(layer, nn.Linear))


def test_weights_keep_their_names_and_dense_ones_load():
    torch.manual_seed(0)
    dense = ConformerEncoder(20, **TINY)
    ours = encoder()
    assert list(ours.state_dict()) == list(dense.state_dict())
    ours.load_state_dict(dense.state_dict())
    with torch.no_grad():
        expected, found = dense.eval()(*a_batch([80, 60]))[0], ours.eval()(*a_batch([80, 60]))[0]
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_fast_false_leaves_espnets_modules():
    fast = encoder()
    plain = encoder(fast=False)
    modules = [type(module).__module__ for module in plain.modules()]
    ours = [name for name in modules if name.startswith("lrsms.espnet.models.fast")]
    assert not ours and isinstance(fast.encoders[0].self_attn, FastRelPositionAttention)
    with pytest.raises(LrsmsError, match="encoder_conf.fast: 'very' is unknown; choose one of true, false, compile"):
        encoder(fast="very")


def test_merged_and_quantized_models_compute_the_same():
    model = encoder(low_rank=ALL_ROLES).eval()
    x, lengths = a_batch([97, 41])
    with torch.no_grad():
        before = model(x, lengths)[0]
        int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        assert (int8(x, lengths)[0] - before).norm() / before.norm() < 0.1
        merge_(model)
        torch.testing.assert_close(model(x, lengths)[0], before, rtol=1e-3, atol=1e-4)


def test_a_trained_model_can_be_copied_and_pickled():
    model = encoder().train()
    gradients(model, *a_batch([64, 50]))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == list(model.state_dict())


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x, torch.tensor([x.shape[1]]))[0]


def test_an_exported_model_is_espnets_graph():
    model, (x, _) = Wrapped(encoder(low_rank=ALL_ROLES, num_blocks=1).eval()), a_batch([97])
    exported = torch.export.export(model, (x,), strict=False)
    names = {str(node.target) for node in exported.graph.nodes}
    assert not any("as_strided" in name or "scaled_dot_product" in name for name in names)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model(x), **TOLERANCE)


def test_hooks_see_every_layer():
    model, seen = encoder(low_rank=ALL_ROLES), []
    for block in model.encoders:
        for layer in (block.conv_module.pointwise_conv1, block.self_attn.linear_q, block.feed_forward.w_1):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(layer))
    model.embed.conv[2].register_forward_hook(lambda layer, inputs, output: seen.append(layer))
    model(*a_batch([64]))
    assert len(seen) == 7


class Doubled(nn.Conv1d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_of_another_class_is_asked_and_not_its_weights_alone():
    model = encoder().eval()
    for block in model.encoders:
        block.conv_module.depthwise_conv.__class__ = Doubled
    with torch.no_grad():
        found = model(*a_batch([97, 41]))[0]
        with plain_paths():
            torch.testing.assert_close(found, model(*a_batch([97, 41]))[0], **TOLERANCE)


def test_attention_weights_are_there_for_those_who_plot_them():
    model, seen = encoder().eval(), []
    attention = model.encoders[0].self_attn
    attention.register_forward_hook(lambda layer, inputs, output: seen.append(layer.attn))
    with torch.no_grad():
        model(*a_batch([97, 41]))
        fast = seen.pop()
        with plain_paths():
            model(*a_batch([97, 41]))
    torch.testing.assert_close(fast, seen.pop(), **TOLERANCE)


def test_dropout_keeps_its_share_and_its_mean():
    x = torch.full((400, 500), 3.0, requires_grad=True)
    torch.manual_seed(0)
    dropped = FastDropout(0.1).train()(x)
    dropped.sum().backward()
    kept = dropped != 0
    assert abs(float(kept.float().mean()) - 0.9) < 0.003 and abs(float(dropped.mean()) - 3.0) < 0.01
    assert torch.equal(x.grad != 0, kept) and torch.allclose(dropped[kept], torch.tensor(3.0 / 0.9), rtol=1e-4)
    rows = kept.float()
    assert abs(float(torch.corrcoef(torch.stack((rows[:-1].flatten(), rows[1:].flatten())))[0, 1])) < 0.01
    assert torch.equal(FastDropout(0.5).eval()(x), x)
    torch.manual_seed(0)
    assert torch.equal(FastDropout(0.1).train()(x), dropped)


def decoder(low_rank=None, **options):
    torch.manual_seed(0)
    cls = LOW_RANK_DECODERS["lowrank_transformer"]
    shape = {"attention_heads": 2, "linear_units": 64, "num_blocks": 2, "dropout_rate": 0.0}
    return cls(30, 32, **shape, positional_dropout_rate=0.0, low_rank=low_rank, **options)


def test_weights_of_a_decoder_are_rounded_at_once_too(monkeypatch):
    model = decoder({"attention": 0.25, "feed_forward": 0.25, "multiple": 4})
    memory = torch.randn(3, 25, 32, generator=torch.Generator().manual_seed(1))
    tokens, sizes = torch.randint(1, 29, (3, 9)), torch.tensor([9, 4, 7])

    def found():
        model.zero_grad()
        with Casts() as casts, torch.autocast("cpu", torch.bfloat16):
            model(memory, torch.tensor([25, 13, 20]), tokens, sizes)[0].square().sum().backward()
        return {name: one.grad for name, one in model.named_parameters()}, casts.count

    at_once, few = found()
    monkeypatch.setattr("lrsms.espnet.models.fast.encoder_layer.rounded_weights", lambda block: nullcontext())
    each, many = found()
    assert many - few > sum(isinstance(layer, nn.Linear) for layer in model.decoders.modules())
    assert all(torch.equal(at_once[name], value) for name, value in each.items())


@LOW_RANK
def test_a_decoder_and_its_gradients_are_espnets(low_rank):
    low_rank = low_rank and {"attention": 0.25, "feed_forward": 0.25, "multiple": 4}
    model = decoder(low_rank).double()
    tokens, sizes = torch.randint(1, 29, (3, 9)), torch.tensor([9, 4, 7])

    def run(memory, frames):
        return model(memory, frames, tokens, sizes)

    def both():
        memory = torch.randn(3, 25, 32, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        model.zero_grad()
        output = run(memory, torch.tensor([25, 13, 20]))[0]
        inside = torch.arange(9) < sizes[:, None]
        output[inside].square().sum().backward()
        grads = {name: one.grad for name, one in model.named_parameters()}
        return {"output": output[inside].detach(), "memory": memory.grad} | grads

    fast = both()
    with plain_paths():
        assert_alike(fast, both())


def a_search(model, memory, steps=5):
    """Scores of some hypotheses over some tokens, as ESPnet's batched beam search asks for them."""
    states, tokens, scores = [None] * 3, torch.full((3, 1), 29), []
    with torch.no_grad():
        for step in range(steps):
            found, states = model.batch_score(tokens, states, memory.expand(3, *memory.shape))
            scores.append(found)
            states = [states[2], states[0], states[1]]  # a beam changes its order
            tokens = torch.cat((tokens[[2, 0, 1]], torch.tensor([[1], [2], [3]]) + step), dim=1)
    return torch.stack(scores)


def test_a_search_asks_for_keys_and_values_of_the_memory_once():
    model, calls = decoder({"attention": 0.25}).eval(), []
    layer = model.decoders[0].src_attn.linear_k
    memory = torch.randn(25, 32)
    with plain_paths():
        expected = a_search(model, memory)
    project = layer.forward
    layer.forward = lambda x: calls.append(x.shape) or project(x)
    torch.testing.assert_close(a_search(model, memory), expected, **TOLERANCE)
    assert calls == [(1, 25, 32)]


def test_another_utterance_and_other_weights_are_noticed():
    model = decoder().eval()
    for seed in range(3):  # an utterance's memory is freed before the next one's, and may leave its address to it
        memory = torch.randn(25, 32, generator=torch.Generator().manual_seed(seed))
        found = a_search(model, memory, 2)
        with plain_paths():
            torch.testing.assert_close(found, a_search(model, memory, 2), **TOLERANCE)
        del memory
    memory = torch.randn(25, 32)
    a_search(model, memory, 1)
    with torch.no_grad():
        model.decoders[0].src_attn.linear_v.weight.mul_(2)
        memory[3] += 1
    found = a_search(model, memory, 1)
    with plain_paths():
        torch.testing.assert_close(found, a_search(model, memory, 1), **TOLERANCE)


def test_the_decoder_of_espnet_is_the_same_class_without_ranks():
    ours, shape = decoder(), {"attention_heads": 2, "linear_units": 64, "num_blocks": 2}
    dense = TransformerDecoder(30, 32, **shape)
    assert list(ours.state_dict()) == list(dense.state_dict())
    assert isinstance(ours.decoders[0].src_attn, FastAttention) and ours.decoders[0].src_attn.of_memory
    assert not ours.decoders[0].self_attn.of_memory


def test_compiled_blocks_compute_the_same_at_any_length(monkeypatch):
    """With a back-end that only checks the graphs: the one that writes C++ takes minutes here."""
    compile_block = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_block(self, backend="eager", **options))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    compiled, plain = encoder(fast="compile", num_blocks=1).eval(), encoder(fast=False, num_blocks=1).eval()
    monkeypatch.undo()
    with torch.no_grad():
        for lengths in ([64, 50], [97, 41]):
            torch.testing.assert_close(compiled(*a_batch(lengths))[0], plain(*a_batch(lengths))[0], **TOLERANCE)
    copy.deepcopy(compiled)


def test_a_machine_that_cannot_compile_is_told_and_goes_on(monkeypatch, capsys):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = encoder(fast="compile").eval()
    assert "encoder_conf.fast: compile: torch cannot compile on this machine (no C++" in capsys.readouterr().err
    with torch.no_grad():
        model(*a_batch([64]))


AV = {"region": 16, "output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 1, "fusion_units": 24}
AV |= {"cnn_module_kernel": 7, "dropout_rate": 0.0, "positional_dropout_rate": 0.0}
AV |= {f"{stream}_frontend": {"channels": [8, 128], "blocks": [1, 2]} for stream in ("audio", "video")}


def av_batch(lengths):
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.rand(len(lengths), max(lengths), 640 + 256, generator=generator), torch.tensor(lengths)


@pytest.mark.parametrize("low_rank", [None, {"frontend": 0.25, "convolution": 0.25, "multiple": 4}])
@pytest.mark.parametrize("lengths", [[9], [9, 5]])
def test_the_audio_visual_encoder_and_its_gradients_are_those_of_plain_code(low_rank, lengths):
    torch.manual_seed(0)
    model = LOW_RANK_ENCODERS["lowrank_av_conformer"](896, **AV, low_rank=low_rank).train().double()
    assert sum(isinstance(one, FastConv2d) for one in model.modules()) == (28 if low_rank else 14)
    assert_fast_is_plain(model, av_batch, lengths)


def test_the_dense_audio_visual_encoder_takes_them_too_unless_told_otherwise():
    counts = [
        [type(one) for one in AVConformerEncoder(896, **AV, **options).modules()].count(FastConv2d)
        for options in ({}, {"fast": False})
    ]
    assert counts == [14, 0]
    plain = LOW_RANK_ENCODERS["lowrank_av_conformer"](896, **AV, fast=False)
    assert not any(isinstance(one, FastConv2d | FastRelPositionAttention) for one in plain.modules())
