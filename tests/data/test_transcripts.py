"""Pieces to one text, and its three forms."""

import json

import pytest

from lrsms.data.transcripts import Segment, Transcript, Word, join_overlapping


def said(text: str, start: float, each: float = 0.5, end: float | None = None) -> Segment:
    """A segment of words that follow each other, each of them 0.4 s long."""
    words = tuple(Word(word, start + i * each, start + i * each + 0.4) for i, word in enumerate(text.split()))
    return Segment(text, start, end if end is not None else start + len(words) * each, words)


def test_a_word_that_both_pieces_have_at_one_time_joins_them():
    left, right = said("one two three four fi", 0), said("hree four five six", 1.05)
    joined = join_overlapping(left, right)
    assert joined.text == "one two three four five six"
    assert (joined.start, joined.end) == (left.start, right.end)
    assert [word.start for word in joined.words] == sorted(word.start for word in joined.words)


def test_the_same_word_at_another_time_joins_nothing():
    left, right = said("a a a a", 0), said("b a a a", 1.0)
    assert join_overlapping(left, right).text.split().count("a") >= 4


def test_without_a_common_word_the_middle_decides():
    left = Segment("one two x", 0, 3, (Word("one", 0, 1), Word("two", 1, 2), Word("x", 2.6, 3)))
    right = Segment("y three", 2, 5, (Word("y", 2, 2.3), Word("three", 3, 4)))
    assert join_overlapping(left, right).text == "one two three"


def test_a_piece_without_times_loses_nothing():
    joined = join_overlapping(said("one two", 0), Segment("two three", 0.5, 2))
    assert joined.text == "one two two three"
    assert join_overlapping(said("one", 0), Segment("", 0.2, 2)).text == "one"


def test_scripts_without_spaces_stay_so():
    segments = (said("你 好", 0), said("吗", 2))
    assert (
        Transcript(tuple(Segment("".join(s.text.split()), s.start, s.end) for s in segments), 3, 1, "").text == "你好吗"
    )
    assert join_overlapping(said("你 好", 0), said("好 吗", 0.5), "").text == "你好吗"


def test_json_holds_every_word():
    transcript = Transcript((said("one two", 1.0), Segment("", 3, 4)), 4.0, 0.4)
    content = json.loads(transcript.json("a.wav"))
    assert (content["file"], content["duration"], content["text"]) == ("a.wav", 4.0, "one two")
    assert content["segments"][0]["words"] == [
        {"word": "one", "start": 1.0, "end": 1.4},
        {"word": "two", "start": 1.5, "end": 1.9},
    ]
    assert transcript.formatted("json", "a.wav").endswith("}\n") and transcript.rtf == pytest.approx(0.1)
    assert transcript.formatted("txt", "a.wav") == "one two\n"


def test_subtitles_are_numbered_timed_and_short():
    long = said(" ".join(["word"] * 40), 3599.5)
    late = Segment("later on", 3640.0, 3642.0)  # no times of words: one cue
    srt = Transcript((long, Segment("", 0, 0), late), 4000).srt()
    cues = [cue.splitlines() for cue in srt.strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    assert cues[0][1].startswith("00:59:59,500 --> 01:00:0")
    assert cues[-1][1:] == ["01:00:40,000 --> 01:00:42,000", "later on"]
    assert all(len(cue) == 3 and len(cue[2]) <= 84 for cue in cues)
    assert sum(cue[2].count("word") for cue in cues) == 40


def test_a_cue_breaks_at_a_pause_and_stays_long_enough_to_be_read():
    words = (Word("yes", 1.0, 1.04), Word("no", 5.0, 5.04))
    srt = Transcript((Segment("yes no", 0.0, 6.0, words),), 6.0).srt()
    assert "00:00:01,000 --> 00:00:01,500\nyes" in srt and "00:00:05,000 --> 00:00:05,500\nno" in srt


def test_nothing_said():
    nothing = Transcript((), 0.0)
    assert (nothing.text, nothing.srt(), nothing.rtf, nothing.words) == ("", "", 0.0, ())
    assert json.loads(nothing.json("a"))["segments"] == []
