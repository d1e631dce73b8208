"""Manifests as compressed JSON lines."""

import gzip

from lhotse.serialization import load_jsonl, save_to_jsonl

from lrsms.data.jsonl import atomic_jsonl, write_jsonl

ITEMS = [{"id": "a", "text": "naïve ▁"}, {"id": "b", "duration": 0.1, "sources": [{"channels": [0]}]}]


def test_lhotse_reads_the_lines_that_it_would_have_written(tmp_path):
    ours, theirs = tmp_path / "ours.jsonl.gz", tmp_path / "theirs.jsonl.gz"
    assert write_jsonl(ours, iter(ITEMS)) == 2
    save_to_jsonl(ITEMS, theirs)
    assert gzip.decompress(ours.read_bytes()) == gzip.decompress(theirs.read_bytes())
    assert list(load_jsonl(ours)) == ITEMS


def test_the_same_content_is_the_same_bytes(tmp_path):
    one, other = tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"
    for path in (one, other):
        write_jsonl(path, ITEMS)
    packed = one.read_bytes()
    assert packed == other.read_bytes()
    assert packed[3] == 0 and packed[4:8] == bytes(4)  # RFC 1952: no name, and no time


def test_a_file_of_the_same_lines_stays_as_it_is(tmp_path):
    final = tmp_path / "final.jsonl.gz"
    save_to_jsonl(ITEMS, final)  # with a name and a time, as earlier versions have
    before = final.read_bytes()
    with atomic_jsonl(final) as new:
        write_jsonl(new, ITEMS)
    assert final.read_bytes() == before and not new.exists()


def test_any_other_file_is_replaced(tmp_path):
    final = tmp_path / "final.jsonl.gz"
    for before in (None, b"", b"damaged", gzip.compress(b"{}\n")):
        if before is not None:
            final.write_bytes(before)
        with atomic_jsonl(final) as new:
            write_jsonl(new, ITEMS)
        assert list(load_jsonl(final)) == ITEMS and not new.exists()
    with atomic_jsonl(final) as new:
        write_jsonl(new, ITEMS[:1])  # what was there and less
    assert list(load_jsonl(final)) == ITEMS[:1]
