"""What a training split shares with the splits that judge it: the same utterances, recordings and speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lhotse import MonoCut
from lhotse.cut import Cut

from lrsms.data.manifests import UNKNOWN_SPEAKER


def shared_by_splits(splits: Mapping[str, Iterable[Cut]], train_splits: Sequence[str]) -> list[str]:
    """Sentences about what evaluation splits share with the training splits; none if they share nothing.

    A word error rate on utterances that were trained on says nothing, and on speakers that were heard in training it
    is lower than on others.

    Args:
        splits: cuts of each split, of one supervision each.
        train_splits: names of those that are trained on.
    """
    contents = {split: _contents(cuts) for split, cuts in splits.items()}
    sentences = []
    for split in splits:
        if split in train_splits:
            continue
        for kind, consequence in _KINDS.items():
            trained = set().union(*(contents[train][kind] for train in train_splits))
            shared = [name for name in contents[split][kind] if name in trained]
            if shared:
                own = len(contents[split][kind])
                such = f"such as {shared[0]}" if own > 1 else shared[0]
                where = " and ".join(train_splits)
                sentences.append(f"{split}: {len(shared)} of {own} {kind} are also in {where}, {such}; {consequence}")
    return sentences


_KINDS = {
    "utterance ids": "error rates mean nothing if these are the same utterances",
    "sound files": "error rates mean nothing if the same parts of them were trained on",
    "speakers": "error rates are those of voices heard in training",
}


def _contents(cuts: Iterable[Cut]) -> dict[str, dict[str, None]]:
    """What a split holds of each kind, once and in its order."""
    contents: dict[str, dict[str, None]] = {kind: {} for kind in _KINDS}
    for cut in cuts:
        contents["utterance ids"][cut.id] = None
        contents["sound files"].update(dict.fromkeys(_files(cut)))
        speaker = cut.supervisions[0].speaker
        if speaker and speaker != UNKNOWN_SPEAKER:
            contents["speakers"][speaker] = None
    return contents


def _files(cut: Cut) -> Iterator[str]:
    for part in [cut] if isinstance(cut, MonoCut) else [track.cut for track in cut.tracks]:
        if part.recording is not None:
            yield from (str(source.source) for source in part.recording.sources if source.type == "file")
