"""Our beam search against ESPnet's: the same hypotheses, the same scores, whatever scores them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from lrsms.espnet.bench.dummy import write_dummy_model
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compat import BatchBeamSearch, BeamSearch
from lrsms.espnet.inference.beam_search import make_search_fast_
from lrsms.espnet.inference.beam_search.attention import (
    LatentMemory,
    LatentPast,
    PlainMemory,
    PlainPast,
    attention_to_memory,
    attention_to_past,
)
from lrsms.espnet.inference.beam_search.beam import FastBatchBeamSearch, FastBeamSearch
from lrsms.espnet.inference.beam_search.ctc_prefix import IMPOSSIBLE, PrefixScores
from lrsms.espnet.inference.beam_search.scorers import AnyScorer, CachedDecoder, can_cache
from lrsms.espnet.inference.open import open_recognizer

CHECKPOINT = "valid.acc.ave.pth"
TOKENS = 24
LSTM = {"decoder": "lowrank_rnn", "decoder_conf": {"num_layers": 1, "hidden_size": 16}}


@pytest.fixture(scope="module")
def untrained(write_config, tmp_path_factory):
    """``untrained(**changes)``: the tiny configuration, with random weights that say more than uniform ones."""
    known: dict[str, Path] = {}

    def write(**changes) -> Path:
        if str(changes) not in known:
            folder = tmp_path_factory.mktemp("untrained")
            write_dummy_model(write_config(folder / "train.yaml", **changes), folder / "exp", CHECKPOINT, TOKENS)
            weights = torch.load(folder / "exp" / CHECKPOINT)
            for name, value in weights.items():
                if "output" in name.split(".")[-2] or "ctc_lo" in name:
                    value.mul_(8.0)
            torch.save(weights, folder / "exp" / CHECKPOINT)
            known[str(changes)] = folder / "exp"
        return known[str(changes)]

    return write


def two_searches(folder, **options):
    theirs = open_recognizer(Experiment(folder, CHECKPOINT), options, fast_search=False)
    ours = copy.deepcopy(theirs)
    assert make_search_fast_(ours)
    return ours, theirs


def assert_equal(ours, theirs, encoded):
    with torch.no_grad():
        found, expected = (
            one.beam_search(encoded, maxlenratio=one.maxlenratio, minlenratio=one.minlenratio) for one in (ours, theirs)
        )
    # Those that CTC finds impossible are all alike: nothing says which of them a beam keeps.
    found, expected = ([one for one in some if float(one.score) > IMPOSSIBLE / 100] for some in (found, expected))
    assert [one.yseq.tolist() for one in found] == [one.yseq.tolist() for one in expected]
    for one, other in zip(found, expected):
        torch.testing.assert_close(one.score.float(), torch.as_tensor(other.score).float(), rtol=1e-4, atol=1e-3)
        for key, value in other.scores.items():
            torch.testing.assert_close(one.scores[key].float(), torch.as_tensor(value).float(), rtol=1e-4, atol=1e-3)
    return expected


OPTIONS = [
    {"beam_size": 4, "ctc_weight": 0.3},
    {"beam_size": 1, "ctc_weight": 0.5},
    {"beam_size": TOKENS - 2, "ctc_weight": 0.3, "maxlenratio": 0.4},  # no pre-beam: it would hold every token
    {"beam_size": 4, "ctc_weight": 0.0, "maxlenratio": -12.0},
    {"beam_size": 4, "ctc_weight": 1.0},
    {"beam_size": 5, "ctc_weight": 0.3, "penalty": 1.5, "maxlenratio": 0.5, "minlenratio": 0.2, "nbest": 3},
    {"beam_size": 5, "ctc_weight": 0.2, "penalty": 0.4, "maxlenratio": 0.3, "normalize_length": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("changes", [{}, LSTM], ids=["transformer", "lstm"])
def test_hypotheses_and_scores_are_espnets(untrained, changes, options):
    ours, theirs = two_searches(untrained(**changes), **options)
    lstm = bool(changes) and options["ctc_weight"] < 1
    assert type(theirs.beam_search) is (BeamSearch if lstm else BatchBeamSearch)
    assert type(ours.beam_search) is (FastBeamSearch if lstm else FastBatchBeamSearch)
    generator = torch.Generator().manual_seed(0)
    found = [assert_equal(ours, theirs, torch.randn(frames, 16, generator=generator)) for frames in (2, 5, 23)]
    assert any(found)


def test_a_trained_model_says_the_same(experiment, corpus):
    ours, theirs = two_searches(experiment.output_dir, beam_size=5, ctc_weight=0.5)
    for cut in list(CutSet.from_file(corpus / "dev/cuts.jsonl.gz"))[:2]:
        audio = cut.load_audio()[0].astype(np.float32)
        (found, *_), (expected, *_) = ours(audio), theirs(audio)
        assert found[:3] == expected[:3]
        assert float(found[3].score) == pytest.approx(float(expected[3].score), rel=1e-4)


@pytest.mark.parametrize("normalize_before", [True, False])
@pytest.mark.parametrize(
    ("low_rank", "kinds"),
    [
        (None, (PlainPast, PlainMemory)),
        ({"attention": 0.25, "feed_forward": 0.25, "multiple": 2}, (LatentPast, LatentMemory)),
        ({"attention": 0.4, "feed_forward": 0.25, "multiple": 2}, (PlainPast, PlainMemory)),  # wider than a head
    ],
    ids=["dense", "latent", "wide"],
)
def test_the_decoder_computes_each_token_once(untrained, normalize_before, low_rank, kinds):
    changes = {"attention_heads": 4, "linear_units": 32, "num_blocks": 3, "normalize_before": normalize_before}
    folder = untrained(decoder_conf=changes | {"low_rank": low_rank}, encoder_conf={"output_size": 16})
    decoder = open_recognizer(Experiment(folder, CHECKPOINT), {"beam_size": 2}).asr_model.decoder
    _randomize_biases_(decoder)
    memory, rows = torch.randn(9, 16, generator=torch.Generator().manual_seed(0)), []
    hook = decoder.decoders[1].feed_forward.register_forward_hook(lambda _, x, y: rows.append(len(x[0])))
    cached, plain = CachedDecoder(decoder, memory), AnyScorer(decoder, memory, batched=True)
    assert {(type(layer.to_past), type(layer.to_memory)) for layer in cached._layers} == {kinds}
    tokens = torch.tensor([[TOKENS - 1]])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for step in range(40):  # hypotheses branch, meet again in one, and die
            expected, before = plain(tokens), len(rows)
            torch.testing.assert_close(cached(tokens), expected, rtol=1e-4, atol=1e-5)
            assert rows[before:] == [len(tokens)]
            count = 1 if step % 10 == 9 else 4
            parents = torch.randint(len(tokens), (count,), generator=generator)
            tokens = torch.cat([tokens[parents], torch.randint(2, TOKENS, (count, 1), generator=generator)], 1)
            plain.extend(parents)
            cached.extend(parents)
    hook.remove()
    assert cached._past.shape[1] < 90  # of 130 tokens


@torch.no_grad()
def _randomize_biases_(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            value.copy_(torch.randn(value.shape, generator=generator))


def test_attention_keeps_only_latents_and_stays_plain_where_something_stands_between(untrained):
    low_rank = {"attention": 0.25, "feed_forward": 0.5, "multiple": 2}
    folder = untrained(
        decoder_conf={"attention_heads": 2, "linear_units": 32, "low_rank": low_rank}, encoder_conf={"output_size": 16}
    )
    recognizer = open_recognizer(Experiment(folder, CHECKPOINT), {"beam_size": 2})
    attention = recognizer.asr_model.decoder.decoders[0].self_attn
    memory = torch.randn(9, 16)
    past = attention_to_past(attention)
    past(torch.randn(1, 16), torch.zeros(1, 1), torch.zeros(2, 1))
    assert past._kept.shape[1] == 2 * 4  # of rank 4 each, against 2 * 16

    def kinds() -> tuple[type, type]:
        return type(attention_to_past(attention)), type(attention_to_memory(attention, memory))

    assert kinds() == (LatentPast, LatentMemory)
    handle = attention.linear_k[0].register_forward_hook(lambda *_: None)
    assert kinds() == (PlainPast, LatentMemory)  # keys of the memory are made by the layer itself
    handle.remove()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(attention), {torch.nn.Linear})
    assert type(attention_to_past(quantized)) is PlainPast
    attention.k_norm = torch.nn.LayerNorm(8)
    assert kinds() == (PlainPast, PlainMemory)


def test_who_listens_to_attention_hears_it(untrained):
    decoder = open_recognizer(Experiment(untrained(), CHECKPOINT), {"beam_size": 2}).asr_model.decoder
    assert can_cache(decoder)
    handle = decoder.decoders[0].src_attn.register_forward_hook(lambda *_: None)
    assert not can_cache(decoder)
    handle.remove()
    assert can_cache(decoder) and not can_cache(decoder.train())


def test_prefix_scores_of_long_and_certain_utterances():
    """Sums over alignments are exact where probabilities of whole utterances are none of float64's numbers."""
    frames, generator = 3000, torch.Generator().manual_seed(0)
    log_probs = (30 * torch.randn(frames, 5, generator=generator)).log_softmax(-1)
    scores = PrefixScores(log_probs, 0, 4)
    prefix, total = [], 0.0
    for token in (1, 1, 3, 2, 2):
        added, end = scores()
        total = total + float(added[0, token])
        prefix.append(token)
        scores.extend(torch.tensor([0]), torch.tensor([token]), added[0, [token]])
    end = float(scores()[1]) + total
    loss = torch.nn.functional.ctc_loss(
        log_probs.double()[:, None], torch.tensor([prefix]), [frames], [len(prefix)], reduction="sum"
    )
    assert end == pytest.approx(-float(loss), rel=1e-9) and end < -10_000


def test_what_no_alignment_can_say_is_impossible():
    scores = PrefixScores(torch.randn(1, 5).log_softmax(-1), 0, 4)
    first, _ = scores()
    assert (first[0, 1:4] > -20).all() and first[0, 0] == first[0, 4] == IMPOSSIBLE
    scores.extend(torch.tensor([0]), torch.tensor([2]), first[0, [2]])
    second, end = scores(torch.tensor([[1, 2]]))
    assert (second < IMPOSSIBLE / 2).all() and torch.isfinite(second).all() and end.isfinite().all()


def test_searches_of_another_kind_stay(untrained):
    options = {"beam_size": 2, "ctc_weight": 0.3, "time_sync": True}
    recognizer = open_recognizer(Experiment(untrained(), CHECKPOINT), options)
    assert type(recognizer.beam_search).__name__ == "BeamSearchTimeSync"
