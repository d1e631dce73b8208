"""What an exception of ESPnet's or torch's says about a configuration, in one sentence."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType

_LONGEST = 300  # characters of a message that is passed on


def reason(error: BaseException) -> str:
    """The exception's kind and text; of an assertion without text, what it asserts and the values that it looks at."""
    text = " ".join(str(error).split())
    if isinstance(error, AssertionError) and error.__traceback__ is not None and (not text or " " not in text):
        text = _assertion(error.__traceback__) or text
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def part_of(error: BaseException, parts: Mapping[str, type]) -> str | None:
    """Which of the classes ``parts`` was being built or run as the exception was raised; None if none was."""
    for frame in _frames(error.__traceback__):
        owner = frame.f_locals.get("self")
        for name, cls in parts.items():
            if isinstance(cls, type) and isinstance(owner, cls):
                return name
    return None


def option_of(error: BaseException, options: Mapping) -> str | None:
    """Which of ``options`` the exception's text names, or holds the value of; None if that is not one alone."""
    text = str(error)
    named = [option for option in options if _stands_in(str(option), text)]
    valued = [
        option
        for option, value in options.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool) and _stands_in(str(value), text)
    ]
    return next((found[0] for found in (named, valued) if len(found) == 1), None)


def _stands_in(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.])", text) is not None


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _assertion(trace: TracebackType) -> str:
    """``assert n_feat % h == 0, with n_feat = 16, h = 3``."""
    line = (traceback.extract_tb(trace)[-1].line or "").strip()
    try:
        test = next(node.test for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Assert))
    except (SyntaxError, StopIteration):
        return line
    names = dict.fromkeys(node.id for node in ast.walk(test) if isinstance(node, ast.Name))
    found = list(_frames(trace))[-1].f_locals
    values = [f"{name} = {found[name]!r}" for name in names if isinstance(found.get(name), int | float | str)]
    said = f"{ast.unparse(test)} does not hold"
    return f"{said}, with {', '.join(values)}" if values else said
