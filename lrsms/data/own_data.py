"""A user's own corpus: Kaldi folders, or Lhotse manifests.

``kaldi_dir`` and ``manifest_dir`` each hold the folders ``train``, ``dev`` and ``test``. A Kaldi folder has
``wav.scp`` (plain paths; relative ones start at the current folder, as in Kaldi), ``text``, ``utt2spk`` and
perhaps ``segments`` (utterance, recording, start and end in seconds). A Lhotse folder has either one
``*recordings*.jsonl[.gz]`` and one ``*supervisions*.jsonl[.gz]``, or one ``*cuts*.jsonl[.gz]``; where it has both,
the cuts are not read.
"""

from collections.abc import Mapping
from pathlib import Path

from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet

from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, check_unique, open_recordings, pair, read_table, require_layout, save_splits
from lrsms.errors import LrsmsError

SPLITS = ("train", "dev", "test")


def read_wav_scp(path: Path) -> dict[str, Path]:
    """Recording id to file; raises :class:`LrsmsError` where the table is malformed or holds commands."""
    table = read_table(path)
    pipes = [name for name, value in table.items() if value.endswith("|")]
    if pipes:
        raise LrsmsError(
            f"{path}: {len(pipes)} entries are commands, such as the line of {pipes[0]!r}: {table[pipes[0]]!r}; "
            "only paths of audio files are read: run the commands once and list their outputs"
        )
    return {name: Path(value).expanduser() for name, value in table.items()}


def _read_segments(path: Path) -> dict[str, tuple[str, float, float]]:
    """Utterance id to recording id, start and end in seconds."""
    segments = {}
    for name, value in read_table(path).items():
        try:
            recording, start, end = value.split()
            segments[name] = (recording, float(start), float(end))
        except ValueError:
            raise LrsmsError(f"{path}: {name} {value}: expected utterance, recording, start and end (s)") from None
    return segments


def read_kaldi(folder: Path, *, num_jobs: int, paths: Mapping[str, Path] | None = None) -> Split:
    """Manifests of one Kaldi folder; what lacks audio, text, speaker or a valid segment is excluded.

    Args:
        folder: with ``wav.scp``, ``text``, ``utt2spk`` and perhaps ``segments``.
        num_jobs: threads that read headers.
        paths: recording id to file, where they are others than in ``wav.scp``.

    Raises:
        LrsmsError: a file is missing or malformed, an id repeats, or ``wav.scp`` holds commands.
    """
    require_layout(folder, ["wav.scp", "text", "utt2spk"], "--kaldi_dir")
    paths = read_wav_scp(folder / "wav.scp") if paths is None else paths
    texts, speakers = read_table(folder / "text"), read_table(folder / "utt2spk")
    recordings, exclusions = open_recordings(paths, num_jobs=num_jobs, title=f"{folder.name}: read headers")
    if (folder / "segments").exists():
        segments = _read_segments(folder / "segments")
    else:
        segments = {name: (name, 0.0, item.duration) for name, item in recordings.items()}
    failed = {item.id: item for item in exclusions}
    supervisions = []
    for name, text in texts.items():
        recording, start, end = segments.get(name, (name, 0.0, 0.0))
        if recording in failed:
            if recording != name:  # an utterance of a broken recording: the recording itself is listed already
                exclusions.append(Exclusion(name, failed[recording].reason, failed[recording].detail))
        elif name not in segments:
            exclusions.append(Exclusion(name, "no_audio", "a transcript without audio in wav.scp or segments"))
        elif name not in speakers:
            exclusions.append(Exclusion(name, "no_speaker", f"not in {folder / 'utt2spk'}"))
        elif end <= start:
            exclusions.append(Exclusion(name, "outside_recording", f"segment from {start} to {end} s"))
        else:
            supervisions.append(
                SupervisionSegment(name, recording, start, round(end - start, 8), text=text, speaker=speakers[name])
            )
    known = {item.id for item in exclusions}
    for name in segments:
        if name not in texts and name not in known:
            exclusions.append(Exclusion(name, "no_text", f"not in {folder / 'text'}"))
    return pair(recordings.values(), supervisions, exclusions, str(folder))


def _only(folder: Path, kind: str) -> Path | None:
    found = sorted({*folder.glob(f"*{kind}*.jsonl"), *folder.glob(f"*{kind}*.jsonl.gz")})
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise LrsmsError(f"--manifest_dir {folder}: {len(found)} manifests of {kind} ({names}); leave one")
    return found[0] if found else None


def read_manifests(folder: Path) -> Split:
    """Manifests of one Lhotse folder. Cuts are taken apart into recordings and supervisions.

    Raises:
        LrsmsError: a manifest is missing, ambiguous or damaged, or an id repeats.
    """
    recordings, supervisions, cuts = (_only(folder, kind) for kind in ("recordings", "supervisions", "cuts"))
    if not cuts and not (recordings and supervisions):
        raise LrsmsError(
            f"--manifest_dir {folder}: expected one *recordings*.jsonl.gz and one *supervisions*.jsonl.gz, or one "
            "*cuts*.jsonl.gz"
        )
    try:
        if recordings and supervisions:
            items = list(RecordingSet.from_file(recordings)), list(SupervisionSet.from_file(supervisions))
        else:
            whole = CutSet.from_file(cuts)
            check_unique((item.id for cut in whole for item in cut.supervisions), f"{cuts}: supervisions")
            items = tuple(list(part or []) for part in whole.decompose()[:2])
    except LrsmsError:
        raise
    except Exception as error:  # a damaged manifest fails in gzip, JSON or Lhotse, each with its own types
        raise LrsmsError(f"--manifest_dir {folder}: not readable as Lhotse manifests ({error})") from error
    return pair(*items, [], str(folder))


def prepare_own_data(
    output_dir: Path, *, kaldi_dir: Path | None = None, manifest_dir: Path | None = None, num_jobs: int = 1
) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test`` from exactly one of the two kinds of folders.

    Raises:
        LrsmsError: none or both are given, a split is missing, or what :func:`read_kaldi` and
            :func:`read_manifests` raise.
    """
    if bool(kaldi_dir) == bool(manifest_dir):
        raise LrsmsError("own_data: give one of --kaldi_dir and --manifest_dir")
    if kaldi_dir:
        require_layout(kaldi_dir, SPLITS, "--kaldi_dir")
        splits = {name: read_kaldi(kaldi_dir / name, num_jobs=num_jobs) for name in SPLITS}
    else:
        require_layout(manifest_dir, SPLITS, "--manifest_dir")
        splits = {name: read_manifests(manifest_dir / name) for name in SPLITS}
    save_splits(output_dir, splits)
