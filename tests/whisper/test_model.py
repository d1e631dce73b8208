"""Whisper's model: the same as openai-whisper's, in batches as one by one, step by step as at once."""

import pytest
import torch

from lrsms.whisper.dimensions import Dimensions
from lrsms.whisper.files import open_whisper
from lrsms.whisper.mel import LogMel
from lrsms.whisper.model import AudioEncoder, TextDecoder

LENGTHS = torch.tensor([9000, 16000, 12345])


@pytest.fixture
def parts(tiny_whisper):
    file = open_whisper(tiny_whisper)
    encoder, decoder = AudioEncoder(file.sizes).eval(), TextDecoder(file.sizes).eval()
    encoder.load_state_dict(file.part("encoder"))
    decoder.load_state_dict(file.part("decoder"))
    return encoder, decoder, LogMel(file.sizes.n_mels)


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(3, 16000, generator=generator) * 0.1
    return samples * (torch.arange(16000) < LENGTHS[:, None])


@torch.no_grad()
def test_a_batch_gives_what_its_clips_give_one_by_one(parts, clips):
    encoder, decoder, log_mel = parts
    tokens = torch.randint(100, (3, 5), generator=torch.Generator().manual_seed(0))
    mel, frames = log_mel(clips, LENGTHS)
    assert frames.tolist() == [57, 100, 78]
    together = encoder(mel, frames)
    positions = (frames + 1) // 2
    mask = torch.arange(together.shape[1]) < positions[:, None]
    logits = decoder(tokens, decoder.begin(together, mask))
    for row, length in enumerate(LENGTHS):
        alone, _ = log_mel(clips[row : row + 1, :length], length[None])
        memory = encoder(alone)
        assert memory.shape[1] == positions[row]
        torch.testing.assert_close(together[row, : positions[row]], memory[0], atol=1e-5, rtol=1e-4)
        expected = decoder(tokens[row : row + 1], decoder.begin(memory))[0]
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_steps_give_what_all_tokens_give_at_once(parts, clips):
    encoder, decoder, log_mel = parts
    memory = encoder(log_mel(clips[1:2], LENGTHS[1:2])[0])
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    whole = decoder(tokens, decoder.begin(memory))
    state = decoder.begin(memory)
    pieces = [decoder(piece, state) for piece in tokens.split([2, 1, 3, 1], dim=1)]
    assert state.length == 7
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_chosen_hypotheses_keep_their_own_past(parts, clips):
    encoder, decoder, log_mel = parts
    memory = encoder(log_mel(clips[1:2], LENGTHS[1:2])[0])
    state = decoder.begin(memory)
    decoder(torch.tensor([[7], [8], [9]]), state)
    chosen = state.chosen(torch.tensor([2, 0]))
    logits = decoder(torch.tensor([[1], [2]]), chosen)[:, -1]
    for row, past in enumerate(([9, 1], [7, 2])):
        expected = decoder(torch.tensor([past]), decoder.begin(memory))[0, -1]
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_weights_of_openai_whisper_give_its_outputs():
    whisper = pytest.importorskip("whisper")
    sizes = Dimensions(80, 1500, 32, 2, 2, 51864, 32, 32, 2, 2)
    torch.manual_seed(0)
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**sizes.as_dict())).eval()
    torch.nn.init.normal_(theirs.decoder.positional_embedding)
    encoder, decoder = AudioEncoder(sizes).eval(), TextDecoder(sizes).eval()
    encoder.load_state_dict(theirs.encoder.state_dict())
    decoder.load_state_dict(theirs.decoder.state_dict())
    samples = torch.randn(1, 480000, generator=torch.Generator().manual_seed(0)) * 0.1
    mel, _ = LogMel(80)(samples, torch.tensor([480000]))
    expected = whisper.log_mel_spectrogram(samples[0])
    # The last frame sees the end of the recording reflected there, and silence here.
    torch.testing.assert_close(mel[0, :, :-2], expected[:, :-2], atol=2e-4, rtol=0)
    memory = theirs.encoder(expected[None])
    torch.testing.assert_close(encoder(expected[None]), memory, atol=1e-4, rtol=1e-4)
    tokens = torch.tensor([[50257, 50362, 11, 12]])
    logits = decoder(tokens, decoder.begin(memory))
    torch.testing.assert_close(logits, theirs.decoder(tokens, memory), atol=1e-4, rtol=1e-4)
