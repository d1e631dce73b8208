"""Lhotse's manifests with wrong types, values and kinds of cuts: refused with line, field, value and what is right."""

import contextlib
import copy
import gzip
import json
import re
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from lrsms.data.corpora.own_data import prepare_own_data
from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import read_excluded
from lrsms.data.manifest_files import read_mono_cuts, read_recordings, read_supervisions
from lrsms.errors import LrsmsError

RATE, SPLITS = 16000, ("train", "dev", "test")
NAN, INF = float("nan"), float("inf")
READERS = {"recordings": read_recordings, "supervisions": read_supervisions, "cuts": read_mono_cuts}
SOURCE = {"type": "file", "channels": [0], "source": "a.wav"}
MISSING = object()

WRONG = [
    # manifest, field of its second line, wrong values, what is said to be right
    ("recordings", "id", [1, None, "", " ", [], True, "a\0b", "\ud800", MISSING], "text that is not empty"),
    ("recordings", "sampling_rate", [NAN, INF, 0, 1, -16000, 16000.0, "16000", None, True, 10**400, [], MISSING],
     "a whole number of Hz from 1000 to 1000000"),
    ("recordings", "num_samples", [NAN, -1, 32000.0, "32000", None, False, 10**400, {}, MISSING],
     "a whole number of samples"),
    ("recordings", "duration", [NAN, INF, -2.0, 200.0, "2.0", None, True, 10**400, [2.0], MISSING],
     "2 s, as num_samples"),
    ("recordings", "sources", [[], None, {}, "a.wav", ["a.wav"], [None], MISSING], "a list of at least one source"),
    ("recordings", "sources", [[{**SOURCE, "type": value}] for value in ("command", "File", "", None, 1, "shar", [])],
     "one of file, url, memory"),
    ("recordings", "sources", [[{**SOURCE, "channels": value}] for value in ([], 0, None, ["0"], [-1], [0.5], [NAN])],
     "a list of channel numbers"),
    ("recordings", "sources", [[{**SOURCE, "source": value}] for value in ("", None, 1, ["a"], "a\0")],
     "the path of a sound file"),
    ("recordings", "channel_ids", ["0", 0, [], ["0"], [-1]], "a list of channel numbers"),
    ("recordings", "transforms", ["louder", 1, [1], [{"name": "Nothing", "kwargs": {}}]], "not readable by Lhotse"),
    ("supervisions", "id", [1, None, "", "a b", " a", "a\u00a0b", "a\nb", [], MISSING], "text without white space"),
    ("supervisions", "recording_id", [1, None, "", [], MISSING], "text that is not empty"),
    ("supervisions", "start", [NAN, INF, -INF, "0", None, True, 10**400, [0], MISSING], "a finite number of seconds"),
    ("supervisions", "duration", [NAN, INF, "2", None, True, 10**400, {}, MISSING], "a finite number of seconds"),
    ("supervisions", "text", [1, ["A"], {}, True, "\udc00"], "expected text"),
    ("supervisions", "speaker", [1, ["A"], {}, True], "expected text"),
    ("supervisions", "channel", ["0", -1, 0.5, NAN, {}, [], ["0"], True], "a channel number, or a list of them"),
    ("cuts", "type", ["MixedCut", "MultiCut", "PaddingCut"], "CutSet.save_audios(folder) makes a MonoCut of each"),
    ("cuts", "type", ["Cut", None, 1, MISSING], "expected MonoCut"),
    ("cuts", "id", [1, None, "", MISSING], "text that is not empty"),
    ("cuts", "start", [NAN, -1.0, "0", None, MISSING], "seconds of at least 0"),
    ("cuts", "duration", [NAN, 0, -1.0, "2", None, MISSING], "seconds above 0"),
    ("cuts", "channel", ["0", [0], -1, None, MISSING], "a channel number"),
    ("cuts", "recording", [None, "a", [], MISSING], "a recording; features alone are not enough"),
    ("cuts", "supervisions", [None, "a", {}, ["a"], MISSING], "a list of supervisions"),
]  # fmt: skip

