"""YAML as dataclasses: msgspec checks each value against the type that the dataclass gives its key.

A dataclass says with the types below, and with :func:`choice`, what its keys take; what concerns several keys at once
it checks itself.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from lrsms.errors import LrsmsError, number_hint, refuse_unknown

_LARGEST = sys.float_info.max  # infinity is no number here, and msgspec refuses NaN wherever there is a bound

WholeNumber = Annotated[int, Meta(ge=0, description="a whole number of at least 0")]
Count = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
Number = Annotated[float, Meta(ge=0, le=_LARGEST, description="a number of at least 0")]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST, description="a number above 0")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Times = Annotated[float, Meta(gt=1, le=_LARGEST, description="how many times smaller, a number above 1")]

_PLAIN = {bool: "true or false", str: "text", float: "a number", int: "a whole number", type(None): "null"}
_Config = TypeVar("_Config")


def choice(default: Any, allowed: Iterable) -> Any:
    """A dataclass's field that takes one of ``allowed``, None being YAML's null."""
    return field(default=default, metadata={"allowed": tuple(allowed)})


def from_yaml(cls: type[_Config], content: object, where: str, separator: str = ".") -> _Config:
    """Make the dataclass ``cls`` of a block of YAML.

    Args:
        content: the block.
        where: file and block, for messages.
        separator: what messages write between ``where`` and a key: ": " after a file, "." after a block.

    Raises:
        LrsmsError: an unknown key, with the nearest that is known, or a value that its key does not take.
    """
    known = {known_field.name: known_field for known_field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise LrsmsError(f"{where}: {content!r} is not a mapping with {', '.join(known)}")
    refuse_unknown(content, known, where)
    types = get_type_hints(cls, include_extras=True)
    return cls(
        **{key: _checked(value, types[key], known[key], f"{where}{separator}{key}") for key, value in content.items()}
    )


def _checked(value: object, kind: Any, described: Field, where: str) -> Any:
    allowed = described.metadata.get("allowed")
    if allowed is not None:
        return _chosen(value, allowed, where)
    block = next((alternative for alternative in (kind, *get_args(kind)) if is_dataclass(alternative)), None)
    if isinstance(value, Mapping) and isinstance(block, type):
        return from_yaml(block, value, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise LrsmsError(f"{where}: {value!r}: expected {expected(kind)}{number_hint(value)}") from None


def _chosen(value: object, allowed: tuple, where: str) -> Any:
    if value in allowed and not isinstance(value, bool):
        return value
    names = ["null" if name is None else name for name in allowed]
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise LrsmsError(f"{where}: {value!r} is unknown; one of {', '.join(names)}{hint}")


def expected(kind: Any) -> str:
    """What a type takes, in words."""
    if get_origin(kind) is Annotated:
        return [part.description for part in kind.__metadata__ if isinstance(part, Meta)][-1]
    if get_origin(kind) is tuple:
        return f"a list, each {expected(get_args(kind)[0])}"
    if is_dataclass(kind):
        return f"a mapping with {', '.join(known_field.name for known_field in fields(kind))}"
    return _PLAIN[kind] if kind in _PLAIN else ", or ".join(map(expected, get_args(kind)))
