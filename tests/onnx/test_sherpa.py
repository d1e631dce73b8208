"""What sherpa-onnx needs to know, and what it cannot do."""

import pytest

from lrsms.errors import LrsmsError
from lrsms.onnx.sherpa import Features, open_recognizer, repetition, symbols

DEFAULTS = {"fs": 16000, "num_filters": 80, "frame_length": 0.025, "frame_shift": 0.01, "dither": 0.0}
DEFAULTS |= {"low_freq": 20.0, "high_freq": -400.0}


def test_the_usual_features_need_no_further_options():
    features = Features.of("kaldi_fbank", DEFAULTS | {"num_filters": 40}, "config.yaml")
    assert features.usual and features.command_line == "--sample-rate=16000 --feat-dim=40"
    narrow = Features.of("kaldi_fbank", DEFAULTS | {"fs": 8000, "high_freq": -200}, "config.yaml")
    assert not narrow.usual and narrow.command_line.endswith("--low-freq=20 --high-freq=-200")


@pytest.mark.parametrize(
    ("frontend", "changes", "message"),
    [
        ("default", {}, "frontend: default: sherpa-onnx computes Kaldi's filter banks"),
        ("kaldi_fbank", {"frame_shift": 0.03}, "config.yaml: frontend_conf.frame_shift: 0.03: .* 0.01 s only"),
        ("kaldi_fbank", {"frame_length": 0.04}, "frontend_conf.frame_length: 0.04: .* 0.025 s only"),
    ],
)
def test_features_that_sherpa_cannot_compute_are_refused(frontend, changes, message):
    with pytest.raises(LrsmsError, match=message):
        Features.of(frontend, DEFAULTS | changes, "config.yaml")


def test_symbols_say_where_words_begin():
    characters = symbols(["<blank>", "<unk>", "<space>", "A", "<sos/eos>"], "char", "x")
    assert characters.splitlines() == ["<blk> 0", "<unk> 1", "▁ 2", "A 3", "<sos/eos> 4"]
    words = symbols(["<blank>", "<unk>", "one", "<sos/eos>"], "word", "x")
    assert words.splitlines() == ["<blk> 0", "<unk> 1", "▁one 2", "<sos/eos> 3"]
    pieces = symbols(["<blank>", "▁one", "s"], "bpe", "x")
    assert pieces.splitlines() == ["<blk> 0", "▁one 1", "s 2"]
    with pytest.raises(LrsmsError, match="config.yaml: token_list: 'new york'"):
        symbols(["<blank>", "new york"], "word", "config.yaml")


def test_frames_are_repeated_to_forty_milliseconds_each():
    assert [repetition(factor) for factor in (1, 2, 4, 6, 8)] == [(1, 1), (1, 1), (1, 1), (6, 4), (8, 4)]


def test_a_missing_model_is_an_error_and_no_crash(tmp_path):
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install 'lrsms[export]'")
    with pytest.raises(LrsmsError, match="model.onnx: no such file; export with --format sherpa first"):
        open_recognizer(tmp_path / "model.onnx", Features(16000, 80, 20.0, -400.0))
