"""Recordings, folders of them and standard input to text, one after the other."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lrsms.data.audio import duration, find_audio, left_out, short_names
from lrsms.data.transcripts import Transcript
from lrsms.errors import LrsmsError
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.files import write_text

STDIN = "-"


@dataclass(frozen=True)
class Transcribing:
    """What to write, and where.

    Attributes:
        recognizer: does the work.
        kind: ``txt``, ``srt`` or ``json``.
        output_dir: folder for one file for each recording; None for standard output.
        channel: of the recordings, from 0; None for the mean of all.
    """

    recognizer: Recognizer
    kind: str = "txt"
    output_dir: Path | None = None
    channel: int | None = None

    def run(self, sources: Sequence[str]) -> None:
        """Write the transcript of every source; one that cannot be read is named, and the others still come out.

        Args:
            sources: sound files, folders, ``-`` for standard input.

        Raises:
            LrsmsError: afterwards, if some could not be read; or at once, if subtitles of several recordings
                would be mixed on standard output.
        """
        recordings, failed = _expand(sources)
        if self.kind == "srt" and self.output_dir is None and len(recordings) > 1:
            raise LrsmsError(f"--format srt: {len(recordings)} recordings; give --output_dir, for one file each")
        names = short_names(Path("stdin" if source == STDIN else source) for source in recordings)
        total = sum(duration(Path(source)) for source in recordings if source != STDIN)
        done: list[Transcript] = []
        with tqdm(total=round(total, 1), unit="s", desc="transcribing", dynamic_ncols=True, disable=None) as bar:
            for source in recordings:
                bar.set_postfix_str(Path(source).name)
                try:
                    transcript = self._recognize(source, bar)
                except LrsmsError as error:
                    bar.write(f"error: {error}", file=sys.stderr)
                    failed += 1
                    continue
                done.append(transcript)
                name = names[Path("stdin" if source == STDIN else source)]
                self._write(transcript, source, name, len(recordings), bar)
        _report(done)
        if failed:
            raise LrsmsError(f"{failed} of {failed + len(done)} sources could not be transcribed, see above")

    def _recognize(self, source: str, bar: tqdm) -> Transcript:
        def progress(seconds: float) -> None:
            bar.total = max(bar.total, round(bar.n + seconds, 1))  # standard input has no length in advance
            bar.update(seconds)

        if source != STDIN:
            return self.recognizer(source, channel=self.channel, progress=progress)
        content = sys.stdin.buffer.read()
        if not content:
            raise LrsmsError("standard input: nothing came; pipe a sound file with a header into it, such as WAV")
        return self.recognizer(io.BytesIO(content), channel=self.channel, name="standard input", progress=progress)

    def _write(self, transcript: Transcript, source: str, name: str, count: int, bar: tqdm) -> None:
        text = transcript.formatted(self.kind, source)
        if self.output_dir is not None:
            path = self.output_dir / f"{name}.{self.kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            return
        named = f"{source}\t" if self.kind == "txt" and count > 1 else ""
        bar.write(named + text, file=sys.stdout, end="")
        sys.stdout.flush()


def _expand(sources: Sequence[str]) -> tuple[list[str], int]:
    """Recordings in the order given, each once, and how many of ``sources`` were folders without any."""
    recordings: list[str] = []
    failed = 0
    for source in sources:
        if source != STDIN and Path(source).is_dir():
            try:
                found = find_audio(Path(source))
            except LrsmsError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            recordings += map(str, found)
            others = left_out(Path(source), found)
            if others:
                kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
                print(f"{source}: {others.total()} files are no sound and left out: {kinds}", file=sys.stderr)
        else:
            recordings.append(source)
    return list(dict.fromkeys(recordings)), failed


def _report(done: Sequence[Transcript]) -> None:
    sound, spent = sum(transcript.duration for transcript in done), sum(transcript.seconds for transcript in done)
    silent = sum(not transcript.text for transcript in done)
    rtf = f"RTF {spent / sound:.3f}" if sound else "no sound"
    print(
        f"{len(done)} recordings, {sound:.1f} s of sound in {spent:.1f} s: {rtf}"
        + (f"; {silent} without words" if silent else ""),
        file=sys.stderr,
    )
