import pytest

from lrsms.data.ctc import ctc_length_ok


@pytest.mark.parametrize(("tokens", "needed"), [([], 0), ([2], 1), ([2, 3, 2], 3), ([2, 2], 3), ([2, 2, 2, 3], 6)])
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
