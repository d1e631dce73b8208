"""Cuts as a stock Kaldi or ESPnet data folder, and such a folder as manifests.

``lhotse kaldi export`` writes commands into ``wav.scp`` and parts of recordings into ``segments``; ESPnet's ``sound``
loader takes neither. Here every cut becomes a sound file of its own, or an entry of one Kaldi archive.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import kaldiio
import numpy as np
import soundfile
from lhotse.cut import Cut
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from lrsms.data.cut_files import read_cuts
from lrsms.data.excluded import Exclusion, print_summary, top_reasons, write_excluded
from lrsms.data.kaldi_folders import read_kaldi, read_wav_scp
from lrsms.data.manifests import check_unique, read_table, save_splits
from lrsms.errors import LrsmsError
from lrsms.files import write_text

AUDIO_FORMATS = ("flac", "wav", "ark")
STAGE = "kaldi"
_RENAMED = "utt2cut"  # Kaldi's utterance ids beside those of the cuts, where they differ
_ARK_ENTRY = re.compile(r"(.+):(\d+)")
_SOUND_IN_ARK = (b"RIFF", b"fLaC", b"AUDIO")  # kaldiio would unpickle an entry that begins with PKL


@dataclasses.dataclass(frozen=True)
class KaldiUtterance:
    """A cut on its way to Kaldi.

    Attributes:
        id: Kaldi's, in whose tables it must stand in order.
        speaker: Kaldi's; an utterance without one is its own.
        text: words with single spaces.
        cut: of one supervision.
    """

    id: str
    speaker: str
    text: str
    cut: Cut


def export_kaldi(cuts: Path, output_dir: Path, *, audio_format: str = "flac", num_jobs: int = 1) -> None:
    """Write ``wav.scp``, ``text``, ``utt2spk``, ``spk2utt`` and ``utt2dur``, sorted as Kaldi wants them.

    Kaldi sorts by bytes, by utterance and by speaker at once. Where the cuts' ids are not in the order of their
    speakers, each gets its speaker in front (``s1-bbaf2n``), and ``utt2cut`` remembers what it was called. Audio is
    16 bit, at the cuts' sampling rate; the tables are written last, so a folder with ``wav.scp`` is complete.

    Args:
        cuts: manifest of cuts. One of several supervisions becomes as many utterances; one of none, and one whose
            audio cannot be read, is listed in ``excluded.tsv`` and counted.
        output_dir: the data folder; audio goes into its folder ``data``.
        audio_format: ``flac``, ``wav``, or ``ark`` for one Kaldi archive of WAV. ESPnet's loader of the type
            ``kaldi_ark`` leaves samples the 16-bit integers that they are; its ``sound`` divides by 32768.
        num_jobs: threads that read audio.

    Raises:
        LrsmsError: no such manifest, no cut with text, ids that occur twice or hold white space, or speakers that
            cannot be sorted.
    """
    if audio_format not in AUDIO_FORMATS:
        raise LrsmsError(f"--audio_format {audio_format}: one of {', '.join(AUDIO_FORMATS)}")
    read, exclusions = _utterances(cuts)
    utterances = in_kaldis_order(read, str(cuts))
    (output_dir / "data").mkdir(parents=True, exist_ok=True)
    (output_dir / "wav.scp").unlink(missing_ok=True)
    write = _write_ark if audio_format == "ark" else _write_files
    places, clipped, failed = write(utterances, output_dir / "data", audio_format, num_jobs)
    exclusions += failed
    utterances = [utterance for utterance in utterances if utterance.id in places]
    if not utterances:
        raise LrsmsError(f"{cuts}: no utterance is left: {top_reasons(exclusions)}")
    _write_tables(output_dir, utterances, places)
    write_excluded(output_dir / "excluded.tsv", STAGE, exclusions)
    seconds = sum(utterance.cut.duration for utterance in utterances)
    speakers = len({utterance.speaker for utterance in utterances})
    print(f"{output_dir}: {len(utterances)} utterances of {speakers} speakers, {seconds / 3600:.2f} hours")
    if clipped:
        print(f"{output_dir}: {clipped} utterances had samples beyond 16 bit; they are clipped")
    print_summary(str(output_dir), exclusions)


def _utterances(path: Path) -> tuple[list[KaldiUtterance], list[Exclusion]]:
    cuts = list(read_cuts(path))
    utterances, exclusions = [], []
    for cut in tqdm(cuts, desc=f"{path.parent.name}: cuts", unit="cut", leave=False, delay=2):
        if not cut.supervisions:
            exclusions.append(Exclusion(cut.id, "no_text", "a cut without supervision"))
        for part in [cut] if len(cut.supervisions) == 1 else _parts(cut):
            supervision = part.supervisions[0]
            speaker = "_".join((supervision.speaker or part.id).split())
            utterances.append(KaldiUtterance(part.id, speaker, " ".join((supervision.text or "").split()), part))
    check_unique((utterance.id for utterance in utterances), f"{path}: utterances")
    for utterance in utterances:
        if not utterance.id or utterance.id.split() != [utterance.id]:
            raise LrsmsError(
                f"{path}: the id {utterance.id!r} holds white space, which Kaldi's tables cannot; rename it"
            )
    return utterances, exclusions


def _parts(cut: Cut) -> list[Cut]:
    parts = cut.trim_to_supervisions(keep_overlapping=False)
    return [dataclasses.replace(part, id=part.supervisions[0].id) for part in parts]


def in_kaldis_order(utterances: Iterable[KaldiUtterance], where: str) -> list[KaldiUtterance]:
    """Sorted by id, and so by speaker too; with the speaker in front of every id if it takes that.

    Args:
        utterances: in any order.
        where: they come from, for the message.

    Raises:
        LrsmsError: not even so, as if one speaker is called ``a`` and another ``a-b``.
    """
    as_they_are = sorted(utterances, key=lambda utterance: utterance.id)
    renamed = [dataclasses.replace(utterance, id=f"{utterance.speaker}-{utterance.id}") for utterance in as_they_are]
    renamed.sort(key=lambda utterance: utterance.id)
    for candidate in (as_they_are, renamed):
        speakers = [utterance.speaker for utterance in candidate]
        if speakers == sorted(speakers):
            return candidate
    first = next(b for a, b in itertools.pairwise(speakers) if b < a)
    raise LrsmsError(f"{where}: speaker {first!r} begins as another does and cannot be sorted by Kaldi; rename it")


def _samples(utterance: KaldiUtterance) -> tuple[np.ndarray, bool]:
    """16-bit samples, ``(samples,)``, and whether some had to be clipped."""
    audio = utterance.cut.load_audio()
    if audio.shape[0] != 1:
        raise LrsmsError(f"{audio.shape[0]} channels; make it mono")
    if not audio.shape[1] or not np.isfinite(audio).all():
        raise LrsmsError("no samples" if not audio.shape[1] else "NaN or infinite samples")
    # Not by soundfile: its scales for reading and writing differ by one, and 16 bit would come back as others.
    scaled = np.rint(audio[0] * 32768.0)
    clipped = bool((scaled > 32767).any() or (scaled < -32768).any())
    return np.clip(scaled, -32768, 32767).astype(np.int16), clipped


def _write_files(
    utterances: list[KaldiUtterance], folder: Path, suffix: str, num_jobs: int
) -> tuple[dict[str, str], int, list[Exclusion]]:
    def write(utterance: KaldiUtterance) -> tuple[str, bool] | Exclusion:
        path = folder / f"{quote(utterance.id, safe='')}.{suffix}"  # an id may hold a slash
        try:
            samples, clipped = _samples(utterance)
        except Exception as error:  # Lhotse's backends raise many types for a broken file
            return Exclusion(utterance.cut.id, "unreadable", str(error))
        soundfile.write(path, samples, utterance.cut.sampling_rate, subtype="PCM_16")
        return str(path.absolute()), clipped

    done = thread_map(write, utterances, max_workers=num_jobs, desc=f"{folder.parent.name}: {suffix}", unit="cut")
    written = {utterance.id: result for utterance, result in zip(utterances, done) if not isinstance(result, Exclusion)}
    failed = [result for result in done if isinstance(result, Exclusion)]
    return {name: path for name, (path, _) in written.items()}, sum(cut for _, cut in written.values()), failed


def _write_ark(
    utterances: list[KaldiUtterance], folder: Path, _suffix: str, _num_jobs: int
) -> tuple[dict[str, str], int, list[Exclusion]]:
    ark, scp = folder.absolute() / "audio.ark", folder.absolute() / "audio.scp"
    ark.unlink(missing_ok=True)
    scp.unlink(missing_ok=True)
    clipped, failed = 0, []
    for utterance in tqdm(utterances, desc=f"{folder.parent.name}: ark", unit="cut"):
        try:
            samples, cut_off = _samples(utterance)
        except Exception as error:  # Lhotse's backends raise many types for a broken file
            failed.append(Exclusion(utterance.cut.id, "unreadable", str(error)))
            continue
        clipped += cut_off
        kaldiio.save_ark(str(ark), {utterance.id: (utterance.cut.sampling_rate, samples)}, scp=str(scp), append=True)
    return read_table(scp) if scp.exists() else {}, clipped, failed


def _write_tables(folder: Path, utterances: list[KaldiUtterance], places: Mapping[str, str]) -> None:
    by_speaker = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance.id)
    tables = {
        "text": [(utterance.id, utterance.text) for utterance in utterances],
        "utt2spk": [(utterance.id, utterance.speaker) for utterance in utterances],
        "spk2utt": [(speaker, " ".join(ids)) for speaker, ids in by_speaker.items()],
        "utt2dur": [(utterance.id, f"{utterance.cut.duration:.6g}") for utterance in utterances],
        _RENAMED: [(utterance.id, utterance.cut.id) for utterance in utterances],
        # Last, because with it the folder is complete.
        "wav.scp": [(utterance.id, places[utterance.id]) for utterance in utterances],
    }
    if all(utterance.id == utterance.cut.id for utterance in utterances):
        tables.pop(_RENAMED)
        (folder / _RENAMED).unlink(missing_ok=True)
    for name, rows in tables.items():
        write_text(folder / name, "".join(f"{key} {value}".rstrip() + "\n" for key, value in rows))


def import_kaldi(folder: Path, output_dir: Path, *, num_jobs: int = 1) -> None:
    """Write ``recordings.jsonl.gz`` and ``supervisions.jsonl.gz``, as stage 0 leaves them, from a Kaldi data folder.

    Args:
        folder: ``wav.scp`` (sound files, or entries of Kaldi archives of sound), ``text``, ``utt2spk``, and perhaps
            ``segments``; what :func:`export_kaldi` renamed gets its old id again.
        output_dir: such as ``data/test``; sound from archives is written as FLAC into its folder ``audio``.
        num_jobs: threads that read audio.

    Raises:
        LrsmsError: files are missing or malformed, ``wav.scp`` holds commands, or an archive holds something else.
    """
    paths = read_wav_scp(folder / "wav.scp")
    entries = {name: match for name, path in paths.items() if (match := _ARK_ENTRY.fullmatch(str(path)))}
    title = f"{folder.name}: from archives"
    for name, match in tqdm(entries.items(), desc=title, unit="entry", disable=None if entries else True):
        paths[name] = _unpacked(name, Path(match[1]), int(match[2]), output_dir / "audio", folder / "wav.scp")
    split = read_kaldi(folder, num_jobs=num_jobs, paths=paths)
    if (folder / _RENAMED).exists():
        old = read_table(folder / _RENAMED)
        split.recordings = [
            dataclasses.replace(recording, id=old.get(recording.id, recording.id)) for recording in split.recordings
        ]
        split.supervisions = [
            dataclasses.replace(
                supervision,
                id=old.get(supervision.id, supervision.id),
                recording_id=old.get(supervision.recording_id, supervision.recording_id),
            )
            for supervision in split.supervisions
        ]
    save_splits(output_dir.parent, {output_dir.name: split})


def _unpacked(name: str, ark: Path, offset: int, folder: Path, where: Path) -> Path:
    try:
        with ark.open("rb") as file:
            file.seek(offset)
            kind = file.read(5)
        if not kind.startswith(_SOUND_IN_ARK):
            raise LrsmsError(f"{where}: {name}: {ark} holds no sound at {offset}; only WAV and FLAC are read from it")
        rate, samples = kaldiio.load_mat(f"{ark}:{offset}")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{quote(name, safe='')}.flac"
        soundfile.write(path, samples, rate)
    except LrsmsError:
        raise
    except Exception as error:  # of the file system, wave, kaldiio and soundfile
        raise LrsmsError(f"{where}: {name}: {ark}:{offset} cannot be read as sound ({error})") from error
    return path
