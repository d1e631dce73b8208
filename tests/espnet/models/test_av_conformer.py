"""The audio-visual encoder: padding, missing streams, modality dropout, sizes of the reference, errors."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch

from lrsms.avsr.frames import SAMPLES, row_size
from lrsms.errors import LrsmsError
from lrsms.espnet.compat import ConvolutionModule
from lrsms.espnet.config import check_training_config
from lrsms.espnet.models.av_conformer import AVConformerEncoder
from lrsms.espnet.models.cost import cost, positions
from lrsms.espnet.models.encoder_lengths import EncoderLength
from lrsms.espnet.models.rank_preview import preview
from lrsms.espnet.models.role_table import LOW_RANK_ENCODERS
from lrsms.espnet.training.task import ASRTask
from lrsms.lowrank import low_rank_layers
from lrsms.training_yaml import read_training_yaml

SIDE = 12
ROW = row_size(SIDE, SIDE)
OPTIONS = {
    **{"region": SIDE, "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2},
    **{"cnn_module_kernel": 7, "fusion_units": 24, "dropout_rate": 0.0, "positional_dropout_rate": 0.0},
    "audio_frontend": {"channels": [4, 8], "blocks": [1, 1]},
    "video_frontend": {"channels": [4, 8], "blocks": [1, 1]},
}
LENGTHS = torch.tensor([20, 13, 9, 16])


def batch() -> torch.Tensor:
    """Four utterances: whole, whole, without video, without audio; behind their ends are zeros, as ESPnet pads."""
    torch.manual_seed(1)
    x = torch.rand(4, 20, ROW)
    x[2, :, SAMPLES:] = 0.0
    x[3, :, :SAMPLES] = 0.0
    return x * (torch.arange(20) < LENGTHS[:, None])[:, :, None]


def build(**options) -> AVConformerEncoder:
    """An encoder whose batch normalizations have seen something."""
    torch.manual_seed(0)
    model = AVConformerEncoder(ROW, **{**OPTIONS, **options}).train()
    with torch.no_grad():
        model(batch(), LENGTHS)
    return model.eval()


FBANK = {"audio_frontend": {"type": "fbank", "num_filters": 10}}


@pytest.mark.parametrize(
    ("modality", "options"), [("audio", {}), ("video", {}), ("audiovisual", {}), ("audiovisual", FBANK)]
)
@torch.no_grad()
def test_an_utterance_in_a_padded_batch_is_encoded_as_alone(modality, options):
    model, x = build(modality=modality, **options), batch()
    encoded, lengths, _ = model(x, LENGTHS)
    assert encoded.shape == (4, 20, 16) and torch.equal(lengths, LENGTHS)
    for index, length in enumerate(LENGTHS.tolist()):
        alone = model(x[index : index + 1, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(encoded[index, :length], alone[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_filter_banks_tell_pitch_and_frame_and_not_loudness():
    frontend = build(**FBANK).audio.frontend
    assert not list(frontend.parameters())
    time = torch.arange(20 * SAMPLES) / 16000
    pitch = torch.where(time < 10 * 0.04, 300.0, 3000.0)
    tones = torch.sin(2 * torch.pi * pitch * time) + 0.1 * torch.randn(
        len(time), generator=torch.Generator().manual_seed(0)
    )
    features = frontend(tones[None])[0].unflatten(1, (4, 10))  # video frame, step of 10 ms, band
    assert features.shape == (20, 4, 10)
    low, high = features[2:8].mean((0, 1)), features[12:18].mean((0, 1))
    assert low[:3].max() > high[:3].max() + 1 and high[-4:].max() > low[-4:].max() + 1
    torch.testing.assert_close(frontend(0.1 * tones[None])[0].unflatten(1, (4, 10)), features, rtol=0.02, atol=0.05)


@torch.no_grad()
def test_espnets_conformer_needs_our_care_for_that():
    if "mask_pad" in inspect.signature(ConvolutionModule.forward).parameters:
        pytest.skip("this ESPnet masks the padding itself")
    model, x = build(modality="audio", fast=False), batch()
    for layer in model.audio.conformer.encoders:  # as ESPnet has it
        layer.conv_module.depthwise_conv.forward = super(
            type(layer.conv_module.depthwise_conv), layer.conv_module.depthwise_conv
        ).forward
    padded = model(x, LENGTHS)[0][1, :13]
    alone = model(x[1:2, :13], torch.tensor([13]))[0][0]
    assert (padded - alone)[-1].abs().max() > 1e-4


@pytest.mark.parametrize(("missing", "present"), [("audio", "video"), ("video", "audio")])
@torch.no_grad()
def test_a_missing_stream_is_not_computed_and_counts_as_zeros(missing, present):
    model, x = build(), batch()[:1]
    part = slice(0, SAMPLES) if missing == "audio" else slice(SAMPLES, ROW)
    x[..., part] = 0.0
    ran = []
    hooks = [
        getattr(model, name).register_forward_hook(lambda module, _, output, name=name: ran.append((name, output)))
        for name in ("audio", "video")
    ]
    encoded = model(x, torch.tensor([20]))[0]
    assert [name for name, _ in ran] == [present]
    outputs = {present: ran[0][1], missing: torch.zeros(1, 20, 16)}
    expected = model.fusion(torch.cat([outputs["audio"], outputs["video"]], 2), None)
    torch.testing.assert_close(encoded, expected)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_a_stream_that_is_not_of_the_modality_is_not_looked_at():
    x = batch()[:1]
    changed = x.clone()
    changed[..., SAMPLES:] = 0.3
    audio, both = build(modality="audio"), build()
    lengths = torch.tensor([20])
    assert not hasattr(audio, "video") and not hasattr(audio, "fusion")
    assert torch.equal(audio(x, lengths)[0], audio(changed, lengths)[0])
    assert not torch.equal(both(x, lengths)[0], both(changed, lengths)[0])


def presence(model: AVConformerEncoder, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of ``count`` whole utterances keep their streams."""
    torch.manual_seed(0)
    present = model._present({"audio": torch.ones(count, 1), "video": torch.ones(count, 1, 1, 1)})
    return present["audio"], present["video"]


