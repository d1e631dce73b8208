import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from lrsms import stamp


def test_same_arguments_and_contents_are_current(tmp_path):
    source, mark = tmp_path / "in.txt", tmp_path / "out" / "stamp.json"
    source.write_text("one")
    assert not stamp.is_current(mark, {"seed": 0}, [source])
    stamp.write(mark, {"seed": 0}, [source])
    assert stamp.is_current(mark, {"seed": 0}, [source])
    source.write_text("one")  # a new time, the same content
    assert stamp.is_current(mark, {"seed": 0}, [source])


def test_changed_argument_content_or_presence_is_not_current(tmp_path):
    source, mark = tmp_path / "in.txt", tmp_path / "stamp.json"
    source.write_text("one")
    stamp.write(mark, {"seed": 0}, [source])
    assert not stamp.is_current(mark, {"seed": 1}, [source])
    assert not stamp.is_current(mark, {"seed": 0}, [source, tmp_path / "other.txt"])
    source.write_text("two")
    assert not stamp.is_current(mark, {"seed": 0}, [source])
    source.unlink()
    assert not stamp.is_current(mark, {"seed": 0}, [source])


def test_folder_is_known_by_its_file_names(tmp_path):
    folder, mark = tmp_path / "corpus", tmp_path / "stamp.json"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"x" * 100)
    stamp.write(mark, {}, [folder])
    (folder / "b.wav").write_bytes(b"x")
    assert not stamp.is_current(mark, {}, [folder])


def test_a_gz_is_known_by_what_it_holds(tmp_path):
    source, mark = tmp_path / "cuts.jsonl.gz", tmp_path / "stamp.json"
    write_gz(source, b"one", mtime=1)
    stamp.write(mark, {}, [source])
    write_gz(source, b"one", mtime=2)
    assert stamp.is_current(mark, {}, [source])
    write_gz(source, b"two", mtime=1)
    assert not stamp.is_current(mark, {}, [source])
    source.write_bytes(source.read_bytes()[:-6])  # cut short
    assert not stamp.is_current(mark, {}, [source])


def test_a_large_file_is_known_by_its_content(tmp_path):
    source, mark = tmp_path / "model.pth", tmp_path / "stamp.json"
    source.write_bytes(b"x" * (5 << 20))
    stamp.write(mark, {}, [source])
    os.utime(source, (0, 0))  # copied from elsewhere
    assert stamp.is_current(mark, {}, [source])
    source.write_bytes(b"x" * (5 << 20) + b"y")
    assert not stamp.is_current(mark, {}, [source])


def test_stamps_of_earlier_versions_hold(tmp_path):
    """They have the hash of a file as it is on the disk, and above 4 MiB its size and time."""
    packed, large, mark = tmp_path / "cuts.jsonl.gz", tmp_path / "model.pth", tmp_path / "stamp.json"
    write_gz(packed, b"one", mtime=1)
    large.write_bytes(b"x" * (5 << 20))
    old = {
        str(packed): hashlib.sha256(packed.read_bytes()).hexdigest(),
        str(large): f"{5 << 20} bytes at {large.stat().st_mtime_ns}",
    }
    mark.write_text(json.dumps({"arguments": {"seed": "0"}, "inputs": old}))
    assert stamp.is_current(mark, {"seed": 0}, [packed, large])
    assert not stamp.is_current(mark, {"seed": 1}, [packed, large])
    assert not stamp.is_current(mark, {"seed": 0}, [packed])
    write_gz(packed, b"two", mtime=1)
    assert not stamp.is_current(mark, {"seed": 0}, [packed, large])
    write_gz(packed, b"one", mtime=1)
    large.write_bytes(b"x" * (6 << 20))
    assert not stamp.is_current(mark, {"seed": 0}, [packed, large])


def write_gz(path: Path, content: bytes, mtime: int) -> None:
    path.write_bytes(gzip.compress(content, mtime=mtime))


@pytest.mark.parametrize("content", ["{half", "[]", '{"arguments": {}}', '{"arguments": {}, "inputs": []}'])
def test_damaged_stamp_is_not_current(tmp_path, content):
    mark = tmp_path / "stamp.json"
    mark.write_text(content)
    assert not stamp.is_current(mark, {}, [])


def test_the_order_of_an_arguments_keys_does_not_count(tmp_path):
    stamp.write(tmp_path / "stamp.json", {"config": {"a": {"b": 1, "c": [1, 2]}, "d": None}, "seed": 0}, [])
    same = {"config": {"d": None, "a": {"c": [1, 2], "b": 1}}, "seed": 0}
    assert stamp.is_current(tmp_path / "stamp.json", same, [])
    for config in ({"a": {"b": 1, "c": [2, 1]}, "d": None}, {"a": {"b": 1.0, "c": [1, 2]}, "d": None}):
        assert not stamp.is_current(tmp_path / "stamp.json", same | {"config": config}, [])
