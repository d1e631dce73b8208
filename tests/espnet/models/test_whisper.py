"""Whisper as ESPnet's encoder and decoder, dense and low-rank."""

import copy

import pytest
import torch

from lrsms.errors import LrsmsError
from lrsms.espnet.compress.model import _low_rank_name
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.espnet.models.whisper import WhisperEncoder
from lrsms.lowrank.initialization import skip_initialization
from lrsms.lowrank.merge import merge_
from lrsms.whisper import silence
from lrsms.whisper.files import open_whisper

LOW_RANK = {"attention": 0.5, "feed_forward": 0.5, "multiple": 2}
SPEECH = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0)) * 0.1
LENGTHS = torch.tensor([20000, 12000])
SPEECH[1, 12000:] = 0


def encoder(folder, **options):
    return LOW_RANK_ENCODERS["lowrank_whisper"](1, whisper_model=str(folder), **options).eval()


def decoder(folder, **options):
    size = open_whisper(folder).sizes.n_vocab
    return LOW_RANK_DECODERS["lowrank_whisper"](size, 16, whisper_model=str(folder), **options).eval()


@torch.no_grad()
def test_dense_parts_have_the_weights_of_the_file(tiny_whisper):
    file = open_whisper(tiny_whisper)
    for part, module in (("encoder", encoder(tiny_whisper)), ("decoder", decoder(tiny_whisper))):
        state = module.state_dict()
        assert state.keys() == {f"{part}s.{name}" for name in file.part(part)}
        assert all(state[f"{part}s.{name}"].equal(value) for name, value in file.part(part).items())


