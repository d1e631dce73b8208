"""The av_conf block."""

import pytest

from lrsms.avsr.config import AvConfig, TimeMask
from lrsms.errors import LrsmsError


def test_a_block_as_recipes_write_it():
    config = AvConfig.parse(
        {"snrs": [-5, 0, "clean"], "babble_voices": 3, "resize": 56, "flip": 0, "random_crop": False,
         "audio_mask": {"seconds": 0.2}, "video_mask": None}
    )  # fmt: skip
    assert config.snrs == (-5.0, 0.0, None) and config.valid_snrs == (None,) and config.noisy
    assert config.audio_mask == TimeMask(0.2, 1.0) and config.video_mask is None
    assert AvConfig.parse(None) == AvConfig.parse({}) == AvConfig() and not AvConfig().noisy


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"snr": [0]}, "unknown key 'snr'; did you mean 'snrs'"),
        ({"snrs": 0}, "av_conf.snrs: 0: expected a list"),
        ({"snrs": []}, "av_conf.snrs"),
        ({"valid_snrs": ["quiet"]}, "av_conf.valid_snrs: 'quiet'"),
        ({"flip": 1.5}, "av_conf.flip: 1.5: expected a number from 0 to 1"),
        ({"babble_voices": 0}, "av_conf.babble_voices: 0"),
        ({"babble_voices": 2.5}, "av_conf.babble_voices: 2.5"),
        ({"resize": 4}, "av_conf.resize: 4: expected pixels, 8 to 512, or null"),
        ({"random_crop": 1}, "av_conf.random_crop: 1"),
        ({"video_mask": 0.4}, "av_conf.video_mask: 0.4: expected a mapping with seconds, every, or null"),
        ({"video_mask": {"second": 1}}, "av_conf.video_mask: unknown key 'second'; did you mean 'seconds'"),
        ({"audio_mask": {"every": 0}}, "av_conf.audio_mask.every: 0: expected a positive number"),
        ([1], "av_conf: .* not a mapping"),
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(LrsmsError, match=message):
        AvConfig.parse(block)
