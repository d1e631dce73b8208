"""Common Voice on made-up copies of its layouts, and on the real thing where it is there."""

import pytest
from prepared import reasons, sizes, supervisions, write_wav

from lrsms.data.corpora import commonvoice
from lrsms.errors import LrsmsError

TEXT = 'He said "now'  # a quotation mark that does not close


def write_today(folder):
    for split in ("train", "dev", "test"):
        rows = ["client_id\tpath\tsentence_id\tsentence\tgender"]
        for number in range(2):
            name = f"common_voice_en_{split}{number}.wav"
            write_wav(folder / "clips" / name)
            rows.append(f"who{number}\t{name}\tx\t{TEXT} {split} {number}\tfemale")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_first(folder):
    for split in ("train", "dev", "test"):
        rows = ["filename,text,up_votes,down_votes,age,gender,accent,duration"]
        for number in range(2):
            name = f"cv-valid-{split}/sample-{number:06}.wav"
            write_wav(folder / name)
            rows.append(f'{name},"{split}, {number}",1,0,,male,us,')
        (folder / f"cv-valid-{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_todays_layout(tmp_path):
    write_today(tmp_path / "cv")
    commonvoice.prepare_commonvoice(tmp_path / "cv", tmp_path / "data", num_jobs=1)
    assert sizes(tmp_path / "data", "train", "dev", "test") == [2, 2, 2]
    item = supervisions(tmp_path / "data", "dev")[1]
    assert (item.id, item.text, item.speaker) == ("common_voice_en_dev1", f"{TEXT} dev 1", "who1")


def test_first_layout(tmp_path):
    write_first(tmp_path / "cv")
    (tmp_path / "cv" / "cv-valid-test" / "sample-000001.wav").unlink()
    commonvoice.prepare_commonvoice(tmp_path / "cv", tmp_path / "data", num_jobs=1)
    assert sizes(tmp_path / "data", "train", "dev", "test") == [2, 2, 1]
    assert reasons(tmp_path / "data", "test") == {"cv-valid-test-sample-000001": "missing_audio"}
    item = supervisions(tmp_path / "data", "train")[0]
    assert (item.text, item.speaker, item.gender) == ("train, 0", "unknown", "male")


def test_one_table(tmp_path):
    rows = [f"{split}{number}\t{split}\tsome words" for split in commonvoice.SPLITS for number in range(2)]
    for row in rows:
        write_wav(tmp_path / "cv" / "clips" / f"{row.split()[0]}.wav")
    (tmp_path / "cv" / "clips.tsv").write_text("\n".join(["id\tsplit\ttext", *rows]) + "\n")
    commonvoice.prepare_commonvoice(tmp_path / "cv", tmp_path / "data", num_jobs=1)
    assert sizes(tmp_path / "data", "train", "dev", "test") == [2, 2, 2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\ttext\nclip.wav\twords\n", r"train.tsv: has no column sentence; its columns are path, text"),
        ("path\tsentence\nclip.wav\n", "train.tsv: line 2 has too few columns"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, table, message):
    write_today(tmp_path / "cv")
    (tmp_path / "cv" / "train.tsv").write_text(table)
    with pytest.raises(LrsmsError, match=message):
        commonvoice.prepare_commonvoice(tmp_path / "cv", tmp_path / "data", num_jobs=1)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(LrsmsError, match=r"expected train.tsv, dev.tsv, test.tsv, clips"):
        commonvoice.prepare_commonvoice(tmp_path, tmp_path / "data", num_jobs=1)
    with pytest.raises(LrsmsError, match="--corpus_dir is not given"):
        commonvoice.prepare_commonvoice(None, tmp_path / "data", num_jobs=1)


def test_real_clips(real_data):
    folder = real_data / "commonvoice_v1"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    rows = {split: commonvoice.read_rows(folder, split) for split in commonvoice.SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {"train": 2982, "dev": 216, "test": 428}
    assert all(row.path.is_file() for found in rows.values() for row in found[:5])
