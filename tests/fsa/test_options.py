"""What may be chosen about decoding with k2, and what is said where k2 is missing."""

import sys

import pytest

from lrsms.errors import LrsmsError
from lrsms.fsa import import_k2
from lrsms.fsa.options import METHODS, K2Options, check_method


def test_defaults_and_a_block():
    assert K2Options.parse(None) == K2Options()
    options = K2Options.parse({"lm_scale": 0, "num_paths": 7, "arpa": "lm.arpa"})
    assert (options.lm_scale, options.num_paths, options.arpa) == (0, 7, "lm.arpa")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"lm_scales": 1}, r"x: k2: unknown key 'lm_scales'; did you mean 'lm_scale'\?"),
        ({"lm_scale": "high"}, r"x: k2.lm_scale: 'high': expected a number of at least 0"),
        ({"lm_scale": True}, "k2.lm_scale: True"),
        ({"search_beam": 0}, "k2.search_beam: 0: expected a number above 0"),
        ({"num_paths": 2.5}, "k2.num_paths: 2.5: expected a whole number of at least 1"),
        ({"ngram_order": 0}, "k2.ngram_order: 0: expected a whole number"),
        ({"ngram_order": 12}, "k2.ngram_order: 12: expected a whole number from 1 to 9"),
        ({"min_active": 30, "max_active": 20}, "k2.min_active: 30: above max_active, 20"),
        ({"lm_weight": 0, "ctc_weight": 0, "attention_weight": 0}, "nothing would be scored"),
        ({"arpa": 3}, "k2.arpa: 3: expected the path"),
        ([1], r"x: k2: \[1\] is not a mapping"),
    ],
)
def test_bad_options_are_named(block, message):
    with pytest.raises(LrsmsError, match=message):
        K2Options.parse(block, "x: k2")


def test_methods():
    assert [check_method(method) for method in METHODS] == list(METHODS)
    with pytest.raises(LrsmsError, match=r"decode_method: 'k2_htg': expected one of ctc_attention, .*did you mean k2_"):
        check_method("k2_htg")


def test_a_missing_k2_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", None)
    with pytest.raises(LrsmsError) as caught:
        import_k2("--decode-method k2_hlg")
    assert str(caught.value) == (
        "--decode-method k2_hlg needs k2, which is not installed: docs/k2.md says how to build it"
    )


def test_a_k2_that_does_not_fit_is_told_with_its_reason(monkeypatch, tmp_path):
    (tmp_path / "k2").mkdir()
    (tmp_path / "k2/__init__.py").write_text("raise ImportError('k2 was built using PyTorch 1.13\\nBut you use 2')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "k2", raising=False)
    with pytest.raises(LrsmsError, match=r"cannot be imported here \(k2 was built using PyTorch 1.13 But you"):
        import_k2("x")
    (tmp_path / "k2/__init__.py").write_text("import _k2_of_another_python")
    with pytest.raises(LrsmsError, match="installed without its _k2_of_another_python"):
        import_k2("x")
