"""Errors counted while ESPnet trains."""

import importlib.util
import sys

import pytest
import torch

from lrsms.espnet.training.edit_distance import count_edits, provide_editdistance


def test_errors_are_counted_as_by_editdistance():
    pairs = {("kitten", "sitting"): 3, ("", "abc"): 3, ("", ""): 0, ("flaw", "lawn"): 2, ("a b", "a  b"): 1}
    for (first, second), count in pairs.items():
        assert count_edits(first, second) == count_edits(second, first) == count
        assert count_edits(list(first), list(second)) == count
    assert count_edits([1, 2, 3], [1, 3]) == count_edits(["one", "two"], ["two"]) == 1


def test_errors_counted_are_editdistances_own():
    editdistance = pytest.importorskip("editdistance")
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        first, second = (
            "".join("abc "[number] for number in torch.randint(4, (int(torch.randint(12, (1,), generator=generator)),)))
            for _ in range(2)
        )
        assert count_edits(first, second) == editdistance.eval(first, second)
        assert count_edits(first.split(), second.split()) == editdistance.eval(first.split(), second.split())


def test_espnets_error_rates_need_no_further_package(monkeypatch):
    """202611 does not require editdistance, which has no wheel for Python 3.13."""
    monkeypatch.delitem(sys.modules, "editdistance", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "editdistance", None)
        patch.delitem(sys.modules, "editdistance")
        provide_editdistance()
        from espnet2.asr.espnet_model import ErrorCalculator

        calculator = ErrorCalculator(["<blank>", "a", "b", "<space>"], "<space>", "<blank>", True, True)
        assert calculator(torch.tensor([[1, 3, 2]]), torch.tensor([[1, 3, 1]])) == (0.5, 0.5)
