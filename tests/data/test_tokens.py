import pytest
from lhotse import CutSet, MonoCut, SupervisionSegment

from lrsms.data.tokens import Tokens, build_lang, lang_dir, train_tokens, transcripts
from lrsms.defaults import TOKEN_TYPES, espnet_token_type, recipe_token_types
from lrsms.errors import LrsmsError

TRAIN = ["THE CAT SAT", "THE MAT", "A CAT AND A RAT", "THAT HAT"]


def write_cuts(data_dir, split, texts):
    (data_dir / split).mkdir(parents=True)
    cuts = [
        MonoCut(f"{i}{suffix}", 0, 1, 0, supervisions=[SupervisionSegment(f"{i}{suffix}", "r", 0, 1, text=text)])
        for suffix in ("_sp0.9", "", "_sp1.1") for i, text in enumerate(texts)
    ]  # fmt: skip
    CutSet.from_cuts(cuts).to_file(data_dir / split / "cuts.jsonl.gz")


@pytest.fixture
def data_dir(tmp_path):
    write_cuts(tmp_path, "train", TRAIN)
    write_cuts(tmp_path, "dev", ["THE ZOO Z"])
    return tmp_path


def build(data_dir, token_type, vocab_size=None):
    return build_lang(
        data_dir, train_splits=["train"], eval_splits=["dev"], token_type=token_type, vocab_size=vocab_size
    )


def test_perturbed_copies_are_read_once(data_dir):
    assert list(transcripts(data_dir / "train" / "cuts.jsonl.gz")) == TRAIN
    (data_dir / "named").mkdir()
    supervision = SupervisionSegment("a", "r", 0, 1, text="A")
    named = [MonoCut(name, 0, 1, 0, supervisions=[supervision]) for name in ("a_sp1", "a_sp2")]
    CutSet.from_cuts(named).to_file(data_dir / "named" / "cuts.jsonl.gz")
    assert len(list(transcripts(data_dir / "named" / "cuts.jsonl.gz"))) == 2


@pytest.mark.parametrize(
    ("token_type", "vocab_size", "name"),
    [
        ("char", None, "lang_char"),
        ("word", 500, "lang_word"),
        ("unigram", 16, "lang_unigram16"),
        ("bpe", 20, "lang_bpe20"),
    ],
)
def test_encoding_is_espnets_own(data_dir, token_type, vocab_size, name):
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    folder = build(data_dir, token_type, vocab_size)
    assert folder == data_dir / name == lang_dir(data_dir, token_type, vocab_size)
    tokens = Tokens.load(folder)
    # ESPnet calls every sentencepiece model "bpe".
    their_type = "bpe" if token_type == "unigram" else token_type
    theirs = build_tokenizer(their_type, bpemodel=str(folder / "bpe.model"), space_symbol="<space>")
    converter = TokenIDConverter(str(folder / "tokens.txt"))
    assert converter.token_list == tokens.token_list
    assert len(tokens) == vocab_size or token_type in ("char", "word")
    for text in [*TRAIN, "THE ZOO Z", ""]:
        expected = converter.tokens2ids(theirs.text2tokens(text))
        assert tokens.encode(text) == expected
        assert tokens.decode([0, *expected, len(tokens) - 1]) == theirs.tokens2text(converter.ids2tokens(expected))
    assert tokens.decode(tokens.encode(TRAIN[2])) == TRAIN[2]


def test_list_order_is_espnets(data_dir):
    token_list = Tokens.load(build(data_dir, "char")).token_list
    assert token_list[:2] == ["<blank>", "<unk>"] and token_list[-1] == "<sos/eos>"
    assert token_list[2:4] == ["A", "T"]  # 12 and 9 occurrences
    assert "<space>" in token_list and " " not in token_list


def test_out_of_vocabulary_is_counted(data_dir, capsys):
    folder = build(data_dir, "char")
    rows = (folder / "out_of_vocabulary.tsv").read_text().splitlines()
    assert rows == ["split\ttoken\tcount", "dev\tZ\t2", "dev\tO\t2"]
    assert "dev: 4 tokens outside the list" in capsys.readouterr().out
    rows = (build(data_dir, "word") / "out_of_vocabulary.tsv").read_text().splitlines()
    assert rows[1:] == ["dev\tZOO\t1", "dev\tZ\t1"]


@pytest.mark.parametrize("token_type", ["unigram", "bpe"])
def test_vocabulary_too_large_names_the_largest(token_type):
    with pytest.raises(LrsmsError, match=r"vocab_size 5000: the training text allows at most (\d+)") as error:
        train_tokens(TRAIN, token_type, 5000)
    largest = int(str(error.value).split()[-1])
    assert len(train_tokens(TRAIN, token_type, largest)[0]) == largest


def test_vocabulary_too_small():
    with pytest.raises(LrsmsError, match="needs more than"):
        train_tokens(TRAIN, "bpe", 5)


def test_nothing_to_train_on():
    with pytest.raises(LrsmsError, match="no text"):
        train_tokens(["", ""], "char")


def test_lang_dir_refuses_what_it_cannot_name(tmp_path):
    with pytest.raises(LrsmsError, match="token_type phone"):
        lang_dir(tmp_path, "phone")
    with pytest.raises(LrsmsError, match="token_type bpe needs one"):
        lang_dir(tmp_path, "bpe")


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(LrsmsError, match="run stage 2 first"):
        Tokens.load(tmp_path / "lang_char")
    with pytest.raises(LrsmsError, match="expected a folder named"):
        Tokens.load(tmp_path / "dict")


def test_a_failure_keeps_the_list_of_before(data_dir):
    folder = build(data_dir, "bpe", 20)
    before = (folder / "tokens.txt").read_text()
    (data_dir / "dev" / "cuts.jsonl.gz").unlink()
    with pytest.raises(LrsmsError, match="run stage 1 first"):
        build(data_dir, "bpe", 20)
    assert (folder / "tokens.txt").read_text() == before


def test_names_of_token_types_go_to_espnets_and_back():
    assert recipe_token_types("bpe") == ("unigram", "bpe") and recipe_token_types("phn") == ("phn",)
    for token_type in TOKEN_TYPES:
        assert token_type in recipe_token_types(espnet_token_type(token_type))
