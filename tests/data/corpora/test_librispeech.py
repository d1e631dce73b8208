"""librispeech on a made-up copy of its layout."""

import pytest
from prepared import reasons, sizes, supervisions, write_wav

from lrsms.data.corpora import librispeech
from lrsms.errors import LrsmsError


def write_librispeech(corpus_dir, part, speakers):
    for speaker in speakers:
        folder = corpus_dir / part / speaker / "1"
        names = [f"{speaker}-1-{i:04}" for i in range(2)]
        for name in names:
            write_wav(folder / f"{name}.flac")
        (folder / f"{speaker}-1.trans.txt").write_text("".join(f"{name} TEXT OF {name}\n" for name in names))


def test_librispeech_mini(tmp_path, capsys):
    write_librispeech(tmp_path / "LibriSpeech", "train-clean-5", ["11", "12"])
    write_librispeech(tmp_path / "LibriSpeech", "dev-clean-2", ["21", "22", "100"])
    (tmp_path / "LibriSpeech/dev-clean-2/22/1/22-1-0001.flac").unlink()
    librispeech.prepare_librispeech(tmp_path, tmp_path / "data", mini=True, download_dir=tmp_path)
    speakers = [{item.speaker for item in supervisions(tmp_path / "data", s)} for s in ("train", "dev", "test")]
    assert speakers == [{"11", "12"}, {"21", "100"}, {"22"}]
    assert reasons(tmp_path / "data", "test") == {"22-1-0001": "missing_audio"}
    assert "halved by speaker into dev and test" in capsys.readouterr().out


def test_librispeech_full(tmp_path):
    for number, part in enumerate((*librispeech.TRAIN_PARTS[:2], "dev-clean", "dev-other", "test-clean", "test-other")):
        write_librispeech(tmp_path, part, [str(10 + number)])
    output_dir = tmp_path / "data"
    librispeech.prepare_librispeech(
        tmp_path, output_dir, train_parts=librispeech.TRAIN_PARTS[:2], download_dir=tmp_path, num_jobs=2
    )
    assert sizes(output_dir, "train", "dev", "dev_other", "test_clean", "test_other") == [4, 2, 2, 2, 2]


def test_librispeech_bad_input(tmp_path):
    def prepare(**options):
        librispeech.prepare_librispeech(tmp_path, tmp_path / "data", download_dir=tmp_path, **options)

    with pytest.raises(LrsmsError, match="--train_parts train-clean: expected train-clean-100"):
        prepare(train_parts=["train-clean"])
    with pytest.raises(LrsmsError, match="mini_librispeech has only train-clean-5"):
        prepare(mini=True, train_parts=["train-clean-100"])
    write_librispeech(tmp_path, "train-clean-5", ["11"])
    with pytest.raises(LrsmsError, match="dev-clean-2 not found; the folder holds train-clean-5"):
        prepare(mini=True)
    write_librispeech(tmp_path, "dev-clean-2", ["21", "22"])
    (tmp_path / "dev-clean-2/21/1/21-1-0000.flac").write_text("broken")
    with pytest.raises(LrsmsError, match="dev-clean-2: cannot be read"):
        prepare(mini=True)


def test_librispeech_failed_download(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("lhotse.recipes.download_librispeech", offline)
    with pytest.raises(LrsmsError, match="fetch train-clean-5, dev-clean-2"):
        librispeech.prepare_librispeech(None, tmp_path / "data", mini=True, download_dir=tmp_path)
