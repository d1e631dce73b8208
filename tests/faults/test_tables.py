"""Tables of others: Kaldi's, and texts with marks and line ends of every kind."""

import contextlib
import re
import shutil
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from lhotse import RecordingSet, SupervisionSet

from lrsms.data.corpora.grid import read_alignment
from lrsms.data.corpora.lrs3 import read_transcript
from lrsms.data.corpora.own_data import prepare_own_data
from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import read_excluded
from lrsms.data.kaldi import import_kaldi
from lrsms.data.manifests import read_table
from lrsms.errors import LrsmsError
from lrsms.fsa.ngram import read_arpa
from lrsms.scoring.decoding import read_hypotheses, read_references
from lrsms.text_files import read_lines, split_words

LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # of str.splitlines, and no line ends of a text file
TABLES = [
    # what is in the file, what is read of it or said about it
    (b"a ONE\nb TWO\n", {"a": "ONE", "b": "TWO"}),
    (b"a ONE\r\nb TWO\r\n", {"a": "ONE", "b": "TWO"}),
    (b"a ONE\n\n \nb TWO", {"a": "ONE", "b": "TWO"}),
    (b"a\nb \n", {"a": "", "b": ""}),
    (b"a\tONE  TWO \n", {"a": "ONE  TWO"}),
    (b"\xef\xbb\xbfa ONE\nb TWO\n", {"a": "ONE", "b": "TWO"}),
    (b"\xef\xbb\xbfa ONE\n\xef\xbb\xbfb TWO\n", {"a": "ONE", "b": "TWO"}),  # two files joined by cat
    (b"a ONE\rTWO\nb TWO\n", {"a": "ONE\rTWO", "b": "TWO"}),
    ("a\u00a0b ONE\u00a0TWO\n".encode(), {"a\u00a0b": "ONE\u00a0TWO"}),
    *[(f"a ONE{end}TWO\nb TWO\n".encode(), {"a": f"ONE{end}TWO", "b": "TWO"}) for end in LINE_ENDS],
    (b"", "empty; expected lines of an id and its value"),
    (b"\n\n", "empty; expected"),
    (b"\xef\xbb\xbf", "empty; expected"),
    (b"a ONE\na TWO\n", "1 duplicate ids, such as a"),
    (b"a \xfcBER\n", "not UTF-8 text"),
    ("a ONE\n".encode("utf-16"), "not UTF-8 text"),
    ("a ONE\n".encode("utf-16-le"), "line 1 holds a NUL; is it UTF-16?"),
    (b"a ONE\nb T\0WO\n", "line 2 holds a NUL"),
    (b"a ONE\rb TWO\r", "its lines end with carriage returns alone"),
]


