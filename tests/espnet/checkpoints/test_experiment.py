"""An experiment's folder: its config is read once and without ESPnet; what is missing is named with what to do."""

import pickle

import pytest
import torch
import yaml
from lhotse import CutSet

from lrsms.data.tokens import build_lang
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints import experiment as module
from lrsms.espnet.checkpoints.experiment import Experiment

TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "<sos/eos>"]


@pytest.fixture
def make(tmp_path):
    """``make(**config)``: an experiment of this config and weights that nobody opens."""

    def write(**config) -> Experiment:
        made = Experiment(tmp_path / "exp")
        made.write(config, {"a": torch.ones(1)})
        return made

    return write


def test_a_trained_one_says_what_it_is(experiment, corpus):
    trained = Experiment(experiment.output_dir)
    trained.check()
    assert (trained.sampling_rate, trained.token_type, trained.ctc_weight) == (16000, "char", 0.5)
    assert trained.token_list == (corpus / "lang_char/tokens.txt").read_text().splitlines()
    assert {"valid.acc.ave.pth", "checkpoint.pth", "3epoch.pth"} <= set(trained.checkpoints)
    assert Experiment.of(trained.weights) == trained
    text = next(iter(CutSet.from_file(corpus / "test/cuts.jsonl.gz"))).supervisions[0].text
    assert trained.tokenizer.decode(trained.tokenizer.encode(text)) == text


def test_it_loads_the_model_and_writes_it_again(experiment, tmp_path):
    trained = Experiment(experiment.output_dir)
    model, args = trained.load()
    assert args.encoder == trained.config["encoder"] == "lowrank_conformer"
    copy = Experiment(tmp_path / "copy", "other.pth")
    copy.write(trained.config, model.state_dict())
    again = copy.load()[0].state_dict()
    assert copy.checkpoints == ["other.pth"] and copy.config == trained.config
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_config_is_read_once(make, monkeypatch):
    made, reads = make(token_list=TOKENS, token_type="char"), []
    read = module.read_yaml
    monkeypatch.setattr(module, "read_yaml", lambda path: reads.append(path) or read(path))
    opened = Experiment(made.folder)
    assert not reads
    assert (opened.sampling_rate, opened.ctc_weight, len(opened.tokenizer)) == (16000, 0.5, 6)
    assert pickle.loads(pickle.dumps(opened)).config == {"token_list": TOKENS, "token_type": "char"}
    assert reads == [made.config_file]


def test_reading_a_config_imports_no_task_of_espnet(make, run_python, tmp_path):
    made = make(frontend_conf={"fs": "8k"}, model_conf={"ctc_weight": 1}, token_list=TOKENS, token_type="char")
    code = (
        "import sys; from pathlib import Path; from lrsms.espnet.checkpoints.experiment import Experiment\n"
        f"made = Experiment(Path({str(made.folder)!r}))\n"
        "print(made.sampling_rate, made.ctc_weight, made.tokenizer.decode([3, 2, 4]))\n"
        "print([name for name in sys.modules if name.startswith(('espnet2.tasks', 'espnet2.bin', 'torchaudio'))])"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["8000 1.0 a b", "[]"], done.stderr  # ESPnet itself prints before


def test_missing_files_are_named_with_what_there_is_and_what_to_do(make, tmp_path):
    made = make(token_list=TOKENS)
    with pytest.raises(LrsmsError, match="exp/7epoch.pth: not found; run stage 3 to its end.*holds valid.acc.ave.pth"):
        Experiment(made.folder, "7epoch.pth").load()
    with pytest.raises(LrsmsError, match="gone/valid.acc.ave.pth: not found; .*gone holds no checkpoint"):
        Experiment(tmp_path / "gone").check()
    made.config_file.unlink()
    for fails in (lambda trained: trained.check(), lambda trained: trained.token_list):
        with pytest.raises(LrsmsError, match="exp/config.yaml: not found; .* give the folder of a trained model"):
            fails(Experiment(made.folder))


@pytest.mark.parametrize(
    ("config", "attribute", "message"),
    [
        ({}, "token_list", "config.yaml: token_list: None is not the list of tokens"),
        ({"token_list": "none.txt"}, "token_list", "config.yaml: token_list: none of .*none.txt is found"),
        ({"model_conf": {"ctc_weight": "half"}}, "ctc_weight", "model_conf.ctc_weight: 'half' is not a number"),
        (
            {"token_type": "bpe", "token_list": TOKENS, "bpemodel": "data/lang/bpe.model"},
            "tokenizer",
            "bpemodel: none of .*bpe.model is found",
        ),
    ],
)
def test_what_a_config_lacks_is_named(make, config, attribute, message):
    with pytest.raises(LrsmsError, match=message):
        getattr(make(**config), attribute)


def test_tokens_in_a_file_beside_the_config(make):
    made = make(token_list="tokens.txt", token_type="char")
    (made.folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    assert made.token_list == TOKENS and made.tokenizer.space == 2


def test_sub_words_are_decoded_by_the_model_that_the_config_names(corpus, tmp_path, monkeypatch):
    lang = build_lang(corpus, train_splits=["train"], eval_splits=[], token_type="bpe", vocab_size=40)
    recipe = tmp_path / "recipe"
    (recipe / "data").mkdir(parents=True)
    (recipe / "data/bpe.model").write_bytes((lang / "bpe.model").read_bytes())
    tokens = (lang / "tokens.txt").read_text(encoding="utf-8").splitlines()
    made = Experiment(recipe / "exp/tag")
    made.write({"token_type": "bpe", "token_list": tokens, "bpemodel": "data/bpe.model"}, {"a": torch.ones(1)})
    monkeypatch.chdir(tmp_path)
    tokenizer = made.tokenizer
    assert made.bpemodel == recipe / "data/bpe.model"
    text = next(iter(CutSet.from_file(corpus / "train/cuts.jsonl.gz"))).supervisions[0].text
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.separator, tokenizer.space, tokenizer.are_pieces) == (" ", None, True)


@pytest.mark.parametrize(
    ("token_type", "tokens", "separator", "are_pieces"),
    [
        ("char", TOKENS, " ", True),
        ("char", [token for token in TOKENS if token != "<space>"], "", False),
        ("word", TOKENS, " ", False),
        (None, TOKENS, " ", False),
    ],
)
def test_how_texts_are_joined_and_words_found(make, token_type, tokens, separator, are_pieces):
    made = make(token_type=token_type, token_list=tokens)
    assert (made.tokenizer.separator, made.tokenizer.are_pieces) == (separator, are_pieces)


def test_the_config_is_plain_yaml_and_never_half_written(make):
    made = make(token_list=TOKENS, text="grüße")
    assert yaml.safe_load(made.config_file.read_text(encoding="utf-8"))["text"] == "grüße"
    assert sorted(path.name for path in made.folder.iterdir()) == ["config.yaml", "valid.acc.ave.pth"]
