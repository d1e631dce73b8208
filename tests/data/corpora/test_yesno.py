"""yesno on a made-up copy of its layout, and on the real thing where it is there."""

import itertools

import pytest
from prepared import recordings, sizes, supervisions, write_wav

from lrsms.data.corpora import yesno
from lrsms.errors import LrsmsError


@pytest.fixture
def yesno_dir(tmp_path):
    for bits in itertools.islice(itertools.product("01", repeat=8), 60):
        write_wav(tmp_path / "waves_yesno" / f"{'_'.join(bits)}.wav", rate=8000)
    return tmp_path / "waves_yesno"


def test_yesno_folder_or_parent(yesno_dir, tmp_path, capsys):
    for number, corpus_dir in enumerate((yesno_dir, yesno_dir.parent)):
        output_dir = tmp_path / str(number)
        yesno.prepare_yesno(corpus_dir, output_dir, download_dir=tmp_path / "downloads")
        assert sizes(output_dir, "train", "dev", "test") == [26, 4, 30]
    assert "the last 4 training recordings are the development set" in capsys.readouterr().out
    names = [{item.id for item in supervisions(output_dir, split)} for split in ("train", "dev", "test")]
    assert len(set.union(*names)) == 60
    assert supervisions(output_dir, "train")[0].text == "NO NO NO NO NO NO NO NO"


def test_yesno_bad_folders(yesno_dir, tmp_path):
    def prepare(corpus_dir):
        yesno.prepare_yesno(corpus_dir, tmp_path / "data", download_dir=tmp_path)

    with pytest.raises(LrsmsError, match="no such folder"):
        prepare(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LrsmsError, match="the folder holds nothing"):
        prepare(tmp_path / "empty")
    path = next(yesno_dir.iterdir())
    path.write_text("broken")
    with pytest.raises(LrsmsError, match="cannot be read"):
        prepare(yesno_dir)
    path.unlink()
    with pytest.raises(LrsmsError, match="59 WAV files; yesno has 60"):
        prepare(yesno_dir)


def test_yesno_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr("lhotse.recipes.download_yesno", offline)
    with pytest.raises(LrsmsError, match="no network.*give --corpus_dir"):
        yesno.prepare_yesno(None, tmp_path / "data", download_dir=tmp_path)


def test_yesno_real(real_data, tmp_path):
    yesno.prepare_yesno(real_data / "waves_yesno", tmp_path, download_dir=tmp_path)
    assert sizes(tmp_path, "train", "dev", "test") == [26, 4, 30]
    assert {item.sampling_rate for item in recordings(tmp_path, "test")} == {8000}
