import json

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


def test_folder_is_known_by_its_file_names_and_large_files_by_size_and_time(tmp_path, monkeypatch):
    folder, mark = tmp_path / "corpus", tmp_path / "stamp.json"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"x" * 100)
    stamp.write(mark, {}, [folder])
    (folder / "b.wav").write_bytes(b"x")
    assert not stamp.is_current(mark, {}, [folder])

    monkeypatch.setattr(stamp, "_HASH_LIMIT", 10)
    stamp.write(mark, {}, [folder / "a.wav"])
    assert "bytes at" in json.loads(mark.read_text())["inputs"][str(folder / "a.wav")]
    assert stamp.is_current(mark, {}, [folder / "a.wav"])
    (folder / "a.wav").write_bytes(b"x" * 101)
    assert not stamp.is_current(mark, {}, [folder / "a.wav"])


def test_damaged_stamp_is_not_current(tmp_path):
    mark = tmp_path / "stamp.json"
    mark.write_text("{half")
    assert not stamp.is_current(mark, {}, [])
