"""ONNX files: written whole, smaller in int8, opened with errors that help."""

import sys

import pytest
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.onnx import files

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lrsms[export]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'lrsms[export]'")


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """An exported ``nn.Linear(64, 32)`` and the layer."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).eval()
    path = tmp_path_factory.mktemp("linear") / "linear.onnx"
    names = {"inputs": ["x"], "outputs": ["y"], "dynamic": {"x": {0: "batch", 1: "frames"}}}
    files.write_graph(layer, (torch.randn(1, 7, 64),), path, **names)
    return path, layer


def test_a_graph_takes_other_sizes_than_the_traced_one(linear):
    path, layer = linear
    x = torch.randn(3, 11, 64)
    (found,) = files.open_session(path).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), layer(x).detach(), rtol=1e-5, atol=1e-5)
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # nothing half-written is left


def test_int8_is_smaller_and_close(linear, tmp_path):
    path, layer = linear
    files.quantize(path, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * path.stat().st_size
    x = torch.randn(1, 50, 64)
    (found,) = files.open_session(tmp_path / "int8.onnx").run(None, {"x": x.numpy()})
    difference = (torch.from_numpy(found) - layer(x).detach()).abs().max()
    assert 0 < difference < 0.05


def test_metadata_is_read_back(linear):
    path, _ = linear
    files.add_metadata(path, {"model_type": "linear", "vocab_size": 32})
    assert files.read_metadata(path) == {"model_type": "linear", "vocab_size": "32"}


def test_a_missing_and_a_damaged_file_are_told_apart(linear, tmp_path):
    with pytest.raises(LrsmsError, match="no such file; export first"):
        files.open_session(tmp_path / "none.onnx")
    (tmp_path / "half.onnx").write_bytes(linear[0].read_bytes()[:300])
    with pytest.raises(LrsmsError, match="half.onnx: onnxruntime cannot open it"):
        files.open_session(tmp_path / "half.onnx")


def test_a_package_that_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    with pytest.raises(LrsmsError, match=r"sherpa-onnx is not installed: run pip install 'lrsms\[export\]'"):
        files.optional("sherpa_onnx")
