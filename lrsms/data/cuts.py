"""Stage 1: manifests to cuts that can be trained on; what cannot is excluded, listed and counted.

Each cut has one supervision and bears its id. Resampling and speed perturbation stay lazy: Lhotse applies them
when the audio is loaded. Where stage 0 has left mouth regions, each cut gets those of its recording, and one whose
video is of no use stays as audio alone, listed and counted (:mod:`lrsms.data.mouths`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy
from tabulate import tabulate
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from lrsms.data import mouths
from lrsms.data.containers import CUT_OFF, length_fault
from lrsms.data.excluded import Exclusion, print_summary, read_excluded, top_reasons, write_excluded
from lrsms.data.joined import MANIFEST, Joined, join, read_joined
from lrsms.data.jsonl import atomic_jsonl, write_jsonl
from lrsms.data.manifest_files import read_recordings, read_supervisions
from lrsms.data.manifests import STAGE as PREPARE
from lrsms.data.manifests import check_unique
from lrsms.data.overlap import shared_by_splits
from lrsms.defaults import SAMPLING_RATES
from lrsms.errors import LrsmsError

STAGE = "cuts"
_BLOCK = 1 << 22  # samples read at once: bounds the memory of hour-long recordings
_OVERSHOOT = 0.5  # seconds a supervision may reach beyond its recording, as in Kaldi's extract-segments
_ROUNDING = 0.025  # seconds; less than this is rounding in the tables of others, and not worth a word


@dataclass(frozen=True)
class Limits:
    """Shortest and longest utterance in seconds that is included; ``None`` sets no limit."""

    min_utterance: float | None = None
    max_utterance: float | None = None


def _probe_file(path: Path, recording: Recording) -> tuple[str, str] | None:
    with soundfile.SoundFile(path) as file:
        if file.samplerate != recording.sampling_rate:
            mismatch = f"{path} has {file.samplerate} Hz, its manifest says {recording.sampling_rate} Hz"
            return "sampling_rate", mismatch + "; run stage 0 again or correct the manifest"
        if file.channels != 1:
            return "not_mono", f"{path} has {file.channels} channels; make it mono, such as with sox IN OUT remix 1"
        if file.format == "RAW":
            return "unreadable", f"{path} has no header that says what sound it is"
        if not SAMPLING_RATES[0] <= file.samplerate <= SAMPLING_RATES[1]:
            return (
                "sampling_rate",
                f"{path} announces {file.samplerate} Hz; expected {SAMPLING_RATES[0]} to {SAMPLING_RATES[1]} Hz",
            )
        announced = file.format, file.frames, file.samplerate
        samples = 0
        while len(block := file.read(_BLOCK, dtype="float32")):
            samples += len(block)
            if not np.isfinite(block).all():
                return "not_finite", f"{path} holds NaN or infinite samples"
    fault = length_fault(path, *announced, samples)
    if fault:
        return fault.reason, f"{path}: {fault.detail}"
    if samples == 0:
        return "zero_length", f"{path} holds no samples"
    if samples < recording.num_samples:
        return CUT_OFF, f"{path}: cut off, it holds {samples} of the {recording.num_samples} samples of its manifest"
    return None


def _probe_lazy(recording: Recording) -> tuple[str, str] | None:
    if recording.num_channels != 1:
        return "not_mono", f"{recording.num_channels} channels; make it mono"
    audio = recording.load_audio()
    if audio.shape[1] == 0:
        return "zero_length", "no samples"
    return None if np.isfinite(audio).all() else ("not_finite", "NaN or infinite samples")


def probe(recording: Recording) -> Exclusion | None:
    """Read all of a recording's audio and return what is wrong with it, or None.

    Reasons: ``missing_audio``, ``unreadable``, ``truncated``, ``longer_than_announced``, ``zero_length``,
    ``not_finite``, ``sampling_rate`` (other than the manifest's, or none that sound has) and ``not_mono``.
    """
    sources = recording.sources
    plain = len(sources) == 1 and sources[0].type == "file" and not recording.transforms
    path = Path(sources[0].source) if plain else None
    try:
        if path is not None and not path.is_file():
            return Exclusion(recording.id, "missing_audio", f"no such file: {path}")
        fault = _probe_file(path, recording) if path is not None else _probe_lazy(recording)
    except Exception as error:  # decoders raise many types; each means that training would fail on it too
        return Exclusion(recording.id, "unreadable", f"{path or recording.id}: {error}")
    return Exclusion(recording.id, *fault) if fault else None


def _limit(supervision: SupervisionSegment, limits: Limits) -> tuple[str, str] | None:
    if limits.min_utterance is not None and supervision.duration < limits.min_utterance:
        return "too_short", f"{supervision.duration:.3f} s, --min_utterance {limits.min_utterance} s"
    if limits.max_utterance is not None and supervision.duration > limits.max_utterance:
        return "too_long", f"{supervision.duration:.3f} s, --max_utterance {limits.max_utterance} s"
    return None


def _judge(
    supervision: SupervisionSegment, recording: Recording | None, broken: dict[str, Exclusion], limits: Limits
) -> tuple[str, str] | None:
    if recording is None:
        return "no_audio", f"no recording {supervision.recording_id}"
    if recording.id in broken:
        return broken[recording.id].reason, broken[recording.id].detail
    if not (supervision.text or "").strip():
        return "empty_text", "the transcript is empty"
    inside = 0 <= supervision.start < recording.duration and supervision.end < recording.duration + _OVERSHOOT
    if not inside or not supervision.duration > 0:
        span = f"{supervision.start:.3f} to {supervision.end:.3f} s"
        return "outside_recording", f"{span} of a recording of {recording.duration:.3f} s"
    return _limit(supervision, limits)


def _make_cut(supervision: SupervisionSegment, recording: Recording) -> MonoCut:
    duration = min(supervision.duration, recording.duration - supervision.start)
    text = " ".join(supervision.text.split())
    return MonoCut(
        id=supervision.id,
        start=supervision.start,
        duration=duration,
        channel=recording.channel_ids[0],
        recording=recording,
        supervisions=[fastcopy(supervision, start=0.0, duration=duration, text=text, channel=recording.channel_ids[0])],
    )


def _shortened(split: str, cuts: list[MonoCut], supervisions: Iterable[SupervisionSegment]) -> list[str]:
    """One sentence if there are utterances whose end was behind that of their recording."""
    said = {supervision.id: supervision.end for supervision in supervisions}
    beyond = [said[cut.id] - cut.recording.duration for cut in cuts]
    beyond = [seconds for seconds in beyond if seconds > _ROUNDING]
    if not beyond:
        return []
    longest = max(beyond)
    return [f"{split}: {len(beyond)} utterances are shortened; they ended up to {longest:.2f} s behind their recording"]


def make_cuts(
    recordings: Iterable[Recording],
    supervisions: Iterable[SupervisionSegment],
    *,
    limits: Limits = Limits(),
    num_jobs: int = 1,
    title: str = "cuts",
) -> tuple[list[MonoCut], list[Exclusion]]:
    """One cut per supervision, at its recording's own sampling rate, after reading every audio file whole.

    Returns:
        The cuts in the order of the supervisions, and one exclusion for each supervision that gave none and for
        each recording without supervision.

    Raises:
        LrsmsError: a recording or supervision id occurs twice.
    """
    recordings, supervisions = list(recordings), list(supervisions)
    check_unique((item.id for item in recordings), f"{title}: recordings")
    check_unique((item.id for item in supervisions), f"{title}: supervisions")
    transcribed = {item.recording_id for item in supervisions}
    probed = [item for item in recordings if item.id in transcribed]
    faults = thread_map(probe, probed, max_workers=num_jobs, desc=f"{title}: read audio", unit="file")
    broken = {item.id: item for item in faults if item}
    by_id = {item.id: item for item in recordings}

    cuts: list[MonoCut] = []
    unused = [item for item in recordings if item.id not in transcribed]
    exclusions = [Exclusion(item.id, "no_text", "a recording without transcript") for item in unused]
    for supervision in supervisions:
        recording = by_id.get(supervision.recording_id)
        problem = _judge(supervision, recording, broken, limits)
        if problem:
            exclusions.append(Exclusion(supervision.id, *problem))
        else:
            cuts.append(_make_cut(supervision, recording))
    return cuts, exclusions


def _joined(
    utterances: list[Joined], cuts: list[MonoCut], exclusions: list[Exclusion], limits: Limits, path: Path
) -> tuple[list[Cut], list[Exclusion]]:
    """Utterances of several parts in place of the parts; the limits are those of the whole."""
    check_unique((item.id for item in utterances), str(path))
    whole, left_out = join(utterances, cuts, exclusions, str(path))
    problems = {cut.id: _limit(cut.supervisions[0], limits) for cut in whole}
    left_out += [Exclusion(name, *problem) for name, problem in problems.items() if problem]
    return [cut for cut in whole if not problems[cut.id]], left_out


def _read_manifests(folder: Path) -> tuple[list[Recording], list[SupervisionSegment]]:
    paths = [folder / f"{kind}.jsonl.gz" for kind in ("recordings", "supervisions")]
    for path in paths:
        if not path.exists():
            raise LrsmsError(f"{path}: no such file; run stage 0 first, or correct the names of the splits")
    return read_recordings(paths[0]), read_supervisions(paths[1])


def _resampled(cuts: list[Cut], sampling_rate: int, split: str) -> list[Cut]:
    others = Counter(cut.sampling_rate for cut in cuts if cut.sampling_rate != sampling_rate)
    for rate, count in sorted(others.items()):
        print(f"{split}: resampling lazily from {rate} to {sampling_rate} Hz: {count} utterances")
    return [cut if cut.sampling_rate == sampling_rate else cut.resample(sampling_rate) for cut in cuts]


def _write(path: Path, split: str, cuts: list[Cut], speeds: Sequence[float]) -> None:
    # Perturbed copies are written one by one: a thousand hours three times over need not fit in memory.
    def perturbed() -> Iterator[dict]:
        for speed in speeds:
            for cut in tqdm(cuts, desc=f"{split}: write cuts, speed {speed:g}", unit="cut"):
                yield (cut if speed == 1.0 else mouths.perturb_speed(cut, speed)).to_dict()

    write_jsonl(path, perturbed())


def build_cuts(
    data_dir: Path,
    *,
    train_splits: Sequence[str],
    eval_splits: Sequence[str],
    valid_split: str = "dev",
    sampling_rate: int = 16000,
    speeds: Sequence[float] = (1.0,),
    min_utterance: float = 0.1,
    max_utterance: float = 30.0,
    num_jobs: int = 1,
) -> None:
    """Write ``cuts.jsonl.gz`` and ``excluded.tsv`` of every split, then print a table.

    Training splits are perturbed to each of ``speeds``, video with its sound; training splits and ``valid_split``
    lose utterances shorter than ``min_utterance`` or longer than ``max_utterance`` (seconds); the other evaluation
    splits lose none for length.
    Nothing earlier is replaced before every split has succeeded.

    Args:
        sampling_rate: Hz; other rates are resampled lazily.

    Raises:
        LrsmsError: manifests are missing or damaged, ids repeat, or a split would be empty.
    """
    limited = {*train_splits, valid_split}
    done: dict[str, tuple[list[Cut], list[Exclusion]]] = {}
    remarks: list[str] = []
    for split in [*train_splits, *eval_splits]:
        limits = Limits(min_utterance, max_utterance) if split in limited else Limits()
        recordings, supervisions = _read_manifests(data_dir / split)
        joined = read_joined(data_dir / split)
        limits_of_parts = limits if joined is None else Limits()
        parts, exclusions = make_cuts(recordings, supervisions, limits=limits_of_parts, num_jobs=num_jobs, title=split)
        cuts: list[Cut] = list(parts)
        if joined is not None:
            cuts, exclusions = _joined(joined, parts, exclusions, limits, data_dir / split / MANIFEST)
        if not cuts:
            raise LrsmsError(f"split {split}: every utterance is excluded: {top_reasons(exclusions)}")
        done[split] = (cuts, exclusions)
        remarks += _shortened(split, parts, supervisions)
    without_video = _attach_mouths(data_dir, done, num_jobs)

    with ExitStack() as unfinished:
        for split, (cuts, _) in done.items():
            path = unfinished.enter_context(atomic_jsonl(data_dir / split / "cuts.jsonl.gz"))
            _write(path, split, _resampled(cuts, sampling_rate, split), speeds if split in train_splits else (1.0,))
    for split, (_, exclusions) in done.items():
        write_excluded(data_dir / split / "excluded.tsv", STAGE, exclusions)
    _print_table(done, train_splits, speeds)
    remarks += shared_by_splits({split: cuts for split, (cuts, _) in done.items()}, train_splits)
    print("".join(f"{remark}\n" for remark in remarks), end="")
    for split, rows in without_video.items():
        write_excluded(data_dir / split / mouths.WITHOUT_VIDEO, STAGE, rows)
        mouths.print_summary(split, len(done[split][0]), rows)


def _attach_mouths(
    data_dir: Path, done: dict[str, tuple[list[Cut], list[Exclusion]]], num_jobs: int
) -> dict[str, list[Exclusion]]:
    """Put regions on the cuts of ``done`` that have any; returns the cuts without, by split with video.

    Raises:
        LrsmsError: no regions of any split are usable.
    """
    found = {split: mouths.read_manifest(data_dir / split) for split in done}
    manifests = {split: regions for split, regions in found.items() if regions is not None}
    size, without = mouths.common_size(manifests.values()), {}
    for split, regions in manifests.items():
        cuts, exclusions = done[split]
        known = read_excluded(data_dir / split / mouths.WITHOUT_VIDEO, PREPARE)
        cuts, without[split] = mouths.attach(cuts, regions, known, size=size, num_jobs=num_jobs, title=split)
        done[split] = (cuts, exclusions)
    if without and sum(map(len, without.values())) == sum(len(done[split][0]) for split in without):
        rows = [row for exclusions in without.values() for row in exclusions]
        raise LrsmsError(f"{data_dir}: no utterance has usable video: {top_reasons(rows)}")
    return without


def _print_table(
    done: dict[str, tuple[list[Cut], list[Exclusion]]], train_splits: Sequence[str], speeds: Sequence[float]
) -> None:
    rows = [
        (split, len(cuts), sum(cut.duration for cut in cuts) / 3600, len(exclusions))
        for split, (cuts, exclusions) in done.items()
    ]
    print(
        tabulate(
            rows, ("split", "utterances", "hours", "excluded"), tablefmt="plain", floatfmt=".2f", disable_numparse=[0]
        )
    )
    if tuple(speeds) != (1.0,):
        print(f"{', '.join(train_splits)}: written at speeds {', '.join(f'{speed:g}' for speed in speeds)}")
    for split, (_, exclusions) in done.items():
        print_summary(split, exclusions)
