"""Cuts to a Kaldi folder that ESPnet reads, and back."""

import dataclasses

import kaldiio
import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lrsms.data.excluded import read_excluded
from lrsms.data.kaldi import AUDIO_FORMATS, export_kaldi, import_kaldi
from lrsms.data.manifests import read_table
from lrsms.errors import LrsmsError

RATE = 8000


def recording(folder, name: str, seconds: float = 2.0) -> Recording:
    """16-bit noise that reaches both ends of the scale."""
    rng = np.random.default_rng(sum(name.encode()))
    samples = rng.integers(-32768, 32768, round(seconds * RATE)).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", samples, RATE)
    return Recording.from_file(folder / f"{name}.wav", recording_id=name)


def cut(found: Recording, name: str, speaker: str | None, text: str, start: float = 0.0, seconds: float = 2.0):
    supervision = SupervisionSegment(name, found.id, 0.0, seconds, text=text, speaker=speaker)
    return MonoCut(name, start, seconds, 0, supervisions=[supervision], recording=found)


@pytest.fixture
def write_cuts(tmp_path):
    """``write_cuts(*cuts)``: their manifest."""

    def write(*cuts):
        path = tmp_path / "cuts" / "test" / "cuts.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        CutSet.from_cuts(cuts).to_file(path)
        return path

    return write


@pytest.fixture
def cuts(tmp_path, write_cuts):
    """Four cuts of three recordings, two of them parts of one, with ids that are not in their speakers' order."""
    one, two, long = (recording(tmp_path / "audio", name, 2 + 4 * (name == "long")) for name in ("one", "two", "long"))
    return write_cuts(
        cut(two, "b_two", "anna", "ZWEI  WORTE"),
        cut(one, "a_one", "zoe", "ONE"),
        cut(long, "c_mid", "anna", "MITTE é", start=1.5, seconds=1.25),
        cut(long, "d_end", "zoe", "THE END", start=4.0),
    )


