"""Exported graphs compute what the checkpoint computes, for lengths and batches that they were not traced with."""

import copy

import pytest
import torch

import lrsms
from lrsms.errors import LrsmsError
from lrsms.espnet.export.traceable import CtcGraph, DecoderGraph, can_export_decoder, check_exportable
from lrsms.onnx.files import open_session, write_graph

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lrsms[export]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'lrsms[export]'")

BINS = 20
BLOCKS = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
CGMLP = BLOCKS | {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7}
FACTORED = {"low_rank": {"attention": 0.25, "subsampling": 0.25, "convolution": 0.25, "multiple": 1}}
LSTM = {"output_size": 12, "hidden_size": 16, "num_layers": 2}
LOW_RANK_LSTM = {"recurrent": 0.25, "recurrent_input": 0.25, "multiple": 1}
RNN = {"decoder": "lowrank_rnn", "decoder_conf": {"hidden_size": 16, "att_conf": {"adim": 12}}}
ENCODERS = {
    "conformer as it comes": {},
    "conformer with legacy positions": {
        "encoder": "conformer",
        "encoder_conf": BLOCKS | {"linear_units": 32, "cnn_module_kernel": 7, "macaron_style": True},
    },
    "conformer with absolute positions, a sixth": {
        "encoder": "lowrank_conformer",
        "encoder_conf": BLOCKS
        | {"linear_units": 32, "cnn_module_kernel": 7, "pos_enc_layer_type": "abs_pos", "input_layer": "conv2d6"}
        | {"selfattention_layer_type": "selfattn", **FACTORED},
    },
    "transformer": {"encoder": "lowrank_transformer", "encoder_conf": BLOCKS | {"linear_units": 32}},
    "transformer with scaled positions, an eighth": {
        "encoder": "transformer",
        "encoder_conf": BLOCKS | {"linear_units": 32, "input_layer": "conv2d8"},
    },
    "branchformer": {"encoder": "lowrank_branchformer", "encoder_conf": CGMLP | FACTORED},
    "e-branchformer": {
        "encoder": "lowrank_e_branchformer",
        "encoder_conf": CGMLP | {"linear_units": 32, "use_ffn": True, "macaron_ffn": True, **FACTORED},
    },
    "lstm": {"encoder": "lowrank_rnn", "encoder_conf": LSTM | {"use_projection": False}},
    "lstm, low-rank": {
        "encoder": "lowrank_rnn",
        "encoder_conf": LSTM | {"use_projection": False, "low_rank": LOW_RANK_LSTM},
    },
    "lstm with projections, half the frames": {
        "encoder": "rnn",
        "encoder_conf": LSTM | {"subsample": [2, 1], "bidirectional": False},
    },
    "vgg and lstm": {"encoder": "lowrank_vgg_rnn", "encoder_conf": LSTM | {"use_projection": False}},
}


@pytest.fixture(scope="module")
def build(build_tiny):
    """A tiny model with changes, in evaluation mode; without RNNP's constant dropout, BatchNorm has seen something."""

    def make(changes):
        decoder = RNN if "rnn" in changes.get("encoder", "") else {}
        model = build_tiny(**{**decoder, **changes}).eval()
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            if type(module).__name__ == "RNNP":
                module.dropout = 0.0
        return model

    return make


@pytest.fixture
def exported(tmp_path):
    """``exported(graph)``: an onnxruntime session of it, traced with a batch of 300 and 200 frames."""

    def make(graph):
        names = {"inputs": ["x", "x_lens"], "outputs": ["log_probs", "log_probs_len", "encoder_out"]}
        dynamic = {"x": {0: "n", 1: "t"}, "x_lens": {0: "n"}, "log_probs": {0: "n", 1: "u"}}
        dynamic |= {"log_probs_len": {0: "n"}, "encoder_out": {0: "n", 1: "v"}}
        example = torch.randn(2, 300, BINS), torch.tensor([300, 200])
        write_graph(graph.eval(), example, tmp_path / "graph.onnx", **names, dynamic=dynamic)
        session = open_session(tmp_path / "graph.onnx")
        return lambda x, lengths: map(torch.from_numpy, session.run(None, {"x": x.numpy(), "x_lens": lengths.numpy()}))

    return make