@pytest.mark.parametrize(("content", "expected"), TABLES)
def test_a_table_is_read_as_kaldi_reads_it(content, expected, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(LrsmsError, match=rf"text: .*{re.escape(expected)}"):
            read_table(path)
    else:
        assert read_table(path) == expected


def test_a_table_that_is_a_folder_or_missing_is_named(tmp_path):
    with pytest.raises(LrsmsError, match=r"gone: no such file"):
        read_table(tmp_path / "gone")
    with pytest.raises(LrsmsError, match=f"{tmp_path}: cannot be read: Is a directory"):
        read_table(tmp_path)


def test_hypotheses_and_references_keep_their_line_separators(tmp_path):
    (tmp_path / "text").write_bytes("\ufeffa ONE\u2028TWO\nb THREE\n".encode())
    (tmp_path / "utt2spk").write_bytes("\ufeffa s\nb s\n".encode())
    assert read_hypotheses(tmp_path / "text") == {"a": "ONE\u2028TWO", "b": "THREE"}
    assert {name: reference.speaker for name, reference in read_references(tmp_path).items()} == {"a": "s", "b": "s"}


def test_texts_of_corpora_and_language_models_keep_theirs(tmp_path):
    (tmp_path / "a.txt").write_text(
        "\ufeffText:  HE\u2028LLO THERE\n\nWORD START END ASDSCORE\nHE\u2028LLO 0.1 0.5 1\n"
    )
    (tmp_path / "a.align").write_text("\ufeff0 100 sil\n100 200 b\u2028in\n", encoding="utf-8")
    (tmp_path / "a.arpa").write_text(
        "\\data\\\nngram 1=3\n\n\\1-grams:\n-0.5 <s>\n-0.5 </s>\n-0.5 A\u2028B\n\n\\end\\\n", encoding="utf-8"
    )
    assert read_transcript(tmp_path / "a.txt").text == "HE LLO THERE"
    assert read_alignment(tmp_path / "a.align") == "B\u2028IN"
    assert ("A\u2028B",) in read_arpa(tmp_path / "a.arpa").log10


RATE = 8000


@pytest.fixture(scope="module")
def kaldi_dir(tmp_path_factory):
    """``train``, ``dev`` and ``test`` of two recordings of 2 s."""
    folder = tmp_path_factory.mktemp("kaldi")
    for split in ("train", "dev", "test"):
        (folder / split).mkdir()
        names = [f"{split}_{number}" for number in range(2)]
        for name in names:
            soundfile.write(folder / split / f"{name}.wav", 0.1 * np.sin(np.arange(2 * RATE) / 5), RATE)
        rows = {
            "wav.scp": [f"{name} {folder / split / name}.wav" for name in names],
            "text": [f"{name} YES NO" for name in names],
            "utt2spk": [f"{name} {split}" for name in names],
        }
        for table, lines in rows.items():
            (folder / split / table).write_text("".join(f"{line}\n" for line in lines))
    return folder


SEGMENTS = [
    # start and end of test_0's segment, what comes of it: seconds of the cut, a reason, or what is said
    ("0 1.5", 1.5),
    ("0 -1", 2.0),
    ("0.5 -1.0", 1.5),
    ("0 2.0", 2.0),
    ("0 2.3", 2.0),
    ("1.5 2.49", 0.5),
    ("0 2.5", "outside_recording"),
    ("0 3.0", "outside_recording"),
    ("2.0 2.2", "outside_recording"),
    ("1.0 1.0", "outside_recording"),
    ("1.5 0.5", "outside_recording"),
    ("1.5 -2", "outside_recording"),
    ("-0.5 1.0", "outside_recording"),
    ("-1 -1", "outside_recording"),
    ("nan 1.0", "expected utterance, recording, start and end in seconds, both finite"),
    ("0 nan", "both finite"),
    ("0 inf", "both finite"),
    ("-inf 1.0", "both finite"),
    ("0 1e999", "both finite"),
    ("0 1_0", "both finite"),
    ("0 \u0661", "both finite"),
    ("0 0x1", "both finite"),
    ("0 one", "both finite"),
    ("0", "both finite"),
    ("0 1 2 3", "both finite"),
]


@pytest.mark.parametrize(("times", "expected"), SEGMENTS)
def test_a_segment_is_cut_as_kaldi_cuts_it(times, expected, kaldi_dir, tmp_path, capsys):
    folder = tmp_path / "kaldi"
    shutil.copytree(kaldi_dir, folder)
    for split in ("train", "dev", "test"):
        given = times if split == "test" else "0 1"
        (folder / split / "segments").write_text(f"{split}_0 {split}_0 {given}\n{split}_1 {split}_1 0 1.0\n")
    if isinstance(expected, str) and expected != "outside_recording":
        with pytest.raises(LrsmsError, match=rf"test/segments: test_0 test_0 {re.escape(times)}: .*{expected}"):
            prepare_own_data(tmp_path / "data", kaldi_dir=folder)
        return
    prepare_own_data(tmp_path / "data", kaldi_dir=folder)
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    from lhotse import CutSet

    cuts = {cut.id: cut for cut in CutSet.from_file(tmp_path / "data/test/cuts.jsonl.gz")}
    assert "test_1" in cuts
    if isinstance(expected, float):
        assert cuts["test_0"].duration == pytest.approx(expected, abs=1e-6)
        said = "test: 1 utterances are shortened" in capsys.readouterr().out
        assert said == (times.split()[1] in ("2.3", "2.49"))
    else:
        listed = {row.id: row.reason for row in read_excluded(tmp_path / "data/test/excluded.tsv")}
        assert listed == {"test_0": expected} and "test_0" not in cuts


def test_what_is_shared_by_train_and_test_is_said(kaldi_dir, tmp_path, capsys):
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    assert "also in train" not in capsys.readouterr().out
    folder = tmp_path / "kaldi"
    shutil.copytree(kaldi_dir, folder)
    for table in ("text", "utt2spk", "wav.scp"):
        content = (folder / "test" / table).read_text()
        (folder / "test" / table).write_text(content.replace("test_0 ", "train_0 ").replace(" test\n", " train\n"))
    wav = folder / "test" / "wav.scp"
    wav.write_text(wav.read_text().replace("test/test_1", "train/train_1"))
    prepare_own_data(tmp_path / "data", kaldi_dir=folder)
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    out = capsys.readouterr().out
    assert "test: 1 of 2 utterance ids are also in train, such as train_0; error rates mean nothing" in out
    assert "test: 1 of 1 speakers are also in train, train; error rates are those of voices heard in training" in out
    assert re.search(r"test: 1 of 2 sound files are also in train, such as .*train_1.wav", out)
    assert "dev: " not in "".join(line for line in out.splitlines() if "also in" in line)


ids = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs", "Z", "Cc"]), min_size=1).filter(
    lambda name: not name.startswith("\ufeff")
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0")).map(
    lambda text: text.strip(" \t\v\f")
)