def expected(cuts) -> dict[str, np.ndarray]:
    """16-bit samples of every cut, read without Lhotse."""
    found = {}
    for item in CutSet.from_file(cuts):
        samples, _ = soundfile.read(item.recording.sources[0].source, dtype="int16")
        found[item.id] = samples[round(item.start * RATE) :][: round(item.duration * RATE)]
    return found


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
def test_tables_are_in_kaldis_order_and_audio_is_bit_for_bit(audio_format, cuts, tmp_path, capsys):
    out = tmp_path / "kaldi"
    export_kaldi(cuts, out, audio_format=audio_format)
    assert "4 utterances of 2 speakers" in capsys.readouterr().out
    names = ["anna-b_two", "anna-c_mid", "zoe-a_one", "zoe-d_end"]
    tables = {name: read_table(out / name) for name in ("wav.scp", "text", "utt2spk", "utt2dur", "utt2cut")}
    assert all(list(table) == names for table in tables.values())
    assert list(tables["text"].values()) == ["ZWEI WORTE", "MITTE é", "ONE", "THE END"]
    assert list(tables["utt2spk"].values()) == ["anna", "anna", "zoe", "zoe"]
    assert list(tables["utt2dur"].values()) == ["2", "1.25", "2", "2"]
    assert (out / "spk2utt").read_text() == "anna anna-b_two anna-c_mid\nzoe zoe-a_one zoe-d_end\n"
    assert not (out / "segments").exists() and not list(out.glob(".unfinished*"))
    for name, samples in zip(names, (expected(cuts)[name.split("-")[1]] for name in names)):
        if audio_format == "ark":
            rate, found = kaldiio.load_mat(tables["wav.scp"][name])
        else:
            found, rate = soundfile.read(tables["wav.scp"][name], dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
def test_there_and_back(audio_format, cuts, tmp_path):
    export_kaldi(cuts, tmp_path / "kaldi", audio_format=audio_format)
    out = tmp_path / "data" / "test"
    import_kaldi(tmp_path / "kaldi", out)
    recordings = {one.id: one for one in RecordingSet.from_file(out / "recordings.jsonl.gz")}
    supervisions = SupervisionSet.from_file(out / "supervisions.jsonl.gz")
    before = {item.id: item for item in CutSet.from_file(cuts)}
    assert set(recordings) == {one.id for one in supervisions} == set(before)
    for one in supervisions:
        item = before[one.id]
        text, speaker = " ".join(item.supervisions[0].text.split()), item.supervisions[0].speaker
        assert (one.recording_id, one.text, one.speaker) == (one.id, text, speaker)
        assert one.start == 0 and one.duration == pytest.approx(item.duration)
        found = recordings[one.id].load_audio()[0]
        np.testing.assert_array_equal(found * 32768, expected(cuts)[one.id])


def test_ids_in_the_order_of_their_speakers_stay(tmp_path, write_cuts):
    one = recording(tmp_path / "audio", "one")
    export_kaldi(write_cuts(cut(one, "s1-a", "s1", "A"), cut(one, "s2-a", "s2", "B")), tmp_path / "kaldi")
    assert list(read_table(tmp_path / "kaldi/utt2spk").items()) == [("s1-a", "s1"), ("s2-a", "s2")]
    assert not (tmp_path / "kaldi/utt2cut").exists()


def test_s1_and_s10_are_sorted_by_bytes(tmp_path, write_cuts):
    """With an underscore s10 comes before s1, as a speaker it comes behind: the ids of GRID."""
    one = recording(tmp_path / "audio", "one")
    export_kaldi(write_cuts(*(cut(one, f"{s}_x", s, "A") for s in ("s1", "s2", "s10"))), tmp_path / "kaldi")
    assert list(read_table(tmp_path / "kaldi/utt2spk").items()) == [
        *(("s1-s1_x", "s1"), ("s10-s10_x", "s10"), ("s2-s2_x", "s2"))
    ]


def test_speakers_that_no_prefix_sorts_are_an_error(tmp_path, write_cuts):
    one = recording(tmp_path / "audio", "one")
    cuts = write_cuts(cut(one, "z", "a", "A"), cut(one, "m", "a-k", "B"), cut(one, "b", "a", "C"))
    with pytest.raises(LrsmsError, match="speaker 'a' begins as another does"):
        export_kaldi(cuts, tmp_path / "kaldi")


def test_a_second_export_leaves_nothing_of_the_first(cuts, tmp_path, write_cuts):
    export_kaldi(cuts, tmp_path / "kaldi", audio_format="ark")
    one = recording(tmp_path / "audio", "one")
    export_kaldi(write_cuts(cut(one, "only", None, "ONE")), tmp_path / "kaldi", audio_format="ark")
    assert read_table(tmp_path / "kaldi/utt2spk") == {"only": "only"}  # without a speaker, each is its own
    assert len(kaldiio.load_mat(read_table(tmp_path / "kaldi/wav.scp")["only"])[1]) == 2 * RATE
    assert not (tmp_path / "kaldi/utt2cut").exists()


def test_several_supervisions_are_several_utterances_and_none_is_counted(tmp_path, write_cuts, capsys):
    one = recording(tmp_path / "audio", "one", 4.0)
    several = cut(one, "several", "s", "FIRST", seconds=4.0)
    parts = [
        SupervisionSegment("p1", "one", 0.5, 1.0, text="FIRST", speaker="s"),
        SupervisionSegment("p2", "one", 2.0, 1.5, text="SECOND", speaker="s"),
    ]
    several = dataclasses.replace(several, supervisions=parts)
    export_kaldi(write_cuts(several, dataclasses.replace(several, id="none", supervisions=[])), tmp_path / "kaldi")
    assert read_table(tmp_path / "kaldi/text") == {"p1": "FIRST", "p2": "SECOND"}
    assert read_table(tmp_path / "kaldi/utt2dur") == {"p1": "1", "p2": "1.5"}
    assert [(row.id, row.reason) for row in read_excluded(tmp_path / "kaldi/excluded.tsv")] == [("none", "no_text")]
    assert "1 excluded: no_text" in capsys.readouterr().out


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
def test_audio_that_cannot_be_read_is_listed_and_the_rest_written(audio_format, cuts, tmp_path, capsys):
    (tmp_path / "audio/one.wav").write_bytes(b"RIFF")
    export_kaldi(cuts, tmp_path / "kaldi", audio_format=audio_format)
    assert list(read_table(tmp_path / "kaldi/wav.scp")) == ["anna-b_two", "anna-c_mid", "zoe-d_end"]
    assert [(row.id, row.reason) for row in read_excluded(tmp_path / "kaldi/excluded.tsv")] == [("a_one", "unreadable")]
    for name in ("two", "long"):
        (tmp_path / f"audio/{name}.wav").unlink()
    with pytest.raises(LrsmsError, match="no utterance is left: unreadable x 4"):
        export_kaldi(cuts, tmp_path / "kaldi", audio_format=audio_format)
    assert not (tmp_path / "kaldi/wav.scp").exists()  # the tables of before would name audio that is gone


def test_samples_beyond_the_scale_are_clipped_and_counted(tmp_path, write_cuts, capsys):
    soundfile.write(tmp_path / "loud.wav", np.array([1.5, -1.5, 0.5, -1.0]), RATE, subtype="FLOAT")
    loud = Recording.from_file(tmp_path / "loud.wav", recording_id="loud")
    export_kaldi(write_cuts(cut(loud, "loud", "s", "A", seconds=loud.duration)), tmp_path / "kaldi")
    assert "1 utterances had samples beyond 16 bit" in capsys.readouterr().out
    found, _ = soundfile.read(read_table(tmp_path / "kaldi/wav.scp")["loud"], dtype="int16")
    assert found.tolist() == [32767, -32768, 16384, -32768]


def test_ids_that_tables_or_file_names_cannot_hold(tmp_path, write_cuts):
    one = recording(tmp_path / "audio", "one")
    with pytest.raises(LrsmsError, match="the id 'a b' holds white space"):
        export_kaldi(write_cuts(cut(one, "a b", "s", "A")), tmp_path / "kaldi")
    export_kaldi(write_cuts(cut(one, "../up/a", "s", "A")), tmp_path / "kaldi")
    place = read_table(tmp_path / "kaldi/wav.scp")["../up/a"]
    assert place == str(tmp_path / "kaldi/data/..%2Fup%2Fa.flac")


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(LrsmsError, match="gone.jsonl.gz: no such manifest of cuts"):
        export_kaldi(tmp_path / "gone.jsonl.gz", tmp_path / "kaldi")
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"nothing")
    with pytest.raises(LrsmsError, match="cuts.jsonl.gz: damaged behind line 0 .*run stage 1 again"):
        export_kaldi(tmp_path / "cuts.jsonl.gz", tmp_path / "kaldi")
    assert not (tmp_path / "kaldi").exists()


