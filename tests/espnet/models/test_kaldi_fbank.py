"""Filter banks equal Lhotse's (and so Kaldi's), whatever the padding of the batch."""

import pytest
import torch
from lhotse import Fbank, FbankConfig

from lrsms.espnet.models.kaldi_fbank import KaldiFbank


def waveform(samples: int, seed: int = 0) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * torch.pi * 440 * time) + 0.05 * noise


@pytest.mark.parametrize(("fs", "bins"), [(16000, 80), (8000, 40), (16000, 23)])
@pytest.mark.parametrize("samples", [16000, 15999, 16081, 12345])
def test_features_are_lhotses(fs, bins, samples):
    x = waveform(samples)
    expected = torch.from_numpy(Fbank(FbankConfig(sampling_rate=fs, num_filters=bins)).extract(x[None].numpy(), fs))
    features, lengths = KaldiFbank(fs=fs, num_filters=bins)(x[None], torch.tensor([samples]))
    assert features.shape == (1, *expected.shape) and lengths.tolist() == [len(expected)]
    torch.testing.assert_close(features[0], expected, rtol=1e-4, atol=1e-4)


def test_espnets_recipes_write_the_rate_with_a_k():
    x, samples = waveform(16000), torch.tensor([16000])
    expected, _ = KaldiFbank(fs=8000, num_filters=40)(x[None], samples)
    torch.testing.assert_close(KaldiFbank(fs="8k", num_filters=40)(x[None], samples)[0], expected)


def test_features_are_torchaudios_kaldi():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    x = waveform(16000)
    options = {"num_mel_bins": 80, "sample_frequency": 16000.0, "dither": 0.0, "snip_edges": False, "high_freq": -400.0}
    expected = kaldi.fbank(x[None], **options, energy_floor=0.0)
    features, _ = KaldiFbank()(x[None], torch.tensor([16000]))
    torch.testing.assert_close(features[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shorter", [1, 13, 79, 80, 100, 160, 199, 200, 201, 500, 4000])
def test_padding_in_a_batch_changes_nothing(shorter):
    """Differences around a window's half matter: there the mirrored end of one meets the end of the batch."""
    frontend = KaldiFbank()
    long, short = waveform(16000, seed=1), waveform(16000 - shorter, seed=2)
    batch = torch.full((2, 16000), 7.0)  # rubbish in the padding must not be seen
    batch[0], batch[1, : len(short)] = long, short
    features, lengths = frontend(batch, torch.tensor([len(long), len(short)]))
    for row, x in enumerate((long, short)):
        alone, length = frontend(x[None], torch.tensor([len(x)]))
        assert lengths[row] == length[0] == alone.shape[1]
        torch.testing.assert_close(features[row, : length[0]], alone[0], rtol=1e-4, atol=1e-4)
        assert (features[row, length[0] :] == 0).all()


@pytest.mark.parametrize(("fs", "hop"), [(16000, 160), (8000, 80)])
def test_lengths_round_to_the_nearest_hop(fs, hop):
    frontend = KaldiFbank(fs=fs)
    samples = torch.tensor([fs, fs + hop // 2 - 1, fs + hop // 2, fs + hop])
    features, lengths = frontend(torch.randn(4, int(samples.max())), samples)
    assert lengths.tolist() == [100, 100, 101, 101]
    assert features.shape == (4, 101, 80) and frontend.output_size() == 80


def test_nothing_of_it_is_trained_or_saved():
    frontend = KaldiFbank()
    assert not list(frontend.parameters()) and not frontend.state_dict()


def test_dither_is_off_unless_asked_for():
    x, lengths = waveform(8000)[None], torch.tensor([8000])
    assert torch.equal(KaldiFbank()(x, lengths)[0], KaldiFbank()(x, lengths)[0])
    noisy = KaldiFbank(dither=0.01)
    assert not torch.equal(noisy(x, lengths)[0], noisy(x, lengths)[0])


def test_gradients_reach_the_waveform_and_half_precision_is_left_out():
    x = waveform(8000)[None].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = KaldiFbank()(x, torch.tensor([8000]))
    assert features.dtype == torch.float32
    features.sum().backward()
    assert x.grad.abs().sum() > 0
