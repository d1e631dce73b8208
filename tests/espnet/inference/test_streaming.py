"""Streaming encoders: an utterance fed in chunks, and ESPnet's own streaming recognizer."""

import copy

import pytest
import soundfile
import torch
import yaml
from espnet2.asr.encoder.contextual_block_conformer_encoder import ContextualBlockConformerEncoder
from espnet2.asr.encoder.contextual_block_transformer_encoder import ContextualBlockTransformerEncoder
from espnet2.bin import asr_inference_streaming
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

import lrsms
from lrsms.espnet.models.role_table import LOW_RANK_ENCODERS
from lrsms.lowrank import low_rank_layers

BINS = 20
OPTIONS = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "linear_units": 32}
OPTIONS |= {"block_size": 8, "hop_size": 4, "look_ahead": 2}
ROLES = {"attention": 0.25, "feed_forward": 0.5, "subsampling": 0.25, "multiple": 2}
CONFORMER = {"macaron_style": True, "cnn_module_kernel": 7}
ENCODERS = {
    "contextual_block_conformer": (ContextualBlockConformerEncoder, CONFORMER, ROLES | {"convolution": 0.25}),
    "contextual_block_transformer": (ContextualBlockTransformerEncoder, {}, ROLES),
}


@torch.no_grad()
def in_chunks(encoder, features: torch.Tensor, frames: int) -> torch.Tensor:
    """What the encoder makes of ``(1, frames, bins)``, as espnet2.bin.asr_inference_streaming feeds it."""
    outputs, states = [], None
    chunks = features.split(frames, dim=1)
    for index, chunk in enumerate(chunks):
        final = index == len(chunks) - 1
        output, _, states = encoder(chunk, torch.tensor([chunk.shape[1]]), states, is_final=final, infer_mode=True)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("frames", [7, 16, 50, 1000])
@pytest.mark.parametrize("subsampling", ["conv2d", "conv2d6"])
def test_in_chunks_it_gives_what_the_dense_class_gives_with_the_merged_weights(name, frames, subsampling):
    base, options, low_rank = ENCODERS[name]
    options = OPTIONS | options | {"input_layer": subsampling}
    torch.manual_seed(0)
    model = LOW_RANK_ENCODERS[f"lowrank_{name}"](BINS, **options, low_rank=low_rank).eval()
    dense, merged = base(BINS, **options).eval(), copy.deepcopy(model)
    lrsms.merge_(merged)
    dense.load_state_dict(merged.state_dict())  # strict
    features = torch.randn(1, 203, BINS)
    output, expected = in_chunks(model, features, frames), in_chunks(dense, features, frames)
    assert len(list(low_rank_layers(model))) > 10 and output.shape[1] > 25
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=ENCODERS)
def experiment_of(request, tmp_path, tiny_args, build_tiny):
    """``experiment_of(merged)``: config.yaml and checkpoint of a low-rank streaming model, or of the same, dense."""
    _, options, low_rank = ENCODERS[request.param]
    common = {"frontend": "default", "frontend_conf": {"fs": 16000, "n_mels": BINS, "n_fft": 512, "hop_length": 160}}
    common |= {"token_type": "char", "normalize": None, "specaug": None}
    parts = {
        "encoder": f"lowrank_{request.param}",
        "encoder_conf": OPTIONS | options | {"low_rank": low_rank | {"output": 0.25}},
    }
    model = build_tiny(**common, **parts)

    def write(merged: bool):
        folder = tmp_path / ("merged" if merged else "factored")
        folder.mkdir()
        written, changes = copy.deepcopy(model), common | parts
        if merged:
            lrsms.merge_(written)
            decoder = {"attention_heads": 2, "linear_units": 32, "num_blocks": 1}
            changes |= {"encoder": request.param, "encoder_conf": OPTIONS | options}
            changes |= {"decoder": "transformer", "decoder_conf": decoder}
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(tiny_args(**changes))))
        torch.save(written.state_dict(), folder / "model.pth")
        return folder / "config.yaml", folder / "model.pth"

    return write


def streamed(config, weights) -> tuple[Speech2TextStreaming, list]:
    """The recognizer and its hypotheses for two seconds of noise in pieces of 0.2 s."""
    recognizer = Speech2TextStreaming(config, weights, beam_size=2, ctc_weight=0.5)
    speech = torch.randn(32000, generator=torch.Generator().manual_seed(0)) * 0.1
    pieces = speech.split(3200)
    for piece in pieces[:-1]:
        recognizer(piece, is_final=False)
    return recognizer, recognizer(pieces[-1], is_final=True)


def test_espnets_streaming_recognizer_opens_a_low_rank_model(experiment_of):
    recognizer, found = streamed(*experiment_of(merged=False))
    assert len(list(low_rank_layers(recognizer.asr_model.encoder))) > 10
    assert len(list(low_rank_layers(recognizer.asr_model.ctc))) == 1
    dense, expected = streamed(*experiment_of(merged=True))
    assert not list(low_rank_layers(dense.asr_model))
    assert found and [text for text, *_ in found] == [text for text, *_ in expected]
    assert float(found[0][3].score) == pytest.approx(float(expected[0][3].score), abs=1e-3)


def test_espnets_streaming_program_writes_the_same_text_in_chunks_and_at_once(experiment_of, tmp_path):
    config, weights = experiment_of(merged=False)
    speech = torch.randn(32000, generator=torch.Generator().manual_seed(0)) * 0.1
    soundfile.write(tmp_path / "a.wav", speech.numpy(), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    arguments = ["--asr_train_config", config, "--asr_model_file", weights, "--beam_size", 2, "--num_workers", 0]
    arguments += ["--data_path_and_name_and_type", f"{tmp_path / 'wav.scp'},speech,sound"]
    found = {}
    for chunk in (0, 3200, 5000):  # samples; 0 is the whole recording
        output = tmp_path / f"chunk{chunk}"
        asr_inference_streaming.main(
            list(map(str, [*arguments, "--output_dir", output, "--sim_chunk_length", chunk])),
        )
        found[chunk] = (output / "1best_recog/token_int").read_text()
    assert len(found[0].split()) > 1
    assert found[3200] == found[5000] == found[0]


def test_a_front_end_that_cannot_stream_is_said(build_tiny, caplog):
    _, options, low_rank = ENCODERS["contextual_block_conformer"]
    parts = {
        "encoder": "lowrank_contextual_block_conformer",
        "encoder_conf": OPTIONS | options | {"low_rank": low_rank},
    }
    build_tiny(frontend="kaldi_fbank", frontend_conf={"fs": 16000, "num_filters": BINS}, **parts)
    assert "frontend: default" in caplog.text
    caplog.clear()
    build_tiny(frontend="default", frontend_conf={"fs": 16000, "n_mels": BINS}, **parts)
    assert "frontend: default" not in caplog.text