@given(table=st.dictionaries(ids, texts, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]),
                  mark=st.booleans())  # fmt: skip
def test_every_transcript_comes_back(table, end, mark, tmp_path):
    lines = "".join(f"{name} {text}{end}" for name, text in table.items())
    (tmp_path / "text").write_bytes(("\ufeff" * mark + lines).encode())
    assert read_table(tmp_path / "text") == table


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_sentence(content, tmp_path):
    (tmp_path / "text").write_bytes(content)
    for read in (read_table, read_hypotheses, read_lines):
        with contextlib.suppress(LrsmsError):
            read(tmp_path / "text")


any_line = st.lists(
    st.one_of(st.sampled_from(["test_0", "test_1", "0", "1", "-1", "nan", "2.1", "\u2028", "\ufeff", "|", "touch x |"]),
              st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=6,
).map(" ".join)  # fmt: skip


@given(
    table=st.sampled_from(["wav.scp", "text", "utt2spk", "segments"]),
    lines=st.lists(any_line, max_size=4),
    keep=st.booleans(),
)
def test_any_line_in_a_kaldi_folder_gives_manifests_or_a_sentence(table, lines, keep, kaldi_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any") / "test"
    shutil.copytree(kaldi_dir / "test", folder)
    path = folder / table
    before = path.read_text() if keep and path.exists() else ""
    path.write_bytes((before + "".join(f"{line}\n" for line in lines)).encode())
    data = folder.parent / "data" / "test"
    began = time.monotonic()
    try:
        import_kaldi(folder, data)
        build_cuts(data.parent, train_splits=[], eval_splits=["test"])
    except LrsmsError:
        return
    finally:
        assert time.monotonic() - began < 10
    recordings = RecordingSet.from_file(data / "recordings.jsonl.gz")
    supervisions = SupervisionSet.from_file(data / "supervisions.jsonl.gz")
    named = {split_words(line)[0] for line in read_lines(folder / "text") if split_words(line)}
    listed = {row.id for row in read_excluded(data / "excluded.tsv")}
    # Nothing of the transcripts is lost without a row, of whatever line of whatever table.
    assert {item.id for item in supervisions} | listed >= {" ".join(name.split()) for name in named}
    assert {item.recording_id for item in supervisions} <= {item.id for item in recordings}
