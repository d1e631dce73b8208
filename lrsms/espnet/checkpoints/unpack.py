"""ESPnet's packed models (``espnet2.bin.pack``: zip or tar with a ``meta.yaml``), opened as data.

Nothing is extracted by the names that an archive gives: the few files that a model consists of are copied out under
names of our own, so no member can land elsewhere. An archive with links or with paths that lead out of it is refused
as a whole.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copyfileobj, disk_usage
from typing import IO, Any

import yaml

from lrsms.defaults import CONFIG
from lrsms.errors import LrsmsError
from lrsms.espnet.config import read_yaml

_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")  # those that ESPnet writes
_TEXT_LIMIT = 64 << 20  # bytes of a YAML file
# Keys of meta.yaml, which are arguments of Speech2Text, and what each file is called once it is out.
_CONFIGS = {"asr_train_config": CONFIG, "lm_train_config": "lm.yaml"}
_WEIGHTS = {"asr_model_file": "model.pth", "lm_file": "lm.pth"}


def is_pack(path: Path) -> bool:
    """Whether ``path`` is a file whose name ends as those of ESPnet's packs do."""
    return path.name.endswith(_SUFFIXES) and not path.is_dir()


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """Copy a packed model's configs, weights and what they need (sub-word model, statistics) into ``folder``.

    Args:
        archive: what ``espnet2.bin.pack`` wrote.
        folder: an empty folder.

    Returns:
        Paths by argument of ESPnet's ``Speech2Text``: ``asr_train_config``, ``asr_model_file``, and if the pack
        has a language model ``lm_train_config`` and ``lm_file``.

    Raises:
        LrsmsError: missing, damaged, not a pack of speech recognition, or with links or paths that lead elsewhere.
    """
    with _opened(archive) as members:
        meta = _read_meta(archive, members, folder)
        copied = {}
        for kind, names in (("yaml_files", _CONFIGS), ("files", _WEIGHTS)):
            for key, name in names.items():
                if key in meta[kind]:
                    members.copy(str(meta[kind][key]), folder / name)
                    copied[key] = folder / name
        for key in ("asr_train_config", "asr_model_file"):
            if key not in copied:
                raise LrsmsError(f"{archive}: meta.yaml names no {key}: not a pack of a speech recognizer")
        for key in _CONFIGS.keys() & copied.keys():
            _localize(archive, copied[key], members, folder)
    return copied


def _read_meta(archive: Path, members: _Members, folder: Path) -> dict[str, Mapping]:
    names = [name for name in members.entries if PurePosixPath(name).name == "meta.yaml"]
    if len(names) != 1:
        raise LrsmsError(f"{archive}: {len(names)} files called meta.yaml: not a model packed by espnet2.bin.pack")
    members.copy(names[0], folder / "meta.yaml", _TEXT_LIMIT)
    meta = read_yaml(folder / "meta.yaml")
    for kind in ("yaml_files", "files"):
        if not isinstance(meta.get(kind), Mapping):
            raise LrsmsError(f"{archive}: meta.yaml has no list of {kind}: not a model packed by espnet2.bin.pack")
    return meta


def _localize(archive: Path, path: Path, members: _Members, folder: Path) -> None:
    """Have a config name the copies of the files that it needs."""
    config = read_yaml(path)
    if config.get("token_type") == "bpe" and config.get("bpemodel"):
        config["bpemodel"] = members.copy_named(archive, "bpemodel", config["bpemodel"], folder / f"{path.stem}.model")
    if isinstance(config.get("token_list"), str):
        tokens = folder / f"{path.stem}.tokens.txt"
        config["token_list"] = members.copy_named(archive, "token_list", config["token_list"], tokens)
    options = config.get("normalize_conf")
    if isinstance(options, Mapping) and options.get("stats_file"):
        name = str(options["stats_file"])
        copy = folder / f"{path.stem}.stats{PurePosixPath(name).suffix}"
        config["normalize_conf"] = {**options, "stats_file": members.copy_named(archive, "stats_file", name, copy)}
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


@dataclass
class _Members:
    """The files in an open archive.

    Attributes:
        archive: its path, for messages.
        entries: member by name.
        opener: opens a member for reading.
    """

    archive: Path
    entries: dict[str, zipfile.ZipInfo | tarfile.TarInfo]
    opener: zipfile.ZipFile | tarfile.TarFile

    def copy(self, name: str, target: Path, limit: int | None = None) -> None:
        """Write a member to ``target``."""
        entry = self.entries.get(_plain(name))
        if entry is None:
            raise LrsmsError(f"{self.archive}: meta.yaml names {name}, which is not in the archive")
        size = entry.file_size if isinstance(entry, zipfile.ZipInfo) else entry.size
        room = disk_usage(target.parent).free
        limit = _TEXT_LIMIT if target.suffix == ".yaml" and limit is None else limit
        if size > min(room, limit or room):
            raise LrsmsError(f"{self.archive}: {name} would be {size:,} bytes, more than there is room for")
        with self._open(entry) as source, target.open("xb") as copy:
            copyfileobj(source, copy)
        if target.stat().st_size != size:
            raise LrsmsError(f"{self.archive}: {name} is cut off")

    def copy_named(self, archive: Path, option: str, name: object, target: Path) -> str:
        """Copy what an option of a config names; returns the copy's path."""
        if not isinstance(name, str) or _plain(name) not in self.entries:
            raise LrsmsError(f"{archive}: its config has {option}: {name}, which is not in the archive; pack it again")
        self.copy(name, target)
        return str(target)

    def _open(self, entry: zipfile.ZipInfo | tarfile.TarInfo) -> IO[bytes]:
        opener: Any = self.opener  # which goes with its own kind of entry
        return opener.open(entry) if isinstance(entry, zipfile.ZipInfo) else opener.extractfile(entry)


def _plain(name: str) -> str:
    """A member's name without the leading slash that archives drop, and without dots that change nothing."""
    return str(PurePosixPath(name.lstrip("/")))


@contextmanager
def _opened(archive: Path) -> Iterator[_Members]:
    if not archive.is_file():
        raise LrsmsError(f"{archive}: no such file")
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opener:
                yield _Members(archive, _checked(archive, opener.infolist()), opener)
        else:
            with tarfile.open(archive) as opener:
                yield _Members(archive, _checked(archive, opener.getmembers()), opener)
    except LrsmsError:
        raise
    except Exception as error:  # each kind of archive and of compression fails in its own ways
        raise LrsmsError(
            f"{archive}: truncated or not an archive ({type(error).__name__}: {str(error) or 'no detail'})"
        ) from error


def _checked(archive: Path, entries: list) -> dict[str, zipfile.ZipInfo | tarfile.TarInfo]:
    files = {}
    for entry in entries:
        name = entry.filename if isinstance(entry, zipfile.ZipInfo) else entry.name
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise LrsmsError(f"{archive}: refused, its member {name!r} leads out of the archive")
        if _is_folder(entry):
            continue
        if not _is_file(entry):
            raise LrsmsError(f"{archive}: refused, its member {name!r} is a link or a device, not a file")
        if _plain(name) in files:
            raise LrsmsError(f"{archive}: refused, it holds {name!r} twice")
        files[_plain(name)] = entry
    return files


def _is_folder(entry: zipfile.ZipInfo | tarfile.TarInfo) -> bool:
    return entry.is_dir() if isinstance(entry, zipfile.ZipInfo) else entry.isdir()


def _is_file(entry: zipfile.ZipInfo | tarfile.TarInfo) -> bool:
    if isinstance(entry, tarfile.TarInfo):
        return entry.isreg()
    return stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