LINES = [
    # bytes instead of the second line, what is said
    (b"{", "not JSON"),
    (b"[]", "not JSON (a list)"),
    (b"1", "not JSON (a int)"),
    (b'"a"', "not JSON (a str)"),
    (b"null", "not JSON (a NoneType)"),
    (b'{"id": "a", "id": "b"}', "id occurs twice in one object"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"id": ' * 100_000, "not JSON"),
    (b"\0" * 1000, "not JSON"),
]


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    """A recording of 2 s."""
    path = tmp_path_factory.mktemp("wave") / "a.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(2 * RATE) / 5), RATE)
    return path


def items(wave, kind: str, names) -> list[dict]:
    """What Lhotse writes into a manifest of that kind."""
    made = []
    for name in names:
        recording = Recording.from_file(wave, recording_id=name)
        supervision = SupervisionSegment(name, name, 0.0, 2.0, text="A B", speaker=f"of {name}")
        cut = MonoCut(name, 0.0, 2.0, 0, supervisions=[supervision], recording=recording)
        made.append({"recordings": recording, "supervisions": supervision, "cuts": cut}[kind].to_dict())
    return made


def write(path, lines: list[dict | bytes], packed: bool = True) -> None:
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        pytest.param(kind, field, value, expected, id=f"{kind}: {field}: {number}")
        for kind, field, values, expected in WRONG
        for number, value in enumerate(values)
    ],
)
def test_a_wrong_value_is_named_with_its_line(kind, field, value, expected, wave, tmp_path):
    lines = items(wave, kind, "abc")
    if value is MISSING:
        del lines[1][field]
    else:
        lines[1][field] = value
    path = tmp_path / f"{kind}.jsonl.gz"
    write(path, lines)
    with pytest.raises(LrsmsError, match=rf"{kind}.jsonl.gz: line 2: .*{re.escape(expected)}") as error:
        READERS[kind](path)
    assert len(str(error.value)) < len(str(path)) + 400


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_a_line_that_is_no_object_is_named(kind, packed, line, expected, wave, tmp_path):
    path = tmp_path / f"{kind}.jsonl{'.gz' * packed}"
    first, _, last = items(wave, kind, "abc")
    write(path, [first, line, last], packed)
    with pytest.raises(LrsmsError, match=rf": line 2: .*{re.escape(expected)}"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_archive_is_named_and_marks_and_empty_lines_do_no_harm(kind, wave, tmp_path):
    path = tmp_path / f"{kind}.jsonl.gz"
    write(path, items(wave, kind, "abc"))
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:20], b"junk", whole[:40] + bytes(20) + whole[60:]):
        path.write_bytes(content)
        with pytest.raises(LrsmsError, match=rf"{kind}.jsonl.gz: (damaged behind line|line \d: not JSON)"):
            READERS[kind](path)
    first, *others = items(wave, kind, "abc")
    write(path, [b"\xef\xbb\xbf" + json.dumps(first).encode(), b"", *others, b"\r"])
    assert [item.id for item in READERS[kind](path)] == ["a", "b", "c"]


def manifests(folder, kind: str, lines_of) -> None:
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        for kinds in [kind] if kind == "cuts" else ["recordings", "supervisions"]:
            write(folder / split / f"{kinds}.jsonl.gz", lines_of(split, kinds))


def test_mixed_cuts_are_refused_and_their_saved_sound_is_taken(wave, tmp_path):
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, 0.3 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    noise_cut = MonoCut("noise", 0, 2.0, 0, recording=Recording.from_file(noise))
    made = {}
    for split in SPLITS:
        clean = MonoCut.from_dict(items(wave, "cuts", [split])[0])
        made[split] = CutSet.from_cuts([clean.mix(noise_cut, snr=-5).with_id(split)])
        (tmp_path / "m" / split).mkdir(parents=True)
        made[split].to_file(tmp_path / "m" / split / "cuts.jsonl.gz")
    with pytest.raises(LrsmsError, match="train/cuts.jsonl.gz: line 1: a MixedCut; "):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "m")
    for split in SPLITS:
        saved = made[split].save_audios(tmp_path / "saved", progress_bar=False)
        saved.to_file(tmp_path / "m" / split / "cuts.jsonl.gz")
    prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "m")
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    (used,) = CutSet.from_file(tmp_path / "data/test/cuts.jsonl.gz")
    np.testing.assert_allclose(used.load_audio(), next(iter(made["test"])).load_audio(), atol=1e-3)


