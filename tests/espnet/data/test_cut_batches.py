"""The order of batches."""

import numpy as np
import pytest
import torch
from lhotse import CutSet

from lrsms.data.excluded import Exclusion, write_excluded
from lrsms.errors import LrsmsError
from lrsms.espnet.data.cut_batches import CutsDataset, CutsIterFactory, usable_cuts


class Ids:
    """Stands for CutsDataset: a batch is its ids."""

    def set_epoch(self, epoch):
        pass

    def __getitem__(self, cuts):
        return [cut.id for cut in cuts]


@pytest.fixture
def cuts(corpus) -> CutSet:
    return CutSet.from_file(corpus / "train/cuts.jsonl.gz")


def batches(cuts, epoch, **changes) -> list[list[str]]:
    options = {"max_duration": 5.0, "num_buckets": 3, "shuffle": True, "seed": 0} | changes
    return list(CutsIterFactory(cuts, Ids(), **options).build_iter(epoch))


def flat(found) -> list[str]:
    return [name for batch in found for name in batch]


def test_the_order_depends_on_seed_and_epoch_alone(cuts):
    first = batches(cuts, 1)
    assert len(first) > 3
    assert batches(cuts, 1) == first
    factory = CutsIterFactory(cuts, Ids(), max_duration=5.0, num_buckets=3, shuffle=True, seed=0)
    assert [list(factory.build_iter(epoch)) for epoch in (2, 1)][1] == first  # as after a resume
    assert batches(cuts, 2) != first
    assert batches(cuts, 1, seed=1) != first
    assert sorted(flat(first)) == sorted(flat(batches(cuts, 2))) == sorted(cuts.ids)


def test_without_shuffling_every_epoch_is_the_same(cuts):
    assert batches(cuts, 1, shuffle=False) == batches(cuts, 2, shuffle=False)
    factory = CutsIterFactory(cuts, Ids(), max_duration=5.0, num_buckets=3, shuffle=True, seed=0)
    assert list(factory.build_iter(1, shuffle=False)) == list(factory.build_iter(2, shuffle=False))


def test_batches_keep_to_the_duration(cuts):
    seconds = {cut.id: cut.duration for cut in cuts}
    found = batches(cuts, 1)
    assert any(len(batch) > 1 for batch in found)
    for batch in found:  # padding counts; the cut that closes a batch may be longer than the rest
        assert len(batch) == 1 or len(batch) * max(seconds[name] for name in batch[:-1]) <= 5.0


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_cuts_in_equal_numbers_of_batches(world_size, cuts):
    shares = [batches(cuts, 1, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    everything = [name for share in shares for name in flat(share)]
    # Where the last batches have fewer cuts than there are ranks, Lhotse gives some again under another name.
    repeated = [name for name in everything if "_dup" in name]
    assert len(repeated) < world_size
    assert sorted(set(everything) - set(repeated)) == sorted(cuts.ids)
    assert len(everything) == len(cuts) + len(repeated)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_fewer_cuts_than_buckets(count, cuts):
    few = cuts.subset(first=count)
    assert sorted(flat(batches(few, 1, num_buckets=10))) == sorted(few.ids)


def test_excluded_cuts_are_left_out_for_the_training_that_excluded_them(cuts, tmp_path):
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    names = list(cuts.ids)
    write_excluded(tmp_path / "excluded.tsv", "train a", [Exclusion(names[0], "too_short_for_ctc")])
    write_excluded(tmp_path / "excluded.tsv", "cuts", [Exclusion(names[1], "truncated")])
    assert list(usable_cuts(tmp_path / "cuts.jsonl.gz", tmp_path / "excluded.tsv", "train a").ids) == names[1:]
    assert list(usable_cuts(tmp_path / "cuts.jsonl.gz", tmp_path / "excluded.tsv", "train b").ids) == names
    write_excluded(tmp_path / "excluded.tsv", "train a", [Exclusion(name, "too_short_for_ctc") for name in names])
    with pytest.raises(LrsmsError, match=rf"no cut is left to train on; {len(names)} are excluded"):
        usable_cuts(tmp_path / "cuts.jsonl.gz", tmp_path / "excluded.tsv", "train a")
    with pytest.raises(LrsmsError, match="no such manifest of cuts; run stage 1 first"):
        usable_cuts(tmp_path / "absent.jsonl.gz", tmp_path / "excluded.tsv", "train a")


def test_speed_changes_where_training_is_in_bfloat16(cuts):
    """As a worker loads that is forked within autocast: torchaudio's convolution would follow it, and NumPy refuse."""
    perturbed = cuts.subset(first=2).perturb_speed(1.1)
    dataset = CutsDataset(lambda _, data: data["speech"], collate=list)
    expected = dataset[perturbed]
    with torch.autocast("cpu", torch.bfloat16):
        found = dataset[perturbed]
    assert [speech.dtype for _, speech in found] == [np.float32] * 2
    assert all((one == other).all() for (_, one), (_, other) in zip(found, expected, strict=True))
