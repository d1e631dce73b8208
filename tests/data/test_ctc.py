from types import SimpleNamespace

import pytest

from lrsms.data.ctc import ctc_length_ok, too_short_for_ctc
from lrsms.data.tokens import Tokens


@pytest.mark.parametrize("tokens, needed", [([], 0), ([2], 1), ([2, 3, 2], 3), ([2, 2], 3), ([2, 2, 2, 3], 6)])
def test_repeated_tokens_need_a_blank_between_them(tokens, needed):
    assert ctc_length_ok(tokens, needed)
    assert not ctc_length_ok(tokens, needed - 1)


def test_infinite_exactly_where_torch_says_so():
    import torch

    tokens = [2, 2, 3]
    for frames in (3, 4):
        log_probs = torch.zeros(frames, 1, 5).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(log_probs, torch.tensor([tokens]), [frames], [len(tokens)])
        assert bool(torch.isfinite(loss)) == ctc_length_ok(tokens, frames)


def test_too_short_cuts_are_listed_with_what_they_need():
    tokens = Tokens(["<blank>", "<unk>", "A", "B", "<sos/eos>"], "char")
    cuts = [
        SimpleNamespace(id="fits", duration=0.12, supervisions=[SimpleNamespace(text="AB")]),
        SimpleNamespace(id="short", duration=0.08, supervisions=[SimpleNamespace(text="AA")]),
    ]
    (row,) = too_short_for_ctc(cuts, tokens, lambda seconds: round(seconds / 0.04))
    assert (row.id, row.reason) == ("short", "too_short_for_ctc")
    assert "2 frames" in row.detail and "needs 3" in row.detail