@torch.no_grad()
def test_contexts(tiny_whisper):
    clip, full = encoder(tiny_whisper, audio_context="clip"), encoder(tiny_whisper)
    encoded, lengths, _ = clip(SPEECH, LENGTHS)
    assert lengths.tolist() == [63, 38] and encoded.shape == (2, 63, 16)
    assert [clip.output_frames(int(length)) for length in LENGTHS] == [63, 38]
    alone, _, _ = clip(SPEECH[1:, :12000], LENGTHS[1:])
    torch.testing.assert_close(encoded[1, :38], alone[0], atol=1e-5, rtol=1e-4)
    encoded, lengths, _ = full(SPEECH, LENGTHS)
    assert lengths.tolist() == [600, 600] and encoded.shape == (2, 600, 16) and full.output_frames(1) == 600
    silent = torch.nn.functional.pad(SPEECH[:1], (0, 172000))
    torch.testing.assert_close(encoded[:1], clip(silent, torch.tensor([192000]))[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(LrsmsError, match=r"Whisper hears at most 12 s at a time, not 12.5 s"):
        clip(torch.zeros(1, 200000), torch.tensor([200000]))


def heard(model, speech, samples):
    """What the full context gives if silence, not the end of all sound, follows 12 s."""
    mel, _ = model.log_mel(torch.nn.functional.pad(speech[:, :samples], (0, 194000 - samples)), torch.tensor([194000]))
    stem = model.encoders
    x = torch.nn.functional.gelu(stem.conv2(torch.nn.functional.gelu(stem.conv1(mel)))).transpose(1, 2)[:, :600]
    return stem._attended(x + stem.positional_embedding, None)


@torch.no_grad()
def test_silence_of_one_position_each_is_the_full_context(tiny_whisper, monkeypatch):
    monkeypatch.setattr(silence, "POSITIONS", 600)  # as many as there are: each stands for itself or for nothing
    condensed, full, text = (
        encoder(tiny_whisper, audio_context="condensed"),
        encoder(tiny_whisper),
        decoder(tiny_whisper),
    )
    encoded, lengths, _ = condensed(SPEECH, LENGTHS)
    assert lengths.tolist() == [667, 642] and encoded.shape == (2, 667, 16)
    assert [condensed.output_frames(int(length)) for length in LENGTHS] == [667, 642]
    expected = torch.cat([heard(full, SPEECH[row : row + 1], int(LENGTHS[row])) for row in range(2)])
    wanted = torch.tensor([600, 600])
    tokens, counts = torch.randint(200, (2, 4)), torch.tensor([4, 4])
    logits = text(expected, wanted, tokens, counts)[0]
    text.audio_context = "condensed"
    weights = text.counts(encoded, lengths)
    assert weights.sum(1).tolist() == [600, 600] and set(weights.unique().tolist()) == {0, 1}
    for row in range(2):
        torch.testing.assert_close(encoded[row, weights[row] > 0], expected[row], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(text(encoded, lengths, tokens, counts)[0], logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_condensed_silence(tiny_whisper):
    condensed, text = encoder(tiny_whisper, audio_context="condensed"), decoder(tiny_whisper)
    encoded, lengths, _ = condensed(SPEECH, LENGTHS)
    assert lengths.tolist() == [63 + 4 + 64, 38 + 4 + 64]
    alone, _, _ = condensed(SPEECH[1:, :12000], LENGTHS[1:])
    torch.testing.assert_close(encoded[1, :106], alone[0], atol=1e-5, rtol=1e-4)
    text.audio_context = "condensed"
    weights = text.counts(encoded, lengths)
    assert weights[0].tolist() == [1] * 67 + weights[0, 67:].tolist() and weights[1, 106:].tolist() == [0] * 25
    assert weights.sum(1).tolist() == [600, 600] and weights[:, 67:106].min() >= 8
    tokens, counts = torch.randint(200, (2, 4)), torch.tensor([4, 4])
    together = text(encoded, lengths, tokens, counts)[0]
    torch.testing.assert_close(together[1:], text(alone, lengths[1:], tokens[1:], counts[1:])[0], atol=1e-5, rtol=1e-4)
    longest = torch.randn(1, 192000)
    encoded, lengths, _ = condensed(longest, torch.tensor([192000]))  # no silence is left
    assert lengths.tolist() == [664] and text.counts(encoded, lengths).sum() == 600
    expected = heard(condensed, longest, 192000)
    torch.testing.assert_close(encoded[:, :600], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_full_rank_and_merged_parts_are_the_dense_ones(tiny_whisper):
    dense = (encoder(tiny_whisper, audio_context="clip"), decoder(tiny_whisper))
    ranks = [{name: min(weight.shape) for name, weight in _matrices(part)} for part in dense]
    factored = (
        encoder(tiny_whisper, audio_context="clip", low_rank={"ranks": ranks[0]}),
        decoder(tiny_whisper, low_rank={"ranks": ranks[1]}),
    )
    assert {entry.role for part in factored for entry in part.rank_plan.entries} >= {
        *("attention", "cross_attention", "feed_forward", "output")
    }
    tokens, counts = torch.randint(200, (2, 4)), torch.tensor([4, 4])
    expected = _logits(*dense, tokens, counts)
    torch.testing.assert_close(_logits(*factored, tokens, counts), expected, atol=1e-4, rtol=1e-3)
    for part in factored:
        merge_(part)
    torch.testing.assert_close(_logits(*factored, tokens, counts), expected, atol=1e-4, rtol=1e-3)
    assert [part.state_dict().keys() for part in factored] == [part.state_dict().keys() for part in dense]


def _matrices(part):
    covered = {entry.module for entry in part.rank_plan.entries}
    return [(path, module.weight.flatten(1)) for path, module in part.named_modules() if path in covered]


def _logits(encoder, decoder, tokens, counts):
    encoded, lengths, _ = encoder(SPEECH, LENGTHS)
    return decoder(encoded, lengths, tokens, counts)[0]


def test_low_rank_parts_load_dense_weights_and_train(tiny_whisper):
    dense = decoder(tiny_whisper)
    low_rank = decoder(tiny_whisper, low_rank=LOW_RANK | {"output": 0.5, "cross_attention": 0.25})
    table = low_rank.decoders.token_embedding
    assert (table.rank, low_rank.decoders.blocks[0].cross_attn.query.rank) == (8, 4)
    before = copy.deepcopy(low_rank.state_dict())
    low_rank.load_state_dict(dense.state_dict())  # the SVD of the same weights
    torch.testing.assert_close(table.product(), before_product(before), atol=1e-5, rtol=1e-4)
    logits, _ = low_rank(torch.randn(1, 9, 16), torch.tensor([9]), torch.tensor([[1, 2]]), torch.tensor([2]))
    logits.square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in table.parameters())


def before_product(state):
    return state["decoders.token_embedding.0.weight"] @ state["decoders.token_embedding.1.weight"].T


def test_a_checkpoint_needs_sizes_and_no_file(tiny_whisper):
    sizes = open_whisper(tiny_whisper).sizes.as_dict()
    weights = encoder(tiny_whisper).state_dict()
    with skip_initialization():
        again = WhisperEncoder(sizes=sizes, whisper_model="gone.pt")
    again.load_state_dict(weights)
    assert again.sizes.as_dict() == sizes
    with pytest.raises(LrsmsError, match="gone.pt: not found"):
        WhisperEncoder(sizes=sizes, whisper_model="gone.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "encoder_conf: write whisper_model: a local file"),
        ({"whisper_model": "small"}, "small: not found; give a local Whisper model, nothing is downloaded"),
        (
            {"whisper_model": "x", "audio_context": "short"},
            "audio_context: 'short' is unknown; choose one of full, condensed, clip",
        ),
        ({"whisper_model": "x", "input_size": 80}, "takes waveforms: write input_size: 1 and frontend: null"),
        ({"sizes": {"n_mels": 80}}, "encoder_conf.sizes: n_audio_ctx: None is not a whole number"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(LrsmsError, match=message):
        LOW_RANK_ENCODERS["lowrank_whisper"](**options)


def test_decoder_wants_the_tokens_of_its_model(tiny_whisper):
    with pytest.raises(LrsmsError, match=r"token_list: has 500 tokens, the Whisper model 1,769"):
        LOW_RANK_DECODERS["lowrank_whisper"](500, 16, whisper_model=str(tiny_whisper))
    with pytest.raises(LrsmsError, match="width 16, but the encoder's is 32"):
        LOW_RANK_DECODERS["lowrank_whisper"](1769, 32, whisper_model=str(tiny_whisper))


def test_texts_longer_than_the_decoder(tiny_whisper):
    with pytest.raises(LrsmsError, match=r"a text of 161 tokens, prompt included: Whisper's decoder takes 160"):
        decoder(tiny_whisper)(torch.zeros(1, 9, 16), torch.tensor([9]), torch.zeros(1, 161).long(), torch.tensor([161]))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_espnets_own_whisper_is_not_taken_for_ours(part):
    with pytest.raises(
        LrsmsError, match=f"{part}: whisper is ESPnet's class around openai-whisper; lrsms import_whisper"
    ):
        _low_rank_name(part, "whisper", torch.nn.Linear(2, 2))