@torch.no_grad()
def alone(model, x: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of ESPnet's own forward pass of one utterance ``(frames, bins)``."""
    features, lengths = model.normalize(x[None].clone(), torch.tensor([len(x)]))
    return model.ctc.log_softmax(model.encoder(features, lengths)[0])[0]


@pytest.mark.parametrize("changes", ENCODERS.values(), ids=ENCODERS)
def test_each_utterance_of_a_batch_comes_out_as_it_does_alone_in_espnet(build, exported, changes):
    model = build(changes)
    run = exported(CtcGraph(with_dense_lstm(model)))
    legacy = "rel_pos_type" not in changes.get("encoder_conf", {}) and changes.get("encoder") == "conformer"
    for lengths in ([123], [251]) if legacy else ([123], [97, 251, 160]):  # legacy attention looks at the whole batch
        x = torch.randn(len(lengths), max(lengths), BINS)
        found, counts, encoded = run(x, torch.tensor(lengths))
        assert encoded.shape[:2] == found.shape[:2]
        for number, length in enumerate(lengths):
            expected = alone(model, x[number, :length])
            assert counts[number] == len(expected)
            torch.testing.assert_close(found[number, : len(expected)], expected, rtol=1e-3, atol=1e-3)


def with_dense_lstm(model):
    """ONNX's LSTMs have no projection."""
    merged = copy.deepcopy(model)
    lrsms.merge_(merged, only=lambda _, layer: isinstance(layer, torch.nn.LSTM))
    return merged


def test_an_utterance_too_short_for_the_encoder_has_no_frames(build, exported):
    model = build(ENCODERS["conformer with absolute positions, a sixth"])
    graph = CtcGraph(model)
    assert graph.subsampling == 6 and graph.shortest == 11
    run = exported(graph)
    x = torch.randn(2, 60, BINS)
    log_probs, counts, _ = run(x, torch.tensor([60, 5]))
    assert counts.tolist() == [len(alone(model, x[0])), 0] and torch.isfinite(log_probs).all()
    _, counts, _ = run(x[:1, :4], torch.tensor([4]))
    assert counts.tolist() == [0]


def test_repeated_frames_keep_the_best_path_and_have_the_decoders_rate(build, exported):
    model = build(ENCODERS["conformer with absolute positions, a sixth"])
    x, lengths = torch.randn(2, 250, BINS), torch.tensor([250, 131])
    plain, counts, _ = CtcGraph(model).eval()(x, lengths)
    repeated, more, _ = exported(CtcGraph(model, (6, 4)))(x, lengths)
    for number in range(2):
        best = plain[number, : counts[number]].argmax(-1)
        wide = repeated[number, : more[number]].argmax(-1)
        assert torch.equal(torch.unique_consecutive(best), torch.unique_consecutive(wide))
        assert more[number] == (counts[number] * 6 + 3) // 4
        assert all(wide[frame] == best[frame * 4 // 6] for frame in range(len(wide)))  # 40 ms in place of 60


def test_the_model_is_left_as_it_was(build):
    model = build({})
    before = alone(model, x := torch.randn(90, BINS))
    graph = CtcGraph(model).eval()
    graph(torch.randn(1, 70, BINS), torch.tensor([70]))
    torch.testing.assert_close(alone(model, x), before, rtol=0, atol=0)
    ours, traced = (
        next(part for part in encoder.embed.modules() if hasattr(part, "pe"))
        for encoder in (model.encoder, graph.encoder)
    )
    assert ours.pe is not None and traced.pe is None


def test_decoding_steps_are_those_of_espnets_decoder(build, tmp_path):
    model = build({"decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 2}})
    step = DecoderGraph(model).eval()
    layers, size = step.cache_shape
    example = torch.ones(3, 5, dtype=torch.long), torch.zeros(layers, 3, 4, size), torch.randn(1, 30, 16)
    names = {"inputs": ["tokens", "cache", "encoder_out"], "outputs": ["log_probs", "next_cache"]}
    dynamic = {"tokens": {0: "n", 1: "l"}, "cache": {1: "n", 2: "m"}, "encoder_out": {1: "t"}}
    dynamic |= {"log_probs": {0: "n"}, "next_cache": {1: "n", 2: "l"}}
    write_graph(step, example, tmp_path / "decoder.onnx", **names, dynamic=dynamic)
    session = open_session(tmp_path / "decoder.onnx")
    tokens, memory = torch.randint(2, 20, (4, 3)), torch.randn(1, 47, 16)
    cache, states = torch.zeros(layers, 4, 0, size), [None] * 4
    for length in (1, 2, 3):
        inputs = {"tokens": tokens[:, :length], "cache": cache, "encoder_out": memory}
        found, cache = map(torch.from_numpy, session.run(None, {name: value.numpy() for name, value in inputs.items()}))
        with torch.no_grad():
            expected, states = model.decoder.batch_score(tokens[:, :length], states, memory.expand(4, -1, -1))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert cache.shape == (layers, 4, length, size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_conf": {"ctc_weight": 0.0}}, "the model has no CTC"),
        (
            {
                "encoder": "lowrank_contextual_block_conformer",
                "encoder_conf": BLOCKS | {"linear_units": 32, "block_size": 8, "hop_size": 4, "look_ahead": 2},
            },
            "ContextualBlockConformerEncoder: streaming encoders are not exported",
        ),
        (
            {
                "encoder": "branchformer",
                "encoder_conf": CGMLP | {"attention_layer_type": "fast_selfattn", "pos_enc_layer_type": "abs_pos"},
            },
            r"encoder.encoders.0.attn: FastSelfAttention: fast_selfattn is not exported",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(build, changes, message):
    with pytest.raises(LrsmsError, match=message):
        check_exportable(build(changes))


def test_an_lstm_decoder_is_not_exported(build):
    assert can_export_decoder(build({})) and not can_export_decoder(build(ENCODERS["lstm"]))
