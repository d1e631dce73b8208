"""The frame-synchronous array: what goes in comes out, and the rule for lengths."""

import numpy as np
import pytest
import torch

from lrsms.avsr.frames import SAMPLES, fit_samples, missing, pack, row_size, split
from lrsms.errors import LrsmsError


def utterance(frames: int = 3, height: int = 4, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    samples = generator.uniform(-1, 1, frames * SAMPLES).astype(np.float32)
    return samples, generator.integers(1, 256, (frames, height, width), dtype=np.uint8)


def test_split_gives_back_what_pack_was_given():
    samples, region = utterance()
    array = pack(samples, region)
    assert array.dtype == np.float32 and array.shape == (3, row_size(4, 5)) == (3, 660)
    audio, video = split(array, 4, 5)
    assert np.array_equal(audio, samples)
    assert np.allclose(video * 255, region, atol=1e-4) and video.max() <= 1


def test_pixels_that_are_floats_stay_as_they_are():
    samples, region = utterance()
    scaled = region.astype(np.float32) / 255
    assert np.array_equal(split(pack(samples, scaled), 4, 5)[1], scaled)


def test_a_frame_holds_the_samples_of_its_own_time():
    samples, region = utterance()
    array = pack(samples, region)
    assert np.array_equal(array[1, :SAMPLES], samples[SAMPLES : 2 * SAMPLES])
    assert np.allclose(array[1, SAMPLES:] * 255, region[1].ravel(), atol=1e-4)


def test_a_batch_of_torch_is_split_alike():
    arrays = [pack(*utterance(seed=seed)) for seed in (0, 1)]
    audio, video = split(torch.from_numpy(np.stack(arrays)), 4, 5)
    assert audio.shape == (2, 3 * SAMPLES) and video.shape == (2, 3, 4, 5)
    for index, array in enumerate(arrays):
        one_audio, one_video = split(array, 4, 5)
        assert np.array_equal(audio[index].numpy(), one_audio) and np.array_equal(video[index].numpy(), one_video)


@pytest.mark.parametrize("extra", [-3200, -1, 0, 1, 3200])
def test_audio_is_cut_or_padded_to_the_frames_of_the_video(extra):
    samples = np.ones(10 * SAMPLES + extra, dtype=np.float32)
    fitted = fit_samples(samples, 10)
    assert len(fitted) == 10 * SAMPLES
    assert fitted.sum() == min(len(samples), 10 * SAMPLES)  # the zeros are at the end
    assert fitted[: min(len(samples), 10 * SAMPLES)].all()


@pytest.mark.parametrize("extra", [-3201, 3201])
def test_audio_much_longer_or_shorter_than_the_video_is_an_error(extra):
    with pytest.raises(LrsmsError, match=r"audio of 0\.\d+ s and video of 0\.40 s differ by more than 0\.2 s"):
        fit_samples(np.ones(10 * SAMPLES + extra, dtype=np.float32), 10)


def test_a_missing_stream_is_zeros_and_is_known_as_missing():
    samples, region = utterance()
    without_video = pack(samples[:-1], None, size=(4, 5))
    without_audio = pack(None, region)
    assert without_video.shape == without_audio.shape == (3, 660)
    batch = np.stack([pack(samples, region), without_video, without_audio])
    for audio, video in (split(batch, 4, 5), split(torch.from_numpy(batch), 4, 5)):
        assert missing(audio).tolist() == [False, False, True]
        assert missing(video).tolist() == [False, True, False]


def test_what_cannot_be_packed_is_named():
    samples, region = utterance()
    with pytest.raises(LrsmsError, match="neither audio nor video"):
        pack(None, None, size=(4, 5))
    with pytest.raises(LrsmsError, match="4 x 5 pixels, but 8 x 8 are wanted"):
        pack(samples, region, size=(8, 8))
    with pytest.raises(LrsmsError, match="without a single frame"):
        pack(samples[:0], None, size=(4, 5))
    with pytest.raises(ValueError, match="size"):
        pack(samples, None)


def test_rows_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(LrsmsError, match=r"rows of 660 numbers: 640 samples and .* 8 x 8 pixels are 704"):
        split(pack(*utterance()), 8, 8)
