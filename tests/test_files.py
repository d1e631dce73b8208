"""Files that are whole or absent."""

import json
from contextlib import ExitStack

import numpy as np
import pytest

from lrsms import stamp
from lrsms.files import atomic_write, json_text, write_json, write_text


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends_and_nothing_else_stays(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old" and unfinished.name == "x.txt"
    assert path.read_text() == "new" and names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["x.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "x.png").write_text("old")  # OpenCV says by its return value alone that it could not write
    with pytest.raises(OSError, match=r"x\.png"), atomic_write(tmp_path / "x.png"):
        pass
    assert (tmp_path / "x.png").read_text() == "old"


def test_files_that_belong_together_take_their_places_together(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(ValueError, match="b is bad"), ExitStack() as stack:
        stack.enter_context(atomic_write(tmp_path / "a")).write_text("new")
        stack.enter_context(atomic_write(tmp_path / "b")).write_text("new")
        raise ValueError("b is bad")
    assert {(tmp_path / name).read_text() for name in ("a", "b")} == {"old"} and names(tmp_path) == ["a", "b"]


def test_two_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x.npz"
    with atomic_write(path) as first:
        np.savez(first, value=1)
        with atomic_write(path) as second:
            np.savez(second, value=2)
        assert np.load(path)["value"] == 2 and np.load(first)["value"] == 1
    assert np.load(path)["value"] == 1 and names(tmp_path) == ["x.npz"]


def test_text_and_json_are_utf8(tmp_path):
    write_text(tmp_path / "x.txt", "é\n")
    write_json(tmp_path / "x.json", {"a": ["é", None]})
    assert (tmp_path / "x.txt").read_bytes() == "é\n".encode()
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{"a": ["é", null]}\n'


@pytest.mark.parametrize(
    "content",
    [
        *({}, [], "é", None, 3, {"a": {}}, [[], {}], float("inf")),
        {"numbers": [index / 7 for index in range(60)], "row": {"name": "a", "values": [1, None, True]}},
        {str(index): {"wer": index / 3, "words": ["x" * 30] * 6} for index in range(5)},
        {1: "one", None: 2, False: 3, "words" * 40: "x" * 200},
        [{"nested": [{"again": list(range(100))}]}, "x" * 300],
    ],
)
def test_json_is_short_and_the_same_values(content):
    text = json_text(content)
    assert json.dumps(json.loads(text)) == json.dumps(json.loads(json.dumps(content)))
    assert all(len(line) <= 120 or '"xxx' in line for line in text.splitlines())
    assert ",  " not in text and not any(line.endswith(" ") for line in text.splitlines())


def test_json_has_a_line_for_each_row_and_fills_lines_with_numbers():
    rows = [{"name": name, "wer": 1.5, "curve": list(range(10))} for name in ("dense", "low_rank", "lower_rank")]
    assert json_text({"results": rows, "seeds": list(range(60))}).splitlines() == [
        "{",
        ' "results": [',
        *(f"  {json.dumps(row)}{',' * (row is not rows[-1])}" for row in rows),
        " ],",
        ' "seeds": [',
        f"  {', '.join(map(str, range(32)))},",
        f"  {', '.join(map(str, range(32, 60)))}",
        " ]",
        "}",
    ]


def test_a_stamp_whose_writing_fails_stays_the_one_before(tmp_path, monkeypatch):
    stamp.write(tmp_path / "stamp", {"seed": 0}, [])
    monkeypatch.setattr("pathlib.Path.write_text", fails_half_way)
    with pytest.raises(OSError, match="disk full"):
        stamp.write(tmp_path / "stamp", {"seed": 1}, [])
    assert json.loads((tmp_path / "stamp").read_text())["arguments"] == {"seed": "0"}


def fails_half_way(path, text, **_):
    path.write_bytes(text[:5].encode())
    raise OSError("disk full")
