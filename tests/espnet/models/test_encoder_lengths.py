"""The number of encoder frames, by formula, is the real encoder's."""

import pytest
import torch

from lrsms.espnet.models.encoder_lengths import EncoderLength, encoder_frames


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"])
@pytest.mark.parametrize("fs", [16000, 8000])
def test_formula_is_the_encoders(input_layer, fs, experiment, build_model):
    encoder_conf = {"output_size": 8, "attention_heads": 1, "linear_units": 8, "num_blocks": 1, "use_cnn_module": False}
    encoder_conf |= {"input_layer": input_layer, "rel_pos_type": "latest"}
    frontend_conf = {"fs": fs, "num_filters": 40}
    model = build_model(
        experiment.output_dir, encoder="conformer", encoder_conf=encoder_conf, frontend_conf=frontend_conf
    ).train()
    frames = EncoderLength(model, fs)
    assert frames.exact and model.training
    model.eval()
    hop = fs // 100
    near_the_limit = range(0, 20 * hop, hop // 4 + 1)
    beyond = range(fs, 2 * fs, 7 * hop + 3)
    with torch.no_grad():
        for samples in (*near_the_limit, *beyond):
            assert frames(samples) == encoder_frames(model, samples), samples


class NoFormula(torch.nn.Module):
    """Frames that are no linear function of the length."""

    encoder = None

    def encode(self, waveform, lengths):
        if lengths[0] < 100:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return waveform, (lengths.float() ** 0.5).long()


def test_an_encoder_without_a_formula_is_asked_each_time():
    model = NoFormula().train()
    frames = EncoderLength(model, 16000)
    assert not frames.exact
    assert [frames(samples) for samples in (50, 100, 10000, 640000)] == [0, 10, 100, 800]
    assert model.training


def test_other_errors_are_not_hidden():
    class Broken(torch.nn.Module):
        encoder = None

        def encode(self, waveform, lengths):
            raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        encoder_frames(Broken(), 16000)
