"""Front-ends: frames, padding, sizes of the reference, errors."""

import pytest
import torch

from lrsms.avsr.frames import SAMPLES
from lrsms.avsr.frontends import PIXEL_MEAN, PIXEL_STD, AudioResNet, MouthResNet
from lrsms.errors import LrsmsError

SMALL = {"channels": (4, 8, 8), "blocks": (1, 2, 1)}
LENGTHS = (9, 5)


def streams(kind: str) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 9 * SAMPLES) if kind == "audio" else torch.rand(2, 9, 24, 20)


def alone(kind: str, batch: torch.Tensor, index: int) -> torch.Tensor:
    length = LENGTHS[index]
    return batch[index : index + 1, : length * SAMPLES if kind == "audio" else length]


def build(kind: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = (AudioResNet if kind == "audio" else MouthResNet)(**{**SMALL, **options})
    model.train()
    model(streams(kind))  # statistics of batch normalization that are not 0 and 1
    return model.eval()


real = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
both = pytest.mark.parametrize("kind", ["audio", "video"])


@both
def test_one_row_of_features_for_each_video_frame(kind):
    assert build(kind)(streams(kind)).shape == (2, 9, 8)


@both
@torch.no_grad()
def test_padding_changes_no_features(kind):
    model, batch = build(kind), streams(kind)
    padded = model(batch, real)  # what is behind the end is no silence: it must not matter
    for index, length in enumerate(LENGTHS):
        torch.testing.assert_close(padded[index, :length], model(alone(kind, batch, index))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("real", [None, real], ids=["even", "padded"])
def test_the_mouths_first_layers_are_a_3d_convolution_with_its_normalization_and_pooling(real):
    model, batch = build("video").double().train(), streams("video").double()
    conv, norm = torch.nn.Conv3d(1, 4, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False), torch.nn.BatchNorm3d(4)
    plain = torch.nn.Sequential(conv, norm, torch.nn.SiLU(), torch.nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    plain = plain.double()
    conv.load_state_dict(model.stem.state_dict())
    norm.load_state_dict(model.norm.state_dict())
    seen = []
    model.stages[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(batch, real)
    x = (batch - PIXEL_MEAN) / PIXEL_STD * (1 if real is None else real[:, :, None, None])
    expected = plain(x[:, None]).transpose(1, 2)
    expected = expected.flatten(0, 1) if real is None else expected[real]
    torch.testing.assert_close(seen[0], expected, rtol=1e-9, atol=1e-9)
    for y in (seen[0], expected):
        y.mul(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    torch.testing.assert_close(model.stem.weight.grad, conv.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.norm.running_var, norm.running_var, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_frame_depends_on_its_surroundings_alone():
    model, batch = build("video"), streams("video")
    changed = batch.clone()
    changed[0, 4] = 0.0
    differs = (model(batch) - model(changed)).abs().amax(2)[0] > 1e-6
    assert differs.tolist() == [False, False, *[True] * 5, False, False]  # the 3-D convolution spans 5 frames


@torch.no_grad()
def test_loudness_and_offset_change_nothing():
    model, batch = build("audio"), streams("audio")
    torch.testing.assert_close(model(0.1 * batch + 0.05), model(batch), rtol=1e-2, atol=1e-2)


@both
def test_gradients_reach_every_weight(kind):
    model = build(kind).train()
    model(streams(kind), real).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@torch.no_grad()
def test_batch_normalization_of_video_counts_real_frames_alone():
    model, batch = build("video").train(), streams("video")
    first = model.stages[0][0].norm1
    first.reset_running_stats()
    first.momentum = None  # the average of all batches seen: of one
    seen = []
    hook = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(batch, real)
    hook.remove()
    assert seen[0].shape[0] == sum(LENGTHS)


def test_the_default_is_the_references_resnet18():
    # ResNet-18 without its first convolution and classifier has 11.17 M weights for pictures (published: 11.69 M in
    # all, 0.51 M of them the classifier's, 9.4 k the first convolution's).
    with torch.device("meta"):
        video, audio = MouthResNet(), AudioResNet()
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in (("v", video), ("a", audio))}
    assert count["v"] - 64 * 5 * 49 - 128 == 11_689_512 - 513_000 - 64 * 3 * 49 - 128
    wide = sum(p.numel() for p in video.parameters() if p.dim() == 4 and p.shape[-1] == 3)
    narrow = sum(p.numel() for p in audio.stages.parameters() if p.dim() == 4 and p.shape[-1] == 3)
    assert narrow * 3 == wide


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("audio", {"stem_stride": 7}, "stem_stride: 7: with 3 stages 28 samples"),
        ("audio", {"stem_kernel": 81}, "stem_kernel: 81 is not stem_stride, 4, plus an even number"),
        ("audio", {"blocks": (1, 2)}, "channels has 3 stages and blocks 2"),
        ("video", {"channels": (4, 0, 8)}, r"video_frontend.channels: \(4, 0, 8\)"),
        ("video", {"activation": "gelu"}, "video_frontend.activation: 'gelu' is unknown; one of swish, relu"),
    ],
)
def test_a_wrong_option_is_named(kind, options, message):
    with pytest.raises(LrsmsError, match=message):
        build(kind, **options)
