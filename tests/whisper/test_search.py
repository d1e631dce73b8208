"""Whisper's search and its rules."""

import itertools

import pytest
import torch

from lrsms.errors import LrsmsError
from lrsms.whisper.files import open_whisper
from lrsms.whisper.model import TextDecoder
from lrsms.whisper.rules import Rules
from lrsms.whisper.search import SearchOptions, detect_language, search
from lrsms.whisper.tokens import WhisperTokens


@pytest.fixture
def tokens(tiny_whisper):
    return WhisperTokens(tiny_whisper / "tokenizer.json", open_whisper(tiny_whisper).sizes.n_vocab)


@pytest.fixture
def decoder(tiny_whisper):
    file = open_whisper(tiny_whisper)
    decoder = TextDecoder(file.sizes).eval()
    decoder.load_state_dict({name: value * 3 for name, value in file.part("decoder").items()})  # of decided opinions
    return decoder


@pytest.fixture
def memory():
    return torch.randn(1, 60, 16, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def rescored(decoder, memory, tokens, options, said, stopped):
    """Log-probability of a hypothesis, from whole passes of the decoder under the rules."""
    prompt = tokens.prompt(options.language, options.task, options.timestamps)
    rules = Rules(tokens, options.timestamps, memory.shape[1] * 0.02)
    total = 0.0
    for position, number in enumerate([*said, *([tokens.end] if stopped else [])]):
        past = torch.tensor([[*prompt, *said[:position]]])
        logits = decoder(past, decoder.begin(memory))[:, -1]
        total += float(rules.apply(logits, [said[:position]]).log_softmax(-1)[0, number])
    return total


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("timestamps", [False, True])
def test_scores_are_those_of_whole_passes(decoder, memory, tokens, beam_size, timestamps):
    options = SearchOptions(timestamps=timestamps, max_tokens=9)
    found = search(decoder, memory, tokens, options, beam_size)
    assert len(found) == beam_size and len({one.tokens for one in found}) == beam_size
    for one in found:
        stopped = len(one.tokens) < 9
        assert one.score == pytest.approx(
            rescored(decoder, memory, tokens, options, list(one.tokens), stopped), abs=1e-3
        )
    ranked = [one.score / max(1, len(one.tokens)) for one in found]
    assert ranked == sorted(ranked, reverse=True)


def test_greedy_takes_the_likeliest_and_a_beam_finds_no_less(decoder, memory, tokens):
    options = SearchOptions(max_tokens=6, length_penalty=0)
    (greedy,) = search(decoder, memory, tokens, options)
    assert search(decoder, memory, tokens, options, 8)[0].score >= greedy.score - 1e-4
    said = set(greedy.tokens)
    assert not said & set(tokens.never_said) and greedy.tokens[0] not in tokens.never_first


def test_times_come_in_pairs_and_never_go_back(decoder, memory, tokens):
    first = tokens.first_time
    for one in search(decoder, memory, tokens, SearchOptions(timestamps=True, max_tokens=20), 6):
        times = [number for number in one.tokens if number >= first]
        assert times == sorted(times) and first <= one.tokens[0] <= first + 50 and max(times) <= first + 60
        runs = [len(list(run)) for is_time, run in itertools.groupby(one.tokens, lambda x: x >= first) if is_time]
        assert runs[0] == 1 and max(runs) <= 2


def allowed(tokens, said, favourite=None):
    logits = torch.zeros(1, len(tokens))
    if favourite is not None:
        logits[0, favourite] = 100.0
    row = Rules(tokens, True, 1.2).apply(logits, [said])[0]
    return {number for number in range(len(tokens)) if row[number] > -torch.inf}


def test_rules_of_times(tokens):
    first, word = tokens.first_time, tokens.encode("a")[1]
    times = set(range(first, first + 61))  # of 1.2 s
    assert allowed(tokens, []) == set(range(first, first + 51))
    assert not allowed(tokens, [first]) & times  # a word follows the first time
    after_word = allowed(tokens, [first + 5, word], favourite=word)
    assert after_word & times == set(range(first + 6, first + 61)) and word in after_word
    assert allowed(tokens, [first + 5, word]) <= times  # all times together are likelier than any word
    closed = allowed(tokens, [first, word, first + 9])
    assert closed & times == set(range(first + 9, first + 61)) and word not in closed
    assert tokens.end in allowed(tokens, [first, word, first + 9], favourite=tokens.end)


def test_language_is_detected_among_its_tokens(decoder, memory, tokens):
    with torch.no_grad():
        logits = decoder(torch.tensor([[tokens.id("<|startoftranscript|>")]]), decoder.begin(memory))[0, -1]
    likeliest = max(tokens.languages, key=lambda code: logits[tokens.languages[code]])
    state = decoder.begin(memory)
    with torch.no_grad():
        assert detect_language(decoder, state, tokens) == likeliest and state.length == 0
    named, detected = (search(decoder, memory, tokens, SearchOptions(language)) for language in (likeliest, "detect"))
    assert named == detected


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"langage": "en"}, "unknown key 'langage'; did you mean 'language'"),
        ({"timestamps": "on"}, "timestamps: 'on' is neither true nor false"),
        ({"max_tokens": 0}, "max_tokens: 0 is not a whole number of at least 1"),
        ({"length_penalty": 2}, "length_penalty: 2 is not a number from 0 to 1"),
        (
            {"compression_ratio_threshold": 0.5},
            "compression_ratio_threshold: 0.5 is not a number of at least 1, or null",
        ),
        ({"compression_ratio_threshold": True}, "compression_ratio_threshold: True is not a number"),
        ({"language": False}, "language: False is no code"),  # what YAML makes of no
        ({"normalizer": "english"}, "normalizer: 'english' is unknown; choose one of whisper_english, whisper_basic"),
        ("en", "is not a mapping"),
    ],
)
def test_wrong_options(block, message):
    with pytest.raises(LrsmsError, match=message):
        SearchOptions.parse(block, "decode.yaml: whisper")


@torch.no_grad()
@pytest.mark.parametrize("beam_size", [None, 3])
@pytest.mark.parametrize("timestamps", [False, True])
def test_the_same_tokens_as_openai_whisper(beam_size, timestamps):
    whisper = pytest.importorskip("whisper")
    from lrsms.whisper.dimensions import Dimensions

    sizes = Dimensions(80, 1500, 32, 2, 1, 51864, 24, 32, 2, 2)
    torch.manual_seed(0)
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**sizes.as_dict())).eval()
    torch.nn.init.normal_(theirs.decoder.positional_embedding)
    ours = TextDecoder(sizes).eval()
    ours.load_state_dict(theirs.decoder.state_dict())
    tokenizer = whisper.tokenizer.get_tokenizer(multilingual=False)

    class Tokens(WhisperTokens):
        def __init__(self):
            names = {"<|endoftext|>": 50256, **tokenizer.special_tokens}
            self.token_list, self._ids = [""] * 51864, names

        never_said = sorted({*tokenizer.non_speech_tokens, *range(50357, 50362), 50257})
        never_first = (220, 50256)

    audio = torch.randn(1, 1500, 32, generator=torch.Generator().manual_seed(5))
    options = whisper.DecodingOptions(
        language="en", fp16=False, without_timestamps=not timestamps, beam_size=beam_size, sample_len=10
    )
    expected = whisper.decode(theirs, audio[0], options)
    found = search(ours, audio, Tokens(), SearchOptions(timestamps=timestamps, max_tokens=10), beam_size or 1)[0]
    assert list(found.tokens) == expected.tokens
    assert found.score / (len(found.tokens) + 1) == pytest.approx(expected.avg_logprob, abs=1e-3)