def test_commands_and_archives_of_other_things_are_refused(cuts, tmp_path):
    export_kaldi(cuts, tmp_path / "kaldi", audio_format="ark")
    scp, trace = tmp_path / "kaldi/wav.scp", tmp_path / "executed"
    whole = scp.read_text()
    scp.write_text(whole + f"x touch {trace} |\n")
    with pytest.raises(LrsmsError, match="1 entries are commands"):
        import_kaldi(tmp_path / "kaldi", tmp_path / "data/test")
    evil = tmp_path / "evil.ark"
    evil.write_bytes(b"x PKL" + b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")  # kaldiio unpickles these
    scp.write_text(whole + f"x {evil}:2\n")
    with pytest.raises(LrsmsError, match=r"x: .*evil.ark holds no sound at 2"):
        import_kaldi(tmp_path / "kaldi", tmp_path / "data/test")
    scp.write_text(whole + f"x {tmp_path}/gone.ark:2\n")
    with pytest.raises(LrsmsError, match="gone.ark:2 cannot be read as sound"):
        import_kaldi(tmp_path / "kaldi", tmp_path / "data/test")
    assert not trace.exists() and not (tmp_path / "data/test/recordings.jsonl.gz").exists()


def test_the_verb(cuts, tmp_path, root, run_module):
    def run(*options):
        return run_module("lrsms.bin.export_kaldi", *options, cwd=root)

    there = run("--cuts", cuts, "--output_dir", tmp_path / "kaldi", "--audio_format", "wav")
    assert there.returncode == 0, there.stderr
    back = run("--from", tmp_path / "kaldi", "--output_dir", tmp_path / "data/test")
    assert back.returncode == 0 and "test: 4 utterances" in back.stdout, back.stderr
    assert run("--output_dir", tmp_path / "x").returncode == 2
