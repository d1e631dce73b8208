"""RESULTS.md: Markdown tables of error rates in ESPnet's style, and where every number comes from."""

from collections.abc import Sequence

from tabulate import SEPARATING_LINE, DataRow, TableFormat, tabulate

from lrsms.scoring.alignment import Counts
from lrsms.scoring.decoding import DecodingScores

_ERROR_HEADER = ("experiment", "dataset", "Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """A table that also reads well as plain text; the first ``left`` columns are left-aligned."""
    aligns = ["left" if column < left else "right" for column in range(len(header))]
    # The header goes in as a row: tabulate makes columns two wider than what it knows to be a header.
    return tabulate([header, SEPARATING_LINE, *rows], tablefmt=_MARKDOWN, colalign=aligns, disable_numparse=True)


def _rule(widths: Sequence[int], aligns: Sequence[str]) -> str:
    ends = [":" if align == "right" else "-" for align in aligns]
    return "|" + "|".join(f" {'-' * (width - 3)}{end} " for width, end in zip(widths, ends, strict=True)) + "|"


_MARKDOWN = TableFormat(None, _rule, None, None, None, DataRow("|", "|", "|"), padding=1, with_header_hide=None)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(row: dict, rate: str) -> str:
    return f"{row[rate]:.2f} [{row[f'{rate}_low']:.2f}, {row[f'{rate}_high']:.2f}]"


def _dataset(row: dict) -> str:
    return f"{row['decode']}/{row['split']}"


def summary_table(rows: Sequence[dict]) -> str:
    """One line per experiment and split, from the objects of results.json."""
    header = (
        *("experiment", "dataset", "parameters", "x fewer than dense", "MMACs/s"),
        *("WER % [95 %]", "CER % [95 %]", "RTF", "step s"),
    )
    cells = [
        (
            *(row["experiment"], _dataset(row), f"{row['parameters']:,}"),
            f"{row['dense_parameters'] / row['parameters']:.2f}",
            _number(row["macs_per_second"] and row["macs_per_second"] / 1e6, ",.1f"),
            *(_interval(row, "wer"), _interval(row, "cer")),
            *(_number(row["rtf"], ".3f"), _number(row["train_step_seconds"], ".3f")),
        )
        for row in rows
    ]
    return markdown_table(header, cells)


def _error_table(rows: Sequence[dict], totals: Sequence[Counts]) -> str:
    cells = [
        (
            *(row["experiment"], _dataset(row), str(total.sentences), str(total.tokens)),
            *(f"{rate:.1f}" for rate in total.percentages()),
        )
        for row, total in zip(rows, totals, strict=True)
    ]
    return markdown_table(_ERROR_HEADER, cells)


def _comparison_table(comparisons: Sequence[dict]) -> str:
    header = ("experiment", "compared with", "dataset", "WER difference, points [95 %]", "P(not worse)")
    cells = [
        (
            *(comparison["other"]["experiment"], comparison["reference"]["experiment"], _dataset(comparison["other"])),
            f"{comparison['difference']:+.2f} [{comparison['low']:+.2f}, {comparison['high']:+.2f}]",
            f"{comparison['not_worse']:.3f}",
        )
        for comparison in comparisons
    ]
    return markdown_table(header, cells, left=3)


def _provenance(rows: Sequence[dict]) -> str:
    """How the rows of one experiment were made: the training once, each decoding once."""
    row = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    hours, wall = _number(row["train_hours"], ".2f"), _number(row["wall_seconds"], ",.0f")
    training = [
        f"- training: `{row['command']}`",
        f"- configuration `{row['config']}`, seed {row['seed']}",
        f"- {row['epochs']} epochs of {hours} h of audio in {wall} s",
    ]
    lines = [
        f"### {row['experiment']}",
        "",
        *(training if row["epochs"] else [f"- not trained here, made by: `{row['command']}`"]),
        f"- commit {row['commit']}; {versions}",
        f"- machine: {row['machine']}",
    ]
    for decoded in rows:
        by = f", k2 {decoded['k2_version']}" if decoded.get("k2_version") else ""
        lines.append(
            f"- {_dataset(decoded)}: `{decoded['decode_command']}`, configuration `{decoded['decode_config']}`{by}"
        )
        if decoded["decode_machine"] != decoded["machine"]:
            lines.append(f"  - machine: {decoded['decode_machine']}")
        if decoded["missing_hypotheses"]:
            lines.append(
                f"  - {decoded['missing_hypotheses']} utterances have no hypothesis and count as all deletions"
            )
    return "\n".join(lines)


def report(
    rows: Sequence[dict],
    scores: Sequence[DecodingScores],
    comparisons: Sequence[dict],
    pictures: Sequence[str],
    incomplete: Sequence[str],
    conditions: str = "",
) -> str:
    """RESULTS.md as one text.

    Args:
        rows: the objects of results.json; ``scores`` are the counts behind them, in the same order.
        comparisons: ``{"reference": row, "other": row}`` with the fields of :class:`PairedDifference`.
        pictures: file names of pictures beside RESULTS.md.
        incomplete: a sentence for each experiment or decoding left out.
        conditions: a section of its own, on noise and missing streams.
    """
    parts = ["# Results", "", "Written by `python3 -m lrsms.bin.score`; running it again replaces this file.", ""]
    parts += [summary_table(rows), ""]
    parts += [
        "Intervals: 95 %, bootstrap over utterances, 10,000 resamples. RTF: processing per audio time.",
        "MMACs/s: million multiply-accumulates of the model's forward pass per second of audio.",
        "Step: one training step (forward, backward, update).",
        "",
    ]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in pictures]
    if incomplete:
        parts += ["Left out: " + "; ".join(incomplete) + ".", ""]
    parts += ["## WER", "", _error_table(rows, [score.wer.total for score in scores]), ""]
    parts += ["## CER", "", _error_table(rows, [score.cer.total for score in scores]), ""]
    if comparisons:
        parts += ["## Differences", "", _comparison_table(comparisons), ""]
        parts += ["Paired bootstrap over utterances; P(not worse): share of resamples without more errors.", ""]
    parts += [conditions] if conditions else []
    parts += ["## Provenance", ""]
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        parts += [_provenance([row for row in rows if row["experiment"] == experiment]), ""]
    return "\n".join(parts)
