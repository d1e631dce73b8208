"""The picture of WER over SNR, one line for each modality and experiment."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from lrsms.scoring.conditions import MODALITIES, ScoredCondition, group_of, snr_order
from lrsms.scoring.pictures import STYLE, name_legend, save

_COLORS = {"audio": "C0", "video": "C2", "audiovisual": "C3"}
_LINES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D")


def wer_over_snr(scored: Sequence[ScoredCondition], picture: Path) -> bool:
    """Draw WER over SNR: colors are modalities, line styles are experiments, seeds of one are averaged.

    The span between the best and the worst seed is shaded. Returns whether there was anything to draw; if not,
    ``picture`` does not exist afterwards.
    """
    if not scored:
        picture.unlink(missing_ok=True)
        return False
    snrs = snr_order(result.snr_db for result in scored)[::-1]  # much noise on the left
    place = {snr: index for index, snr in enumerate(snrs)}
    groups = list(dict.fromkeys(group_of(result.experiment) for result in scored))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
        for number, group in enumerate(groups):
            look = {"linestyle": _LINES[number % len(_LINES)], "marker": _MARKS[number % len(_MARKS)], "markersize": 5}
            for modality in MODALITIES:
                members = [
                    result for result in scored if group_of(result.experiment) == group and result.modality == modality
                ]
                rates: dict[float | None, list[float]] = {}
                for result in members:
                    rates.setdefault(result.snr_db, []).append(result.scores.wer.rate)
                if modality == "video" and rates:  # no sound: the same at every ratio
                    rates = dict.fromkeys(snrs, rates[None])
                points = sorted((place[snr], values) for snr, values in rates.items())
                if not points:
                    continue
                x, color = [x for x, _ in points], _COLORS[modality]
                axis.plot(x, [sum(values) / len(values) for _, values in points], color=color, **look)
                lows, highs = [min(values) for _, values in points], [max(values) for _, values in points]
                axis.fill_between(x, lows, highs, color=color, alpha=0.12, linewidth=0)
        axis.set_xticks(range(len(snrs)), ["clean" if snr is None else f"{snr:g}" for snr in snrs])
        axis.set(xlabel="SNR of the babble, dB", ylabel="WER, %")
        axis.set_ylim(bottom=0)
        drawn = [modality for modality in MODALITIES if any(result.modality == modality for result in scored)]
        handles = [Line2D([], [], color=_COLORS[modality], label=modality) for modality in drawn]
        for number, group in enumerate(groups):
            seeds = len({result.experiment for result in scored if group_of(result.experiment) == group})
            label = group + (f", mean of {seeds} seeds" if seeds > 1 else "")
            line, mark = _LINES[number % len(_LINES)], _MARKS[number % len(_MARKS)]
            handles.append(Line2D([], [], color="0.3", linestyle=line, marker=mark, markersize=5, label=label))
        name_legend(figure, handles)
        save(figure, picture)
        plt.close(figure)
    return True
