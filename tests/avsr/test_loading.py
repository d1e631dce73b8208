"""From cuts to arrays: sound and picture stay together, and what is random repeats itself."""

import numpy as np
import pytest

from lrsms.avsr.config import AvConfig
from lrsms.avsr.frames import SAMPLES, split
from lrsms.avsr.loading import Loader, count_frames, load_regions
from lrsms.avsr.noise import Babble
from lrsms.data.mouths import perturb_speed, regions_path
from lrsms.errors import LrsmsError

PLAIN = AvConfig(random_crop=False, flip=0.0, audio_mask=None, video_mask=None)


def click_and_flash(make_cut, frame, frames=50, size=16, late=0):
    """A click in the middle of ``frame``, and a picture that is white in that frame alone."""
    samples = np.zeros(frames * SAMPLES + late, np.float32)
    samples[frame * SAMPLES + SAMPLES // 2] = 0.9
    regions = np.full((frames, size, size), 10, np.uint8)
    regions[frame] = 250
    return make_cut(f"click{frame}", samples, regions)


def where(array, region=16):
    """Frame of the loudest sample and frame of the brightest picture."""
    samples, regions = split(array, region, region)
    return int(np.abs(samples).argmax()) // SAMPLES, int(regions.mean(axis=(1, 2)).argmax())


@pytest.mark.parametrize("frame", [0, 1, 24, 48, 49])
def test_click_and_flash_are_in_the_same_frame(make_cut, frame):
    array = Loader((16, 16), PLAIN)(click_and_flash(make_cut, frame))
    assert array.shape == (50, SAMPLES + 256) and where(array) == (frame, frame)
    assert array[:, SAMPLES:].max() == pytest.approx(250 / 255) and array.dtype == np.float32


@pytest.mark.parametrize("frame", [0, 13, 37, 49])
def test_also_where_the_cut_begins_within_the_recording(make_cut, frame):
    cut = click_and_flash(make_cut, frame, frames=60)
    part = cut.truncate(offset=0.0 if frame < 10 else 0.4, duration=1.6)
    offset = 0 if frame < 10 else 10
    array = Loader((16, 16), PLAIN)(part)
    assert len(array) == count_frames(part) == 40
    assert where(array) == (frame - offset, frame - offset)


@pytest.mark.parametrize("speed", [0.8, 0.9])
@pytest.mark.parametrize("frame", [0, 7, 24, 49])
def test_also_when_slowed_down(make_cut, frame, speed):
    cut = perturb_speed(click_and_flash(make_cut, frame), speed)
    array = Loader((16, 16), PLAIN)(cut)
    assert len(array) == count_frames(cut) == round(50 / speed)
    click, flash = where(array)
    shown = np.flatnonzero(split(array, 16, 16)[1].mean(axis=(1, 2)) > 0.9)
    assert click in shown and len(shown) <= 2  # a frame may be shown twice
    assert click == int((frame + 0.5) / speed)


def test_also_when_sped_up_though_frames_are_skipped(make_cut):
    seen = 0
    for frame in range(3, 30):
        array = Loader((16, 16), PLAIN)(perturb_speed(click_and_flash(make_cut, frame), 1.1))
        assert len(array) == 45
        click, flash = where(array)
        if split(array, 16, 16)[1].mean(axis=(1, 2)).max() > 0.9:  # one frame in eleven is not shown at all
            seen += 1
            assert abs(click - flash) <= 1
    assert seen >= 23


def test_after_random_windows_flips_and_resizing(make_cut):
    config = AvConfig(resize=14, audio_mask=None, video_mask=None)
    cut = click_and_flash(make_cut, 20)
    for epoch in range(5):
        assert where(Loader((12, 12), config, train=True, epoch=epoch)(cut), 12) == (20, 20)


@pytest.mark.parametrize("late", [-900, -1, 0, 1, 2000])
def test_the_video_is_the_clock(make_cut, late):
    """Sound that is a little shorter or longer than the video is padded or cut at its end."""
    cut = click_and_flash(make_cut, 20, late=late)
    array = Loader((16, 16), PLAIN)(cut)
    assert len(array) == count_frames(cut) == 50 and where(array) == (20, 20)


def test_without_video_the_picture_is_zero_and_every_sample_is_there(make_cut):
    cut = make_cut("sound", np.full(3 * SAMPLES + 1, 0.5, np.float32))
    array = Loader((16, 16), PLAIN)(cut)
    assert array.shape == (4, SAMPLES + 256) and count_frames(cut) == 4 and load_regions(cut) is None
    assert not array[:, SAMPLES:].any() and np.count_nonzero(array) == 3 * SAMPLES + 1


def damage(kind, path):
    if kind == "gone":
        path.unlink()
    elif kind == "not an array":
        path.write_bytes(b"junk")
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "another shape":
        np.save(path, np.zeros((50, 8, 8), np.uint8))
    else:
        np.save(path, np.zeros((50, 16, 16), np.float64))


@pytest.mark.parametrize("kind", ["gone", "not an array", "cut off", "empty", "another shape", "another type"])
def test_video_that_breaks_after_stage_1_is_reported_and_training_goes_on(make_cut, kind):
    cut = click_and_flash(make_cut, 20)
    damage(kind, regions_path(cut.custom["mouth"]))
    told = []
    array = Loader((16, 16), PLAIN, report=lambda name, detail: told.append((name, detail)))(cut)
    assert array.shape == (50, SAMPLES + 256) and not array[:, SAMPLES:].any() and array[:, :SAMPLES].any()
    ((name, detail),) = told
    assert name == cut.id and str(regions_path(cut.custom["mouth"])) in detail
    with pytest.raises(LrsmsError, match="mouth regions cannot be read"):
        Loader((16, 16), PLAIN)(cut)


def test_video_that_ends_before_its_cut_is_reported(make_cut):
    cut = make_cut("short", np.full(50 * SAMPLES, 0.1, np.float32), np.full((30, 16, 16), 9, np.uint8))
    told = []
    array = Loader((16, 16), PLAIN, report=lambda *what: told.append(what))(cut)
    assert len(array) == 50 and "1.20 s of video are left" in told[0][1]


def test_another_sampling_rate_is_an_error(make_cut):
    with pytest.raises(LrsmsError, match="8000 Hz; audio-visual models take 16000"):
        Loader((16, 16), PLAIN)(click_and_flash(make_cut, 3).resample(8000))


@pytest.fixture
def noisy(make_cut, voices):
    rng = np.random.default_rng(0)
    cut = make_cut("it", rng.normal(0, 0.05, 50 * SAMPLES), rng.integers(1, 255, (50, 20, 20), np.uint8))

    def load(clean_epochs=0, **options):
        config = AvConfig(snrs=(-5.0, 0.0, 5.0, None), clean_epochs=clean_epochs)
        return Loader((16, 16), config, babble=Babble(voices, voices=2), **options)(cut)

    return load


def test_what_is_drawn_depends_on_seed_epoch_and_utterance(noisy):
    first = noisy(train=True, epoch=1)
    np.testing.assert_array_equal(noisy(train=True, epoch=1), first)
    for other in (noisy(train=True, epoch=2), noisy(train=True, epoch=1, seed=1), noisy()):
        assert not np.array_equal(other[:, :SAMPLES], first[:, :SAMPLES])
        assert not np.array_equal(other[:, SAMPLES:], first[:, SAMPLES:])


def test_validation_is_clean_centred_and_the_same_in_every_epoch(noisy):
    first = noisy(epoch=1)
    np.testing.assert_array_equal(noisy(epoch=2), first)
    assert (first != 0).all()  # no masks


def test_training_masks_both_streams_and_mixes_every_ratio(noisy):
    arrays = [noisy(train=True, epoch=epoch) for epoch in range(12)]
    silent = [np.all(array[:, :SAMPLES] == 0, axis=1).sum() for array in arrays]
    dark = [np.all(array[:, SAMPLES:] == 0, axis=1).sum() for array in arrays]
    assert max(silent) > 3 and max(dark) > 3 and max(silent + dark) <= 20
    powers = {round(float(np.mean(array[:, :SAMPLES] ** 2)), 4) for array in arrays}
    assert len(powers) > 3


def test_the_first_epochs_may_be_clean(noisy):
    still = noisy()[:, :SAMPLES]
    for epoch in (1, 2):
        early = noisy(train=True, epoch=epoch, clean_epochs=2)
        np.testing.assert_array_equal(early[:, :SAMPLES], still)
        assert not np.any(np.all(early[:, SAMPLES:] == 0, axis=1))  # no masks; the window still moves
    for epoch in (3, 4):
        late = noisy(train=True, epoch=epoch, clean_epochs=2)
        np.testing.assert_array_equal(late, noisy(train=True, epoch=epoch))


def test_the_noise_of_a_loader_has_the_ratio_too(make_cut, voices):
    cut = make_cut("it", 0.05 * np.sin(np.arange(50 * SAMPLES)), np.full((50, 16, 16), 9, np.uint8))
    clean = Loader((16, 16), PLAIN)(cut)[:, :SAMPLES].astype(float)
    loader = Loader((16, 16), AvConfig(valid_snrs=(-2.5,)), babble=Babble(voices, voices=2))
    noise = loader(cut)[:, :SAMPLES] - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(-2.5, abs=0.01)
