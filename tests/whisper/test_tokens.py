"""Whisper's tokens."""

import json

import pytest

from lrsms.errors import LrsmsError
from lrsms.whisper.files import open_whisper
from lrsms.whisper.tokens import WhisperTokens


@pytest.fixture
def tokens(tiny_whisper):
    return WhisperTokens(tiny_whisper / "tokenizer.json", open_whisper(tiny_whisper).sizes.n_vocab)


def test_text_goes_there_and_back(tokens):
    for text in ("hello world", "it's £5", "日本 ünd"):
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text and tokens.encode(f"  {text} ") == ids
        assert [tokens.token_list[number] for number in ids] == tokens.split(text)
    assert tokens.unknown("anything") == [] and len(tokens.token_list) == len(tokens) == len(set(tokens.token_list))


def test_special_tokens_and_times_are_no_text(tokens):
    ids = [tokens.first_time, *tokens.encode("two"), tokens.first_time + 75, tokens.end]
    assert tokens.decode(ids) == "two"
    assert tokens.token_list[tokens.first_time + 75] == "<|1.50|>" and tokens.token_list[-1] == "<|30.00|>"


def test_prompts(tokens):
    def names(**options):
        return [tokens.token_list[number].strip("<|>") for number in tokens.prompt(**options)]

    assert tokens.multilingual and list(tokens.languages) == ["en", "de"]
    assert names(language="de", task="translate", timestamps=False) == [
        *("startoftranscript", "de", "translate", "notimestamps")
    ]
    assert names(language="en", task="transcribe", timestamps=True) == ["startoftranscript", "en", "transcribe"]
    with pytest.raises(LrsmsError, match=r"language: 'fr' is unknown; it has en, de"):
        tokens.prompt("fr", "transcribe", False)
    with pytest.raises(LrsmsError, match="task: 'sing' is unknown; choose one of transcribe, translate"):
        tokens.prompt("en", "sing", False)


def test_what_is_never_said(tokens):
    names = {tokens.token_list[number] for number in tokens.never_said}
    assert {"[", "(", '"', "\u0120-", "\u0120'", "<|startoftranscript|>", "<|translate|>", "<|nospeech|>"} <= names
    assert not {"-", "'", ".", ",", "?", "!", "a", "<|endoftext|>", "<|notimestamps|>"} & names
    assert [tokens.token_list[number] for number in tokens.never_first] == ["\u0120", "<|endoftext|>"]


def test_tokenizer_of_another_model(tiny_whisper, tmp_path):
    path = tiny_whisper / "tokenizer.json"
    with pytest.raises(LrsmsError, match=r"has 1,769 tokens, the model 51,864: of another model"):
        WhisperTokens(path, 51864)
    with pytest.raises(LrsmsError, match="not found"):
        WhisperTokens(tmp_path / "tokenizer.json", 5)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LrsmsError, match="not a tokenizer.json"):
        WhisperTokens(tmp_path / "tokenizer.json", 5)
    content = json.loads(path.read_text())
    content["added_tokens"] = [item for item in content["added_tokens"] if item["content"] != "<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(LrsmsError, match=r"has no <\|endoftext\|>: not Whisper's"):
        WhisperTokens(tmp_path / "tokenizer.json", 5)
