"""One decoded split: hand-counted tables, and what is refused."""

import pytest

from lrsms.bin import score
from lrsms.errors import LrsmsError
from lrsms.scoring.alignment import Counts
from lrsms.scoring.decoding import read_hypotheses, read_references, score_decoding


@pytest.fixture
def split(recipe):
    return recipe / "exp/lowrank/decode_asr/test", recipe / "data/test/cuts.jsonl.gz"


def test_totals_counted_by_hand(split):
    scores = score_decoding(*split)
    # 10 words: two->too substituted, one five inserted, six and nine deleted; every sentence has an error
    assert scores.wer.total == Counts(4, 10, 7, 1, 2, 1, 4)
    assert scores.wer.rate == pytest.approx(40.0)
    assert scores.wer.low <= 40.0 <= scores.wer.high
    # 13 + 9 + 3 + 21 characters; w->o, " five" inserted, "six" and "nine " deleted
    assert scores.cer.total == Counts(4, 46, 37, 1, 8, 5, 4)
    assert scores.missing == 0


def test_result_txt_has_a_line_per_speaker(split):
    score_decoding(*split)
    text = (split[0] / "score_wer/result.txt").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.count("|") == 4]
    rows = {name: f"{sizes} {rates}".split() for name, sizes, rates in cells}
    assert rows["SPKR"] == ["#", "Snt", "#", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    assert rows["spk1"] == ["2", "5", "80.0", "20.0", "0.0", "20.0", "40.0", "100.0"]
    assert rows["spk2"] == ["2", "5", "60.0", "0.0", "40.0", "0.0", "40.0", "100.0"]
    assert rows["Sum/Avg"] == ["4", "10", "70.0", "10.0", "20.0", "10.0", "40.0", "100.0"]


def test_per_utterance_table_is_aligned(split):
    score_decoding(*split)
    header, *lines = (split[0] / "score_wer/per_utterance.tsv").read_text().splitlines()
    rows = {line.split("\t")[0]: line.split("\t") for line in lines}
    assert header.split("\t") == ["id", "words", "errors", "ref", "hyp"]
    assert rows["spk2-u2"] == ["spk2-u2", "4", "1", "seven eight nine zero", "seven eight * zero"]
    assert rows["spk2-u1"] == ["spk2-u1", "1", "1", "six", "*"]
    assert len(lines) == 4


def test_missing_hypotheses_are_deletions_and_said(split):
    (split[0] / "text").write_text("spk1-u1 one two three\n")
    scores = score_decoding(*split)
    assert scores.wer.total == Counts(4, 10, 3, 0, 7, 0, 3)
    assert scores.missing == 3
    assert "3 utterances have no hypothesis" in (split[0] / "score_wer/result.txt").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody-u1 one\n", "nobody-u1"),
        ("spk1-u1 one\nspk1-u1 one\n", "occurs twice"),
        (b"spk1-u1 \xff\n", "not UTF-8"),
    ],
)
def test_malformed_hypotheses_are_refused(split, text, message):
    (split[0] / "text").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LrsmsError, match=message):
        score_decoding(*split)


def test_missing_files_are_named(split, tmp_path):
    with pytest.raises(LrsmsError, match="cuts.jsonl.gz is missing"):
        score_decoding(split[0], tmp_path / "nowhere/cuts.jsonl.gz")
    (split[0] / "text").unlink()
    with pytest.raises(LrsmsError, match="text is missing"):
        score_decoding(*split)


def test_unusual_line_separators_do_not_split_a_line(tmp_path):
    (tmp_path / "text").write_text("u1 one\x85two\nu2\n", encoding="utf-8")
    assert read_hypotheses(tmp_path / "text") == {"u1": "one\x85two", "u2": ""}


def test_references_must_be_usable(split, write_cuts):
    write_cuts(split[1], {"spk1-u1": ("spk1", "")})
    (split[0] / "text").write_text("spk1-u1 one\n")
    with pytest.raises(LrsmsError, match="every transcript is empty"):
        score_decoding(*split)


def test_a_kaldi_folder_holds_references_as_well(split, tmp_path):
    expected = score_decoding(*split)
    of_manifest = [(split[0] / name).read_text() for name in ("score_wer/result.txt", "score_cer/result.txt")]
    with pytest.raises(LrsmsError, match="text is missing"):
        score_decoding(split[0], tmp_path)
    references = read_references(split[1]).items()
    (tmp_path / "text").write_text("".join(f"{key} {one.text}\n" for key, one in references))
    (tmp_path / "utt2spk").write_text("".join(f"{key} {one.speaker}\n" for key, one in references))
    assert score_decoding(split[0], tmp_path) == expected
    assert [(split[0] / name).read_text() for name in ("score_wer/result.txt", "score_cer/result.txt")] == of_manifest


def test_one_split_is_scored_by_command(split, tmp_path, capsys, monkeypatch):
    (split[0] / "text").write_text("spk1-u1 one two three\n")
    monkeypatch.setattr("sys.argv", ["score", "--decoded", str(split[0]), "--references", str(split[1])])
    score.main()
    first, second, last = capsys.readouterr().out.splitlines()
    assert "WER 70.00 % [" in first and "7 errors in 10, 4 utterances" in first
    assert "CER" in second and "3 utterances have no hypothesis" in last
    monkeypatch.setattr("sys.argv", ["score", "--decoded", str(split[0])])
    with pytest.raises(SystemExit):
        score.main()
