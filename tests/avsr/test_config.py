"""The av_conf block."""

import pytest

from lrsms.avsr.config import AvConfig, ModalityDropout, TimeMask
from lrsms.errors import LrsmsError


def test_a_block_as_recipes_write_it():
    config = AvConfig.parse(
        {"snrs": [-5, 0, "clean"], "babble_voices": 3, "resize": 56, "flip": 0, "random_crop": False,
         "audio_mask": {"seconds": 0.2}, "video_mask": None, "modality_dropout": {"video": 0.25}}
    )  # fmt: skip
    assert config.snrs == (-5.0, 0.0, None) and config.valid_snrs == (None,) and config.noisy
    assert config.audio_mask == TimeMask(0.2, 1.0) and config.video_mask is None
    assert config.modality_dropout == ModalityDropout(audio=0.0, video=0.25)
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
        ({"modality_dropout": {"sound": 0.1}}, "av_conf.modality_dropout: unknown key 'sound'"),
        (
            {"modality_dropout": {"audio": 0.6, "video": 0.5}},
            "modality_dropout: audio 0.6 and video 0.5 add up to more",
        ),
        ([1], "av_conf: .* not a mapping"),
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(LrsmsError, match=message):
        AvConfig.parse(block)


def test_a_model_of_one_stream_drops_none():
    block = {"modality_dropout": {"audio": 0.25}}
    with pytest.raises(LrsmsError, match="av_conf.modality_dropout: the encoder has modality: audio, one stream"):
        AvConfig.parse(block, modality="audio")
    assert AvConfig.parse({"modality_dropout": {}}, modality="audio") == AvConfig()
