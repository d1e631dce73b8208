"""Factored or dense, as onnxruntime runs it."""

import pytest
from torch import nn

import lrsms
from lrsms.lowrank import LowRankConv1d, LowRankConv2d, LowRankEmbedding, LowRankLinear, LowRankLSTM, low_rank_layers
from lrsms.onnx import fastest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lrsms[export]'")


def test_the_rule_takes_what_was_measured_once_for_each_shape(monkeypatch):
    measured = []

    def times(layer, shape, precision):
        measured.append((type(layer).__name__, shape, precision))
        return isinstance(layer, LowRankLinear)

    monkeypatch.setattr(fastest, "_is_faster_dense", times)
    model = nn.ModuleDict(
        {name: LowRankLinear(8, 8, rank=2) for name in ("a", "b")} | {"c": LowRankConv1d(8, 8, rank=2)}
    )
    layers = dict(low_rank_layers(model))
    rule = fastest.faster_dense(layers, dict.fromkeys(layers, (1, 5, 8)), "int8")
    assert measured == [("LowRankLinear", (1, 5, 8), "int8"), ("LowRankConv1d", (1, 5, 8), "int8")]
    assert lrsms.merge_(model, only=rule) == ["a", "b"]
    assert type(model["a"]) is nn.Linear and type(model["c"]) is LowRankConv1d


def test_an_lstm_is_always_dense():
    layers = {"rnn": LowRankLSTM(8, 8, rank=2, reader="out", reader_features=4)}
    assert fastest.faster_dense(layers, {}, "fp32")("rnn", layers["rnn"])


class Session:
    """Runs for a while of a clock that it moves itself; now and then much longer."""

    def __init__(self, clock: list[float], seconds: float):
        self.clock, self.seconds, self.runs = clock, seconds, 0

    def run(self, outputs, inputs):
        self.runs += 1
        self.clock[0] += self.seconds * (50 if self.runs % 7 == 3 else 1)


@pytest.mark.parametrize(("dense", "expected"), [(0.5e-4, True), (0.97e-4, False), (1e-4, False), (3e-4, False)])
def test_dense_must_be_clearly_faster_whatever_interrupts(monkeypatch, dense, expected):
    clock = [0.0]
    monkeypatch.setattr(fastest.time, "perf_counter", lambda: clock[0])
    assert fastest._second_is_faster([Session(clock, 1e-4), Session(clock, dense)], None) is expected


def test_every_layer_can_be_timed():
    for layer, shape in (
        (LowRankLinear(16, 16, rank=4), (1, 20, 16)),
        (LowRankConv1d(16, 16, rank=4), (1, 20, 16)),
        (LowRankConv2d(4, 6, (3, 3), rank=2, stride=2), (1, 4, 20, 20)),
        (LowRankEmbedding(30, 16, rank=4), (2, 5)),
    ):
        for precision in ("fp32", "int8"):
            assert fastest._is_faster_dense(layer, shape, precision) in (True, False)
