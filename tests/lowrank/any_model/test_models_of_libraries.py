"""lrsms.factorize_ on speech models of other libraries, small and untrained: pip install 'lrsms[models]'.

icefall is no package: give its checkout as ICEFALL=/path/to/icefall.
"""

import copy
import importlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import lrsms
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.any_model.example import call, difference, evaluating, run

GENERATOR = torch.Generator().manual_seed(0)
FRAMES, WAVE = torch.randn(2, 80, 40, generator=GENERATOR), torch.randn(1, 2000, generator=GENERATOR)
HIDDEN, LENGTHS = torch.randn(2, 21, 64, generator=GENERATOR), torch.tensor([20, 15])
TOKENS = torch.randint(3, 500, (2, 7), generator=GENERATOR)


def torchaudio_conformer():
    models = pytest.importorskip("torchaudio.models")
    return models.Conformer(64, 4, 128, 2, 15), (HIDDEN[:, :20], LENGTHS)


def torchaudio_emformer():
    models = pytest.importorskip("torchaudio.models")
    return models.Emformer(64, 4, 128, 2, segment_length=4, right_context_length=1), (HIDDEN, LENGTHS)


def torchaudio_wav2vec2():
    models = pytest.importorskip("torchaudio.models")
    sizes = {
        "encoder_embed_dim": 64,
        "encoder_num_layers": 2,
        "encoder_num_heads": 4,
        "encoder_ff_interm_features": 128,
    }
    rest = {"encoder_projection_dropout": 0.0, "encoder_attention_dropout": 0.0, "encoder_ff_interm_dropout": 0.0}
    net = models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(32, 10, 5), (32, 3, 2), (32, 3, 2)],
        extractor_conv_bias=False,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=29,
        **sizes,
        **rest,
    )
    return net, WAVE


def openai_whisper():
    whisper = pytest.importorskip(
        "whisper.model", reason="openai-whisper is not installed: pip install 'lrsms[models]'"
    )
    net = whisper.Whisper(whisper.ModelDimensions(80, 20, 64, 4, 2, 500, 12, 64, 4, 2))
    nn.init.normal_(net.decoder.positional_embedding, std=0.1)
    return net, (FRAMES, TOKENS)


def transformers_model(config: str, model: str, options: dict):
    transformers = pytest.importorskip("transformers", reason="it is not installed: pip install 'lrsms[models]'")
    return getattr(transformers, model)(getattr(transformers, config)(**options))


def transformers_whisper():
    sides = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 128))
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"vocab_size": 500, "d_model": 64, "max_source_positions": 20, "max_target_positions": 12}
    net = transformers_model("WhisperConfig", "WhisperForConditionalGeneration", sides | ids | sizes)
    return net, {"input_features": FRAMES, "decoder_input_ids": TOKENS}


def transformers_wav2vec2():
    sizes = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    convolutions = {"conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2)}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "intermediate_size": 128}
    return transformers_model("Wav2Vec2Config", "Wav2Vec2ForCTC", sizes | convolutions | positions), WAVE


def transformers_wav2vec2_bert():
    sizes = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rest = {"intermediate_size": 128, "feature_projection_input_dim": 64}
    return transformers_model("Wav2Vec2BertConfig", "Wav2Vec2BertForCTC", sizes | rest), HIDDEN


def icefall_zipformer():
    checkout = os.environ.get("ICEFALL")
    if not checkout:
        pytest.skip("no checkout of icefall: ICEFALL=/path/to/icefall")
    folder = Path(checkout) / "egs/librispeech/ASR/zipformer"
    stand_ins = {} if importlib.util.find_spec("k2") else {"k2": k2_stand_in()}
    stand_ins |= {"icefall": types.ModuleType("icefall"), "icefall.utils": types.ModuleType("icefall.utils")}
    stand_ins["icefall.utils"].torch_autocast = lambda device="cpu", **options: torch.autocast(device, **options)
    before = dict(sys.modules)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(folder))
    try:
        zipformer = importlib.import_module("zipformer")
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(before):
            if name in ("zipformer", "scaling", "encoder_interface", *stand_ins):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})
    heads = {"num_heads": (4, 4), "query_head_dim": 16, "value_head_dim": 12, "pos_head_dim": 4, "pos_dim": 48}
    net = zipformer.Zipformer2(
        output_downsampling_factor=2,
        downsampling_factor=(1, 2),
        encoder_dim=(64, 96),
        encoder_unmasked_dim=(48, 64),
        num_encoder_layers=(1, 1),
        feedforward_dim=(128, 192),
        cnn_module_kernel=(15, 15),
        **heads,
    )
    return net, (HIDDEN[:, :20].transpose(0, 1), LENGTHS)


def k2_stand_in() -> types.ModuleType:
    """The activations that Zipformer takes from k2, in torch."""
    k2 = types.ModuleType("k2")
    for name, shift, offset in (("l", 4.0, 0.035), ("r", 1.0, 0.313261687)):

        def forward(x, p=0.0, shift=shift, offset=offset):
            return torch.logaddexp(torch.zeros_like(x), x - shift) - 0.08 * x - offset

        def forward_and_deriv(x, forward=forward, shift=shift):
            return forward(x), torch.sigmoid(x - shift) - 0.08

        setattr(k2, f"swoosh_{name}", forward)
        setattr(k2, f"swoosh_{name}_forward", forward)
        setattr(k2, f"swoosh_{name}_forward_and_deriv", forward_and_deriv)
    return k2