def test_modality_dropout_drops_one_stream_at_its_rate_in_training_alone():
    model = build(modality_dropout={"audio": 0.3, "video": 0.2})
    assert all(stream.all() for stream in presence(model.eval()))
    audio, video = presence(model.train())
    assert (~audio).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (~video).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (audio | video).all()


def test_modality_dropout_never_takes_the_only_stream():
    model = build(modality_dropout={"audio": 0.5, "video": 0.5}).train()
    lone = {"audio": torch.ones(100, 1), "video": torch.zeros(100, 1, 1, 1)}
    present = model._present(lone)
    assert present["audio"].all() and not present["video"].any()


def test_a_dropped_stream_is_as_a_missing_one():
    model = build(modality_dropout={"audio": 1.0}).train()
    x, lengths = batch()[:1], torch.tensor([20])
    silent = x.clone()
    silent[..., :SAMPLES] = 0.0
    torch.testing.assert_close(model(x, lengths)[0], model(silent, lengths)[0])


def test_every_parameter_has_a_gradient_where_a_whole_batch_lacks_a_stream():
    model = build(modality_dropout={"video": 1.0}).train()  # distributed training waits for all of them
    model(batch()[:2], LENGTHS[:2])[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(not parameter.grad.any() for parameter in model.video.parameters())
    assert any(parameter.grad.any() for parameter in model.audio.parameters())


def test_low_rank_has_the_role_fusion():
    block = {"fusion": 0.25, "feed_forward": 0.25, "multiple": 1}
    model = LOW_RANK_ENCODERS["lowrank_av_conformer"](ROW, **OPTIONS, low_rank=block)
    ranks = {path: layer.rank for path, layer in low_rank_layers(model)}
    assert ranks["fusion.hidden"] == 6 and ranks["fusion.output"] == 4
    assert {path.split(".")[0] for path in ranks} == {"audio", "video", "fusion"}
    with pytest.raises(LrsmsError, match="encoder_conf.low_rank.fusion: LowRankAVConformerEncoder has no such layer"):
        LOW_RANK_ENCODERS["lowrank_av_conformer"](ROW, **OPTIONS, modality="audio", low_rank=block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": 24}, r"region: 24 makes rows of 1216 numbers, .* input_size is 784; write input_size: 1216"),
        ({"region": [12]}, r"encoder_conf.region: \[12\] is not a size in pixels"),
        ({"region": 0}, "encoder_conf.region: 0 is not a size in pixels"),
        ({"modality": "lips"}, "modality: 'lips' is unknown; one of audio, video, audiovisual"),
        ({"modality_dropout": {"audio": 0.7, "video": 0.7}}, "modality_dropout: .* add up to at most 1"),
        ({"modality_dropout": {"sound": 0.5}}, "modality_dropout: unknown key 'sound'"),
        ({"modality": "audio", "modality_dropout": {"audio": 0.5}}, "modality_dropout: modality: audio has one stream"),
        ({"audio_frontend": {"widths": [4]}}, "encoder_conf.audio_frontend: unknown key 'widths'"),
        ({"video_frontend": {"channels": [4], "blocks": [0]}}, r"video_frontend.blocks: \[0\]"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(LrsmsError, match=message):
        AVConformerEncoder(ROW, **{**OPTIONS, **options})


def test_data_of_another_region_are_refused_with_both_sizes():
    with pytest.raises(LrsmsError, match="rows of 1216 numbers: .* 12 x 12 pixels are 784"):
        build()(torch.rand(1, 20, row_size(24, 24)), torch.tensor([20]))


@pytest.mark.parametrize(
    "option", [{"normalize": "utterance_mvn"}, {"specaug": "specaug", "specaug_conf": {"apply_time_mask": False}}]
)
def test_what_espnet_would_do_to_samples_and_pixels_is_refused(build_tiny, av_changes, option):
    with pytest.raises(LrsmsError, match=f"{next(iter(option))}: .*write {next(iter(option))}: null"):
        build_tiny(**(av_changes | option))


def test_the_model_is_measured_with_both_streams(build_tiny, av_changes):
    model = build_tiny(**av_changes)
    measured = cost(model, 16000, 4.0)
    assert measured.dense_parameters > measured.parameters > 0
    assert measured.dense_macs_per_second > measured.macs_per_second > 0
    counts = positions(model, 16000, 4.0)
    for stream in ("audio", "video"):
        assert counts[f"encoder.{stream}.conformer.encoders.0.feed_forward.w_1"] == 25  # frames a second
    assert counts["encoder.fusion.hidden"] == 25
    assert counts["encoder.video.frontend.stages.0.0.conv1"] == 25 * 6 * 6  # a quarter of 24 pixels


def test_25_frames_a_second_the_last_one_begun(build_tiny, av_changes):
    frames = EncoderLength(build_tiny(**av_changes), 16000)
    assert frames.exact and [frames(count) for count in (640, 641, 16000, 48000)] == [1, 2, 25, 75]


def test_the_configs_of_the_reference_have_its_size_and_half_of_it(root):
    conf = root / "egs/lrs3/avsr1/conf"
    dense, low = (preview(conf / f"train_{kind}.yaml", 5000, 4.0).cost for kind in ("dense", "lrsms"))
    assert dense.parameters == pytest.approx(444e6, rel=0.005)  # published: 444 M
    assert dense.parameters == low.dense_parameters >= 2 * low.parameters
    assert low.macs_per_second < dense.macs_per_second == pytest.approx(low.dense_macs_per_second)


@pytest.mark.parametrize("config", sorted(Path(__file__).resolve().parents[3].glob("egs/*/avsr1/conf/train_*.yaml")))
def test_every_config_in_the_repository_is_one_that_training_takes(config):
    options = check_training_config(config, ASRTask)
    side = options["encoder_conf"]["region"]
    assert options["input_size"] == row_size(side, side)
    parsed = ASRTask.get_parser().parse_args(["--config", str(config)])
    assert parsed.normalize is None and parsed.specaug is None
    low = config.with_name("train_lrsms.yaml")
    if config != low and "lrs3" not in config.parts:  # see above
        ours = read_training_yaml(low)
        assert {name: value for name, value in ours["encoder_conf"].items() if name != "low_rank"} == (
            options["encoder_conf"]
        )
        assert (
            dataclasses.asdict(preview(config, 30, 4.0).cost)["parameters"] >= 2 * preview(low, 30, 4.0).cost.parameters
        )
