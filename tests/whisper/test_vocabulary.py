import pytest

from lrsms.errors import LrsmsError
from lrsms.whisper.dimensions import ENGLISH_VOCABULARY
from lrsms.whisper.files import open_whisper
from lrsms.whisper.tokens import WhisperTokens
from lrsms.whisper.vocabulary import cut_tokenizer

ALWAYS = 256 + 2  # bytes, and what annotations need: " -" and " '"
TEXTS = ["a cat", "the cat", "a dog"]


@pytest.fixture
def source(whisper_of_words):
    return whisper_of_words / "tokenizer.json", open_whisper(whisper_of_words).sizes.n_vocab


@pytest.fixture
def cut(source, tmp_path):
    """Tokens of the model, and those that are left of them with their numbers there."""

    def make(size, texts=TEXTS):
        rows = cut_tokenizer(*source, size, texts, tmp_path / "cut.json")
        return WhisperTokens(*source), WhisperTokens(tmp_path / "cut.json", len(rows)), rows.tolist()

    return make


def test_what_most_texts_have_is_kept_with_its_parts_and_the_rest_is_spelled(cut):
    whole, left, rows = cut(ALWAYS + 3)  # cat, and the two that it is made of
    assert whole.split("cat dog do") == ["Ġcat", "Ġdog", "Ġdo"]
    assert left.split("cat dog do") == ["Ġcat", "Ġ", "d", "o", "g", "Ġ", "d", "o"]
    assert [whole.token_list[row] for row in rows] == left.token_list
    assert left.decode(left.encode("cat dog do")) == "cat dog do"


def test_a_token_of_one_text_waits_for_those_that_were_merged_first(cut):
    _, left, _ = cut(ALWAYS + 5)
    assert left.split("cat dog do") == ["Ġcat", "Ġdo", "g", "Ġdo"], "dog is in one text, and do came first"
    _, left, _ = cut(ALWAYS + 3, ["a dog", "the dog"])
    assert left.split("cat dog") == ["Ġ", "c", "a", "t", "Ġdog"]


def test_a_text_that_is_there_twice_counts_once(cut):
    _, left, _ = cut(ALWAYS + 3, ["a dog", "a dog", "a cat", "the cat"])
    assert left.split("cat dog") == ["Ġcat", "Ġ", "d", "o", "g"]


def test_special_tokens_and_times_move_up(cut):
    whole, left, rows = cut(ALWAYS)
    assert len(left) == len(whole) - 6
    for name in ("<|endoftext|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>"):
        assert rows[left.id(name)] == whole.id(name)
    assert left.prompt("de", "translate", True) == [number - 6 for number in whole.prompt("de", "translate", True)]
    assert [rows[number] for number in left.never_said] == whole.never_said
    assert left.multilingual


def test_an_english_model_loses_the_languages_that_it_never_knew(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", "-"), ("Ġ", "'")]
    pairs += [pair for pair in ((one, two) for one in alphabet for two in alphabet) if pair not in pairs][:49998]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *map("".join, pairs)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    languages = ["en", *(f"l{number}" for number in range(98))]
    special = ["endoftext", "startoftranscript", *languages, "translate", "transcribe", "startoflm", "startofprev"]
    tokenizer.add_special_tokens([f"<|{name}|>" for name in [*special, "nocaptions", "notimestamps"]])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert not WhisperTokens(tmp_path / "tokenizer.json", ENGLISH_VOCABULARY).multilingual
    rows = cut_tokenizer(tmp_path / "tokenizer.json", ENGLISH_VOCABULARY, 300, TEXTS, tmp_path / "cut.json")
    left = WhisperTokens(tmp_path / "cut.json", len(rows))
    assert list(left.languages) == ["en"] and not left.multilingual
    assert left.prompt("en", "transcribe", False) == [left.id("<|startoftranscript|>"), left.id("<|notimestamps|>")]
    assert len(left) == 300 + 107 - 98 + 1501


@pytest.mark.parametrize("size", [ALWAYS - 1, ALWAYS + 6])
def test_a_size_that_cannot_be(cut, size):
    with pytest.raises(LrsmsError, match=rf"vocabulary: {size} is not between {ALWAYS}, .* the {ALWAYS + 5} that"):
        cut(size)
