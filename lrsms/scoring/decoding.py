"""Scoring one decoded split: ESPnet's ``score_wer`` and ``score_cer`` folders."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.files import write_text
from lrsms.fsa.options import CTC_ATTENTION
from lrsms.scoring.alignment import EMPTY, Counts, align_tokens, count_pairs, to_characters, to_words
from lrsms.scoring.bootstrap import error_rate_interval
from lrsms.scoring.normalizers import normalizer
from lrsms.text_files import read_lines, split_words


@dataclass(frozen=True)
class Reference:
    """What was said in one utterance, and by whom."""

    text: str
    speaker: str


@dataclass(frozen=True)
class Score:
    """Error counts of one split in one unit (words or characters), utterances in order of their ids."""

    counts: dict[str, Counts]  # by utterance id
    low: float  # percent: 95 % bootstrap interval of the error rate
    high: float

    @property
    def total(self) -> Counts:
        return sum(self.counts.values(), Counts())

    @property
    def rate(self) -> float:
        """Error rate in percent."""
        return self.total.percentages()[4]


@dataclass(frozen=True)
class DecodingScores:
    """Word and character errors of one decoded split, and how many utterances had no line in ``text``.

    ``plain`` are the word errors of the texts as they are, where ``wer`` and ``cer`` are of normalized ones.
    """

    wer: Score
    cer: Score
    missing: int
    plain: Score | None = None


def decoding_folder(experiment: Path, config: Path, checkpoint: str, split: str, method: str = CTC_ATTENTION) -> Path:
    """``<experiment>/decode_<config>_<method>_<checkpoint>/<split>``, where stage 4 writes and stage 5 reads.

    The method is left out if it is ESPnet's search.
    """
    names = [config.stem.removeprefix("decode").strip("_"), "" if method == CTC_ATTENTION else method]
    return experiment / "_".join(["decode", *filter(None, names), checkpoint.removesuffix(".pth")]) / split


def read_references(cuts: Path) -> dict[str, Reference]:
    """Read transcripts from a cut manifest, by supervision id, or from ``text`` and ``utt2spk`` of a Kaldi folder.

    Raises:
        LrsmsError: the manifest or a file of the folder is missing, has no utterance, or has an id twice.
    """
    if cuts.is_dir():
        return _read_kaldi_references(cuts)
    from lrsms.data.cut_files import read_cuts

    if not cuts.exists():
        raise LrsmsError(f"{cuts} is missing: scoring takes the references from it; run stages 0 and 1")
    references: dict[str, Reference] = {}
    for cut in read_cuts(cuts):
        for supervision in cut.supervisions:
            if supervision.id in references:
                raise LrsmsError(f"{cuts}: utterance {supervision.id} occurs twice; ids must be unique")
            references[supervision.id] = Reference(supervision.text or "", supervision.speaker or "unknown")
    if not references:
        raise LrsmsError(f"{cuts} holds no utterance to score")
    return references


def _read_kaldi_references(folder: Path) -> dict[str, Reference]:
    needed = "a Kaldi folder with text and utt2spk holds the references"
    texts = _read_table(folder / "text", missing=needed, twice="ids must be unique")
    speakers = _read_table(folder / "utt2spk", missing=needed, twice="ids must be unique")
    if not texts:
        raise LrsmsError(f"{folder / 'text'} holds no utterance to score")
    return {utterance: Reference(text, speakers.get(utterance, "unknown")) for utterance, text in texts.items()}


def read_hypotheses(text: Path) -> dict[str, str]:
    """Read a Kaldi ``text`` file: an id, then the recognized words, none when nothing was recognized.

    Raises:
        LrsmsError: the file is missing, is not UTF-8, or has an id twice.
    """
    return _read_table(text, missing="decode again (stage 4)", twice="decode again (stage 4)")


def _read_table(table: Path, *, missing: str, twice: str) -> dict[str, str]:
    """Kaldi's ``id value...`` lines; ``missing`` and ``twice`` end the messages about such a file or id."""
    if not table.is_file():
        raise LrsmsError(f"{table} is missing; {missing}")
    values: dict[str, str] = {}
    for utterance, *text in filter(None, (split_words(line, 1) for line in read_lines(table))):
        if utterance in values:
            raise LrsmsError(f"{table}: utterance {utterance} occurs twice; {twice}")
        values[utterance] = text[0] if text else ""
    return values


