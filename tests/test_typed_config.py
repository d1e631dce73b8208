"""YAML as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lrsms.errors import LrsmsError
from lrsms.typed_config import Count, Number, Positive, choice, from_yaml


@dataclass(frozen=True)
class Inner:
    size: Count = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    weight: Number = 0.5
    width: Positive | None = None
    kind: str | None = choice("a", ("a", "bcd", None))
    quick: bool = False


def test_a_file_with_a_block_in_it():
    content = {"inner": {"size": 3, "names": ["x", "y"]}, "weight": 2, "width": None, "kind": None, "quick": True}
    assert from_yaml(Outer, content, "x.yaml", ": ") == Outer(Inner(3, ("x", "y")), 2.0, None, None, True)
    assert from_yaml(Outer, {"inner": None}, "x.yaml") == from_yaml(Outer, {}, "x.yaml") == Outer()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.yaml: None is not a mapping with inner, weight, width, kind, quick"),
        ({"wieght": 1}, "x.yaml: unknown key 'wieght'; did you mean 'weight'?"),
        ({3: 1}, "x.yaml: unknown key 3; it takes: inner, weight, width, kind, quick"),
        ({"inner": {"sise": 1}}, "x.yaml: inner: unknown key 'sise'; did you mean 'size'?"),
        ({"inner": {"size": 0}}, "x.yaml: inner.size: 0: expected a whole number of at least 1"),
        ({"inner": {"size": 2.0}}, "x.yaml: inner.size: 2.0: expected a whole number of at least 1"),
        ({"inner": {"size": True}}, "x.yaml: inner.size: True: expected a whole number of at least 1"),
        ({"inner": {"names": ["x", 1]}}, "x.yaml: inner.names: ['x', 1]: expected a list, each text"),
        ({"inner": 3}, "x.yaml: inner: 3: expected a mapping with size, names, or null"),
        ({"weight": float("nan")}, "x.yaml: weight: nan: expected a number of at least 0"),
        ({"weight": float("inf")}, "x.yaml: weight: inf: expected a number of at least 0"),
        (
            {"weight": "1e-3"},
            "x.yaml: weight: '1e-3': expected a number of at least 0; YAML reads it as text: write 0.001",
        ),
        ({"width": 0}, "x.yaml: width: 0: expected a number above 0, or null"),
        ({"kind": "bcde"}, "x.yaml: kind: 'bcde' is unknown; one of a, bcd, null; did you mean 'bcd'?"),
        ({"kind": ["a"]}, "x.yaml: kind: ['a'] is unknown; one of a, bcd, null"),
        ({"quick": 1}, "x.yaml: quick: 1: expected true or false"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_value_and_what_is_right(content, message):
    with pytest.raises(LrsmsError) as caught:
        from_yaml(Outer, content, "x.yaml", ": ")
    assert str(caught.value) == message
