"""What differs between versions of ESPnet."""

import datetime
import logging
import sys

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn

from lrsms.espnet.classes import LOW_RANK_ENCODERS
from lrsms.espnet.compat import current_names, load_later, make_pad_mask, seconds

OPTIONS = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "rel_pos_type": "latest"}
LOW_RANK = {"subsampling": 0.25, "multiple": 2}


def of_202511(weights: dict, factored: bool) -> dict:
    """Weights by the names that ESPnet 202511 gave them; those of 202511 itself as they are."""
    if any(name.startswith("embed.out.0.0." if factored else "embed.out.0.") for name in weights):
        return dict(weights)
    return {name.replace("embed.out.", "embed.out.0."): value for name, value in weights.items()}


def encoder(low_rank: dict | None) -> nn.Module:
    cls = LOW_RANK_ENCODERS["lowrank_conformer"] if low_rank else ConformerEncoder
    return cls(20, **OPTIONS, **({"low_rank": low_rank} if low_rank else {})).eval()


@pytest.mark.parametrize("low_rank", [LOW_RANK, None], ids=["low-rank", "dense"])
@pytest.mark.parametrize("old", [True, False], ids=["202511", "installed"])
def test_weights_of_either_version_load(low_rank, old):
    torch.manual_seed(0)
    trained, fresh = (nn.ModuleDict({"encoder": encoder(low_rank)}) for _ in range(2))
    inner = trained["encoder"].state_dict()
    stored = of_202511(inner, low_rank is not None) if old else dict(inner)
    assert current_names(trained["encoder"], stored).keys() == inner.keys()
    fresh.load_state_dict({f"encoder.{name}": value for name, value in stored.items()})  # strict
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_durations_as_either_version_stores_them():
    assert seconds(datetime.timedelta(minutes=1.5)) == seconds({"__timedelta_seconds__": 90.0}) == 90.0


def test_what_espnet_seldom_needs_is_loaded_when_it_is_used(run_python, tmp_path):
    lines = [
        "import sys, inspect, lrsms.espnet, espnet2.tasks.asr, espnet2.text.cleaner as cleaner",
        "inspect.stack()",  # looks at every module
        "names = ('inflect', 'nltk', 'g2p_en.g2p')",
        "print([name in sys.modules for name in names])",
        "print(cleaner.TextCleaner('tacotron')('jr. has 3 cats'))",
        "print('inflect' in sys.modules, cleaner.tacotron_cleaner.cleaners.__name__)",
        "import g2p_en; print(g2p_en.G2p.__name__)",
    ]
    done = run_python("-c", "\n".join(lines), cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "[False, False, False]",
        "JUNIOR HAS THREE CATS",
        "True tacotron_cleaner.cleaners",
        "G2p",
    ], done.stderr


def test_espnets_own_lists_of_lengths_are_not_warned_of(caplog):
    assert make_pad_mask([1, 2]).tolist() == [[False, True], [False, False]]
    logging.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def test_later_leaves_alone_what_is_loaded_or_not_installed():
    load_later("json", "no_such_module_here")
    assert type(sys.modules["json"]).__name__ == "module"
    assert "no_such_module_here" not in sys.modules