def score_decoding(folder: Path, cuts: Path) -> DecodingScores:
    """Score ``folder/text`` against ``cuts`` and write ``folder/score_{wer,cer}/{result.txt,per_utterance.tsv}``.

    An utterance without a hypothesis counts as all deletions; result.txt says how many there were. If the decoding's
    ``decode.json`` names a ``normalizer``, it is applied to both sides, and ``score_plain`` has the words as they are.

    Args:
        folder: of one decoded split.
        cuts: manifest of cuts, or a Kaldi folder such as ``dump/raw/test`` of ESPnet's own recipes.

    Raises:
        LrsmsError: an input is missing or malformed, or a hypothesis has an id that no reference has.
    """
    references = read_references(cuts)
    hypotheses = read_hypotheses(folder / "text")
    unknown = sorted(hypotheses.keys() - references.keys())
    if unknown:
        raise LrsmsError(
            f"{folder / 'text'}: {len(unknown)} utterances are not in {cuts}, the first is {unknown[0]}; "
            "decode again (stage 4) if the data has changed"
        )
    missing = len(references.keys() - hypotheses.keys())
    plain = None
    name = normalizer_of(folder)
    if name is not None:
        plain = _score(folder / "score_plain", to_words, references, hypotheses, cuts, missing)
        normalize = normalizer(name)
        references = {key: replace(value, text=normalize(value.text)) for key, value in references.items()}
        hypotheses = {key: normalize(value) for key, value in hypotheses.items()}
    scores = {
        name: _score(folder / f"score_{name}", tokenize, references, hypotheses, cuts, missing)
        for name, tokenize in (("wer", to_words), ("cer", to_characters))
    }
    return DecodingScores(scores["wer"], scores["cer"], missing, plain)


def normalizer_of(folder: Path) -> str | None:
    """The normalizer that a decoding is scored with, from its ``decode.json``; None without either."""
    file = folder / "decode.json"
    return json.loads(file.read_text(encoding="utf-8")).get("normalizer") if file.exists() else None


def _score(
    folder: Path,
    tokenize: Callable[[str], list[str]],
    references: dict[str, Reference],
    hypotheses: dict[str, str],
    cuts: Path,
    missing: int,
) -> Score:
    counts: dict[str, Counts] = {}
    lines = ["id\twords\terrors\tref\thyp"]
    for utterance, reference in sorted(references.items()):
        pairs = align_tokens(tokenize(reference.text), tokenize(hypotheses.get(utterance, "")))
        counts[utterance] = count_pairs(pairs)
        lines.append(_utterance_line(utterance, counts[utterance], pairs))
    if not any(count.tokens for count in counts.values()):
        raise LrsmsError(f"{cuts}: every transcript is empty, so there is no error rate")
    interval = error_rate_interval([c.errors for c in counts.values()], [c.tokens for c in counts.values()])
    score = Score(counts, *interval)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "per_utterance.tsv", "\n".join(lines) + "\n")
    write_text(folder / "result.txt", _result_text(score, references, missing))
    return score


def _utterance_line(utterance: str, counts: Counts, pairs: list[tuple[str | None, str | None]]) -> str:
    """One row of per_utterance.tsv; both sides have the same number of tokens, one below the other."""
    ref = " ".join(EMPTY if r is None else r for r, _ in pairs)
    hyp = " ".join(EMPTY if h is None else h for _, h in pairs)
    return f"{utterance}\t{counts.tokens}\t{counts.errors}\t{ref}\t{hyp}"


def _result_text(score: Score, references: dict[str, Reference], missing: int) -> str:
    """A table in the layout of sclite's ``result.txt``: one line per speaker, then Sum/Avg."""
    speakers: dict[str, Counts] = {}
    for utterance, counts in score.counts.items():
        speaker = references[utterance].speaker
        speakers[speaker] = speakers.get(speaker, Counts()) + counts
    width = max(len("Sum/Avg"), *map(len, speakers))
    header = f"| {'SPKR':<{width}} |  # Snt   # Wrd |   Corr    Sub    Del    Ins    Err  S.Err |"
    rule = "|" + "-" * (len(header) - 2) + "|"

    def line(name: str, counts: Counts) -> str:
        rates = " ".join(f"{rate:6.1f}" for rate in counts.percentages())
        return f"| {name:<{width}} | {counts.sentences:6d} {counts.tokens:7d} | {rates} |"

    rows = [line(name, counts) for name, counts in sorted(speakers.items())]
    notes = [f"95 % interval of Err, bootstrap over utterances: [{score.low:.2f}, {score.high:.2f}]"]
    if missing:
        notes.append(f"{missing} utterances have no hypothesis and count as all deletions")
    return "\n".join([rule, header, rule, *rows, rule, line("Sum/Avg", score.total), rule, *notes]) + "\n"