# Model -> how many of its matrices stay dense at a ratio of 0.25, and a reason that is among theirs.
MODELS = {
    torchaudio_conformer: (2, "a depthwise convolution"),
    torchaudio_emformer: (0, ""),
    torchaudio_wav2vec2: (3, "its weight is parametrized by WeightNorm"),
    openai_whisper: (2, "its weight is read by TextDecoder.forward"),
    transformers_whisper: (1, "WhisperPositionalEmbedding is made from nn.Embedding"),
    transformers_wav2vec2: (3, "its weight is parametrized by WeightNorm"),
    transformers_wav2vec2_bert: (2, "a depthwise convolution"),
    icefall_zipformer: (4, "a depthwise convolution"),
}


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_layer_is_proved_or_stays_with_its_reason_and_states_go_both_ways(make):
    torch.manual_seed(0)
    net, example = make()
    dense = copy.deepcopy(net)
    plan = lrsms.factorize_(net, ratio=0.25, example=example)
    stay, reason = MODELS[make]
    left = {row.weight: row.why for row in plan.rows if row.rank is None}
    assert len(left) == stay and all(left.values())
    assert not reason or any(reason in why for why in left.values())
    assert {row.weight for row in plan.rows} == {n for n, p in dense.named_parameters() if p.dim() >= 2}
    outputs = output_of(net, example)
    assert 0.002 < difference(output_of(dense, example), outputs) < float("inf")  # it is thinner
    fresh = copy.deepcopy(dense)
    lrsms.factorize_(fresh, ranks=plan.ranks)
    fresh.load_state_dict(net.state_dict())
    assert difference(outputs, output_of(fresh, example)) == 0
    assert difference(outputs, output_of(copy.deepcopy(net), example)) == 0
    fresh.load_state_dict(dense.state_dict())
    assert difference(outputs, output_of(fresh, example)) < 1e-3
    lrsms.merge_(net)
    assert not any(low_rank_layers(net))
    assert [type(module) for module in net.modules()] == [type(module) for module in dense.modules()]
    dense.load_state_dict(net.state_dict())
    assert difference(outputs, output_of(dense, example)) < 1e-3


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_all_factors_train(make):
    torch.manual_seed(0)
    net, example = make()
    lrsms.factorize_(net, target="1.5x", example=example, multiple=4, semi_orthogonal=1.0)
    net.eval()  # its layers, none of them dropped
    for module in net.modules():
        if type(module).__name__ == "ActivationDropoutAndLinear":
            module.train()  # a backward of its own
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    result = call(net, example)
    tensors = [result] if isinstance(result, torch.Tensor) else list(getattr(result, "values", lambda: result)())
    sum(t.square().mean() for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()).backward()
    optimizer.step()
    lrsms.after_step(net, optimizer)
    trained = [layer for _, layer in low_rank_layers(net) if layer[0].weight.requires_grad]
    assert trained and all(
        factor.grad.abs().sum() > 0 for layer in trained for factor in (layer[0].weight, layer[1].weight)
    )


def output_of(net: nn.Module, example) -> list[torch.Tensor]:
    with evaluating(net):
        return run(net, example)


def test_openai_whisper_still_takes_half_precision_and_a_growing_cache():
    net, _ = openai_whisper()
    net.eval()
    lrsms.factorize_(net, ratio=0.25, example=(FRAMES, TOKENS))
    with torch.no_grad():
        features = net.encoder(FRAMES.bfloat16())
        assert features.dtype == torch.bfloat16
        features = net.encoder(FRAMES)
        whole = net.decoder(TOKENS, features)
        cache, hooks = net.install_kv_cache_hooks()
        first = net.decoder(TOKENS[:, :6], features, kv_cache=cache)
        last = net.decoder(TOKENS[:, 6:], features, kv_cache=cache)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(torch.cat((first, last), dim=1), whole, rtol=1e-3, atol=1e-3)


def test_transformers_generates_from_tied_factors_and_saves_the_merged_model(tmp_path):
    net, example = transformers_whisper()
    net.eval()

    def generating(model):
        return model.generate(input_features=FRAMES, max_new_tokens=4, do_sample=False)

    plan = lrsms.factorize_(net, ratio=0.25, example=generating)
    assert "each was proved" in str(plan) and len(plan.ranks) == 36
    embed, output = net.model.decoder.embed_tokens, net.proj_out
    assert "model.decoder.embed_tokens" in plan.ranks and output[1].weight is embed[0].weight
    made = generating(net)
    assert made.shape[0] == 2
    expected = output_of(net, example)
    lrsms.merge_(net)
    net.save_pretrained(tmp_path)
    stock = type(net).from_pretrained(tmp_path)
    assert stock.proj_out.weight is stock.model.decoder.embed_tokens.weight
    assert difference(expected, output_of(stock, example)) < 1e-3
