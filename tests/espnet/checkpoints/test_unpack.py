"""ESPnet's archives: what it packs opens, and what would land elsewhere is refused."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from espnet2.main_funcs.pack_funcs import pack

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.unpack import is_pack, unpack

META = {
    "yaml_files": {"asr_train_config": "exp/tiny/config.yaml"},
    "files": {"asr_model_file": "exp/tiny/valid.acc.ave.pth"},
}
CONTENT = {
    "meta.yaml": yaml.safe_dump(META).encode(),
    "exp/tiny/config.yaml": b"encoder: conformer\ntoken_list: [a]\n",
    "exp/tiny/valid.acc.ave.pth": b"weights",
}


def write_zip(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path, content, *more: tarfile.TarInfo):
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return path


@pytest.fixture
def folder(tmp_path):
    """Where to; nothing may be written beside it."""
    path = tmp_path / "inner" / "out"
    path.mkdir(parents=True)
    yield path
    assert list(path.parent.iterdir()) == [path]


WRITERS = {"zip": write_zip, "tar": write_tar, "tgz": write_tar}


@pytest.mark.parametrize("kind", WRITERS)
def test_config_and_weights_come_out_under_names_of_ours(kind, folder, tmp_path):
    archive = WRITERS[kind](tmp_path / f"model.{kind}", CONTENT)
    assert is_pack(archive)
    found = unpack(archive, folder)
    assert found == {"asr_train_config": folder / "config.yaml", "asr_model_file": folder / "model.pth"}
    assert found["asr_model_file"].read_bytes() == b"weights"
    assert yaml.safe_load(found["asr_train_config"].read_text()) == {"encoder": "conformer", "token_list": ["a"]}


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_what_espnet_packs_opens_with_the_files_that_its_config_names(suffix, folder, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe"
    for name, data in {
        "exp/tiny/config.yaml": yaml.safe_dump(
            {
                **{"encoder": "rnn", "token_type": "bpe", "bpemodel": "data/bpe.model", "token_list": ["a"]},
                **{"normalize": "global_mvn", "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"}},
            }
        ).encode(),
        **{"exp/tiny/5epoch.pth": b"w", "data/bpe.model": b"m", "exp/stats/feats_stats.npz": b"s", "exp/lm.pth": b"l"},
        "exp/lm.yaml": b"lm: seq_rnn\n",
    }.items():
        (recipe / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe / name).write_bytes(data)
    (recipe / "exp/tiny/valid.acc.ave.pth").symlink_to("5epoch.pth")
    monkeypatch.chdir(recipe)
    pack(
        {"asr_model_file": "exp/tiny/valid.acc.ave.pth", "lm_file": "exp/lm.pth"},
        {"asr_train_config": "exp/tiny/config.yaml", "lm_train_config": "exp/lm.yaml"},
        tmp_path / f"model.{suffix}",
        ["data/bpe.model", "exp/stats/feats_stats.npz"],
    )
    monkeypatch.chdir(tmp_path)
    found = unpack(tmp_path / f"model.{suffix}", folder)
    assert {key: path.read_bytes()[:1] for key, path in found.items() if "file" in key} == {
        **{"asr_model_file": b"w", "lm_file": b"l"}
    }
    assert found["lm_train_config"].parent == folder
    config = yaml.safe_load(found["asr_train_config"].read_text())
    for name, content in ((config["bpemodel"], b"m"), (config["normalize_conf"]["stats_file"], b"s")):
        assert Path(name).parent == folder
        with open(name, "rb") as file:
            assert file.read() == content


@pytest.mark.parametrize("name", ["../evil", "exp/../../evil", "/tmp/evil", "..\\evil", "exp/..\\..\\evil"])
@pytest.mark.parametrize("kind", WRITERS)
def test_members_that_lead_out_of_the_archive_are_refused(kind, name, folder, tmp_path):
    archive = WRITERS[kind](tmp_path / f"model.{kind}", CONTENT | {name: b"evil"})
    with pytest.raises(LrsmsError, match=r"refused, its member .*evil.* leads out of the archive"):
        unpack(archive, folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, folder, tmp_path):
    link = tarfile.TarInfo("exp/tiny/link")
    link.type, link.linkname = kind, "/etc/passwd"
    archive = write_tar(tmp_path / "model.tar", CONTENT, link)
    with pytest.raises(LrsmsError, match="'exp/tiny/link' is a link or a device"):
        unpack(archive, folder)


def test_weights_that_are_a_link_are_refused(folder, tmp_path):
    link = tarfile.TarInfo("exp/tiny/valid.acc.ave.pth")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    content = {name: data for name, data in CONTENT.items() if name != link.name}
    with pytest.raises(LrsmsError, match="is a link or a device"):
        unpack(write_tar(tmp_path / "model.tar", content, link), folder)


def test_a_link_in_a_zip_is_refused(folder, tmp_path):
    info = zipfile.ZipInfo("exp/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write_zip(tmp_path / "model.zip", CONTENT)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(LrsmsError, match="'exp/link' is a link"):
        unpack(archive, folder)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(folder, tmp_path):
    archive = write_zip(tmp_path / "model.zip", CONTENT)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("exp/tiny/./config.yaml", b"encoder: s3prl\n")
    with pytest.raises(LrsmsError, match="twice"):
        unpack(archive, folder)


def meta(**changes) -> dict[str, bytes]:
    return CONTENT | {"meta.yaml": yaml.safe_dump(META | changes).encode()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.txt": b"a"}, "0 files called meta.yaml: not a model packed"),
        (meta(files={"tts_model_file": "x"}), "names no asr_model_file: not a pack of a speech recognizer"),
        (meta(files=["x"]), "has no list of files"),
        (meta(files={"asr_model_file": "exp/gone.pth"}), "names exp/gone.pth, which is not in the archive"),
        (meta(files={"asr_model_file": "../../etc/passwd"}), "names ../../etc/passwd, which is not in the archive"),
        (meta(files={"asr_model_file": "/etc/passwd"}), "names /etc/passwd, which is not in the archive"),
        (CONTENT | {"meta.yaml": b"!!python/object/apply:os.system ['true']"}, "not plain YAML"),
        (
            CONTENT | {"exp/tiny/config.yaml": b"encoder: rnn\ntoken_type: bpe\nbpemodel: /etc/passwd\n"},
            "its config has bpemodel: /etc/passwd, which is not in the archive",
        ),
        (
            CONTENT | {"exp/tiny/config.yaml": b"encoder: rnn\nnormalize_conf: {stats_file: /etc/passwd}\n"},
            "its config has stats_file: /etc/passwd, which is not in the archive",
        ),
    ],
)
def test_archives_of_something_else(content, message, folder, tmp_path):
    with pytest.raises(LrsmsError, match=f"model.zip.*{message}|meta.yaml: {message}"):
        unpack(write_zip(tmp_path / "model.zip", content), folder)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.7])
def test_a_truncated_archive_is_refused(keep, kind, folder, tmp_path):
    content = CONTENT | {"exp/tiny/valid.acc.ave.pth": os.urandom(40_000)}
    path = WRITERS[kind](tmp_path / f"model.{kind}", content)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(LrsmsError, match="truncated or not an archive|is cut off|not a model packed"):
        unpack(path, folder)


def test_more_than_there_is_room_for(folder, tmp_path, monkeypatch):
    import lrsms.espnet.checkpoints.unpack as packs

    archive = write_zip(tmp_path / "bomb.zip", CONTENT | {"exp/tiny/valid.acc.ave.pth": bytes(2_000_000)})
    assert archive.stat().st_size < 10_000
    monkeypatch.setattr(packs, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(LrsmsError, match="would be 2,000,000 bytes, more than there is room for"):
        unpack(archive, folder)
    assert not (folder / "model.pth").exists()


def test_missing_archive_and_other_files(tmp_path):
    with pytest.raises(LrsmsError, match="gone.zip: no such file"):
        unpack(tmp_path / "gone.zip", tmp_path)
    (tmp_path / "folder.zip").mkdir()
    assert not is_pack(tmp_path / "folder.zip") and not is_pack(tmp_path / "model.pth")
