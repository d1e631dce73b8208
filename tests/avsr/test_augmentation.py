"""Windows and masks."""

import numpy as np
import pytest

from lrsms.avsr.augmentation import crop, mask, resize, time_masks
from lrsms.errors import LrsmsError

REGIONS = np.arange(3 * 10 * 10).reshape(3, 10, 10)


def test_the_window_is_in_the_center_or_anywhere_the_same_for_all_frames():
    np.testing.assert_array_equal(crop(REGIONS, (6, 6)), REGIONS[:, 2:8, 2:8])
    corners = {int(crop(REGIONS, (6, 6), np.random.default_rng(seed))[0, 0, 0]) for seed in range(300)}
    assert corners == {10 * row + column for row in range(5) for column in range(5)}
    window = crop(REGIONS, (6, 6), np.random.default_rng(3))
    np.testing.assert_array_equal(
        window - window[0], np.broadcast_to(np.array([0, 100, 200])[:, None, None], (3, 6, 6))
    )
    np.testing.assert_array_equal(crop(REGIONS, (10, 10), np.random.default_rng(0)), REGIONS)


def test_a_window_that_does_not_fit_is_an_error():
    with pytest.raises(LrsmsError, match="window of 11 x 6 pixels does not fit into mouth regions of 10 x 10"):
        crop(REGIONS, (11, 6))


def test_resizing_keeps_what_has_the_size_and_averages_what_is_larger():
    regions = np.zeros((2, 8, 8), np.uint8)
    regions[:, :4] = 200
    assert resize(regions, None) is regions and resize(regions, 8) is regions
    np.testing.assert_array_equal(resize(regions, 2), [[[200, 200], [0, 0]]] * 2)


def test_longer_utterances_get_more_masks_within_their_bounds():
    rng = np.random.default_rng(0)
    assert len(time_masks(25, 25.0, rng, seconds=0.4, every=1.0)) == 1
    found = [time_masks(260, 25.0, rng, seconds=0.4, every=1.0) for _ in range(200)]
    assert {len(masks) for masks in found} == {11}
    lengths = [end - begin for masks in found for begin, end in masks]
    assert min(lengths) == 0 and max(lengths) == 10 and 4.5 < np.mean(lengths) < 5.5
    assert all(0 <= begin <= end <= 260 for masks in found for begin, end in masks)
    assert all(end <= 3 for _, end in time_masks(3, 25.0, rng, seconds=0.4, every=1.0))


def test_masked_stretches_are_zero_and_the_rest_untouched():
    stream = np.ones(10)
    np.testing.assert_array_equal(mask(stream, [(2, 4), (3, 6)]), [1, 1, 0, 0, 0, 0, 1, 1, 1, 1])
    assert stream.all()