def test_parts_of_a_recording_stay_where_they_are(wave, tmp_path):
    def lines(split, _):
        whole = MonoCut.from_dict(items(wave, "cuts", [split])[0])
        part = whole.truncate(offset=0.5, duration=1.0).with_id(f"{split}-part")
        part.supervisions = [SupervisionSegment(f"{split}-part", split, 0.25, 0.5, text="B", speaker="s")]
        return [part.to_dict()]

    manifests(tmp_path / "m", "cuts", lines)
    prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "m")
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    (cut,) = CutSet.from_file(tmp_path / "data/test/cuts.jsonl.gz")
    assert (cut.id, cut.start, cut.duration) == ("test-part", 0.75, 0.5)


def test_one_recording_id_is_one_recording(wave, tmp_path):
    def lines(split, _):
        slow = MonoCut.from_dict(items(wave, "cuts", [split])[0])
        fast = slow.perturb_speed(1.1)
        fast.recording.id = slow.recording.id
        fast.supervisions[0].id = fast.id
        return [slow.to_dict(), fast.to_dict()]

    manifests(tmp_path / "m", "cuts", lines)
    with pytest.raises(
        LrsmsError, match=r"cuts.jsonl.gz: cut train_sp1.1: its recording train differs from that of an"
    ):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "m")


ENDS = [
    # start and duration of a supervision in a recording of 2 s, seconds of its cut or the reason why there is none
    (0.0, 2.0, 2.0),
    (0.5, 1.9, 1.5),
    (0.0, 2.02, 2.0),
    (0.0, 2.5, "outside_recording"),
    (2.0, 0.1, "outside_recording"),
    (-0.1, 1.0, "outside_recording"),
    (0.5, 0.0, "outside_recording"),
    (0.5, -1.0, "outside_recording"),
]


@pytest.mark.parametrize(("start", "duration", "expected"), ENDS)
def test_ends_a_little_behind_the_recording_are_shortened(start, duration, expected, wave, tmp_path, capsys):
    def lines(split, kind):
        made = items(wave, kind, [f"{split}0", f"{split}1"])
        if kind == "supervisions":
            made[1].update(start=start, duration=duration)
        return made

    manifests(tmp_path / "data", "both", lines)
    build_cuts(tmp_path / "data", train_splits=["train"], eval_splits=["dev", "test"])
    cuts = {cut.id: cut.duration for cut in CutSet.from_file(tmp_path / "data/test/cuts.jsonl.gz")}
    listed = {row.id: row.reason for row in read_excluded(tmp_path / "data/test/excluded.tsv")}
    if isinstance(expected, str):
        assert listed == {"test1": expected}
    else:
        assert cuts["test1"] == pytest.approx(expected)
    assert ("test: 1 utterances are shortened" in capsys.readouterr().out) == (expected == 1.5)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
              st.sampled_from([NAN, INF, 10**400, "command", "\ud800", "", "MixedCut", 16000, 32000, 2.0])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)  # fmt: skip


def _paths(content, prefix=()):
    """Every place in a JSON object."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*prefix, key)
        yield from _paths(value, (*prefix, key))


@given(kind=st.sampled_from(sorted(READERS)), data=st.data())
def test_any_value_anywhere_gives_finite_cuts_or_a_sentence(kind, data, wave, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    lines = {split: {each: items(wave, each, [split]) for each in READERS} for split in SPLITS}
    changed = copy.deepcopy(lines["train"][kind][0])
    *way, last = data.draw(st.sampled_from(list(_paths(changed))))
    place = changed
    for key in way:
        place = place[key]
    place[last] = data.draw(values)
    lines["train"][kind][0] = changed
    manifests(folder / "m", "cuts" if kind == "cuts" else "both", lambda split, each: lines[split][each])
    began = time.monotonic()
    with contextlib.suppress(LrsmsError):
        prepare_own_data(folder / "data", manifest_dir=folder / "m")
        build_cuts(folder / "data", train_splits=["train"], eval_splits=["dev", "test"])
        for cut in CutSet.from_file(folder / "data/train/cuts.jsonl.gz"):
            assert np.isfinite([cut.start, cut.duration]).all() and np.isfinite(cut.load_audio()).all()
            assert cut.supervisions[0].text
    assert time.monotonic() - began < 10
