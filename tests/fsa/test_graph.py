"""The decoding graph: made, checked, kept, refused for other tokens. What composes it needs k2."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lhotse import AudioSource, CutSet, Recording, SupervisionSegment
from lhotse.testing.dummies import dummy_cut, dummy_recording

from lrsms.data.tokens import Tokens, build_lang
from lrsms.errors import LrsmsError
from lrsms.fsa.compile_hlg import check_graph, make_graph
from lrsms.fsa.graph import GRAPH, Graph, check_tokens
from lrsms.fsa.lang import graph_folder
from lrsms.fsa.lattice import LatticeSearch
from lrsms.fsa.lexicon import Lexicon
from lrsms.fsa.ngram import estimate, read_arpa
from lrsms.fsa.options import K2Options

TEXTS = ["a cat sat", "a cat", "cat a", "at a cat sat at", "a a cat"]
LEXICON = Lexicon(("<blank>", "<unk>", "a", "b", "<sos/eos>"), {"a": (2,), "b": (3,)}, None, {})


def sound(number: int) -> Recording:
    """A recording whose file is never read."""
    return replace(dummy_recording(number, duration=1.0), sources=[AudioSource("file", [0], f"{number}.wav")])


def write_cuts(data: Path, texts: list[str]) -> Path:
    cuts = []
    for number, text in enumerate(texts):
        segment = SupervisionSegment(f"u{number}", "r", 0, 1, text=text)
        cuts.append(dummy_cut(number, duration=1.0, recording=sound(number), supervisions=[segment]))
    path = data / "train" / "cuts.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    CutSet.from_cuts(cuts).to_file(path)
    return path


def lang_of(data: Path, kind: str) -> tuple[Path, Path]:
    cuts = write_cuts(data, TEXTS)
    return build_lang(data, train_splits=["train"], eval_splits=[], token_type=kind, vocab_size=12), cuts


def perfect(ids: list[int], tokens: int) -> torch.Tensor:
    """Scores of a CTC that is sure of ``ids``, two frames for each token and one of blank after it."""
    frames = [0] + [label for token in ids for label in (token, token, 0)]
    scores = torch.full((len(frames), tokens), -20.0)
    scores[torch.arange(len(frames)), frames] = 0.0
    return scores.log_softmax(1)


@pytest.fixture(scope="module", params=["char", "word", "unigram", "bpe"])
def made(k2, request, tmp_path_factory) -> tuple[Path, Tokens]:
    lang, cuts = lang_of(tmp_path_factory.mktemp(request.param) / "data", request.param)
    return make_graph(lang, [cuts], order=2), Tokens.load(lang)


def load(folder: Path, tokens: Tokens) -> Graph:
    return Graph.load(folder / GRAPH, tokens.token_list, folder / "config.yaml")


def test_the_folder(made):
    folder, tokens = made
    report = json.loads((folder / "graph.json").read_text())
    graph = load(folder, tokens)
    assert folder.name == "hlg_2gram" and report["words"] == 4 and report["missing_words"] == 0
    assert report["arcs"] == len(graph.arcs) > report["states"] == graph.states > 4
    assert read_arpa(folder / "lm.arpa").score(["a"]) == pytest.approx(
        estimate([text.split() for text in TEXTS], 2).score(["a"]), abs=1e-4
    )
    spelled = dict(line.split("\t") for line in (folder / "lexicon.txt").read_text().splitlines())
    assert spelled["cat"].split() == tokens.split("cat")


@pytest.mark.parametrize("text", [*TEXTS, "sat sat sat"])
def test_what_is_said_is_found_with_the_language_models_probability(made, text):
    folder, tokens = made
    search = LatticeSearch(load(folder, tokens), lm_scale=1.0)
    found = search.best(perfect(tokens.encode(text), len(tokens)))
    model = read_arpa(folder / "lm.arpa")
    assert (" ".join(found.words), found.token_ids) == (text, tokens.encode(text))
    assert found.score == pytest.approx(model.score(text.split()), abs=0.3)
    assert found.score >= model.score(text.split()) - 0.01


def test_the_language_model_decides_where_ctc_does_not(made):
    folder, tokens = made
    one, other = (perfect(tokens.encode(text), len(tokens)) for text in ("a cat", "a at"))
    if len(one) != len(other):
        pytest.skip("the two have different lengths in these tokens")
    unsure = torch.stack([one, other]).logsumexp(0).log_softmax(1)
    assert LatticeSearch(load(folder, tokens), lm_scale=2.0).best(unsure).words == ("a", "cat")


def test_hypotheses_are_different_and_the_best_comes_first(made):
    folder, tokens = made
    torch.manual_seed(0)
    scores = (perfect(tokens.encode("a cat sat"), len(tokens)) * 0.1 + torch.randn(1, len(tokens))).log_softmax(1)
    search = LatticeSearch(load(folder, tokens), options=K2Options(nbest_scale=0.3, num_paths=200, output_beam=20.0))
    paths = search.nbest(scores)
    assert len({path.words for path in paths}) == len(paths) > 3
    assert [path.score for path in paths] == sorted((path.score for path in paths), reverse=True)
    assert paths[0] == search.best(scores)
    assert paths == search.nbest(scores)  # k2 draws the same paths again
    for path in paths:
        assert tokens.decode(path.token_ids) == " ".join(path.words)


def test_unchanged_inputs_are_skipped_and_changed_ones_are_not(k2, tmp_path, capsys):
    lang, cuts = lang_of(tmp_path / "data", "word")
    folder = make_graph(lang, [cuts])
    first = (folder / GRAPH).stat().st_mtime_ns
    make_graph(lang, [cuts])
    assert "skipped" in capsys.readouterr().out and (folder / GRAPH).stat().st_mtime_ns == first
    write_cuts(tmp_path / "data", [*TEXTS, "sat sat"])
    make_graph(lang, [cuts])
    assert (folder / GRAPH).stat().st_mtime_ns > first


def test_words_that_cannot_be_spelt_are_said_and_listed(k2, tmp_path, capsys):
    lang, _ = lang_of(tmp_path / "data", "word")
    cuts = write_cuts(tmp_path / "data", [*TEXTS, "a dog", "a dog"])
    folder = make_graph(lang, [cuts])
    said = capsys.readouterr().out
    assert "1 words have no tokens and cannot be recognized, such as 'dog'" in said
    assert (folder / "missing_words.tsv").read_text() == "word\tcount\ndog\t2\n"
    assert "2 of 7 training sentences cannot be recognized" in said


def test_a_given_language_model(k2, tmp_path, capsys):
    lang, cuts = lang_of(tmp_path / "data", "char")
    estimate([["a", "tac"], ["tac", "dog"]], 2).write_arpa(tmp_path / "mine.arpa")
    folder = make_graph(lang, [cuts], arpa=tmp_path / "mine.arpa")
    assert folder == graph_folder(lang, 3, tmp_path / "mine.arpa") and folder.name == "hlg_mine"
    said = capsys.readouterr().out
    assert "'dog'" in said and "n-grams hold words without tokens and were left out" in said
    tokens = Tokens.load(lang)
    search = LatticeSearch(load(folder, tokens))
    assert search.best(perfect(tokens.encode("a tac"), len(tokens))).words == ("a", "tac")
    with pytest.raises(LrsmsError, match=r"absent.arpa: cannot be read"):
        make_graph(lang, [cuts], arpa=tmp_path / "absent.arpa")


def test_a_graph_that_does_not_say_its_training_text_is_refused(made):
    folder, tokens = made
    graph = load(folder, tokens)
    swapped = {"cat": "sat", "sat": "cat"}
    spellings = {swapped.get(word, word): spelling for word, spelling in graph.lexicon.spellings.items()}
    wrong = Graph(
        graph.arcs, graph.outputs, graph.splits,
        Lexicon(graph.lexicon.token_list, spellings, graph.lexicon.space, {}),
    )  # fmt: skip
    with pytest.raises(LrsmsError, match=r"does not accept the training sentence"):
        check_graph(wrong, read_arpa(folder / "lm.arpa"), [text.split() for text in TEXTS])


def test_without_k2_no_graph(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "k2", None)
    lang, cuts = lang_of(tmp_path / "data", "word")
    with pytest.raises(LrsmsError, match="a decoding graph needs k2, which is not installed"):
        make_graph(lang, [cuts])
    assert not graph_folder(lang, 3).exists()


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / GRAPH
    Graph(torch.zeros(2, 4, dtype=torch.int32), torch.ones(1), torch.zeros(3), LEXICON).save(path)
    return path


def test_saved_and_read_without_k2(saved):
    graph = Graph.load(saved, LEXICON.token_list, Path("config.yaml"))
    assert graph.lexicon == LEXICON and graph.arcs.shape == (2, 4) and graph.states == 1


def test_a_graph_of_other_tokens_is_refused(saved):
    message = r"config.yaml has 5 tokens and .*HLG.pt 5, which differ: number 3 is 'c' in the model and 'b' in the"
    with pytest.raises(LrsmsError, match=message):
        Graph.load(saved, ["<blank>", "<unk>", "a", "c", "<sos/eos>"], Path("config.yaml"))
    with pytest.raises(LrsmsError, match="number 2 is nothing in the model and 'a' in the graph"):
        check_tokens(["<blank>", "<unk>"], Path("config.yaml"), LEXICON.token_list, saved)


def test_damaged_and_hostile_files_are_refused(saved, tmp_path):
    def read():
        Graph.load(saved, LEXICON.token_list, Path("config.yaml"))

    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(LrsmsError, match=r"HLG.pt: truncated or not a decoding graph"):
        read()

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    for damage in (pickle.dumps(Hostile()), b"", b"text"):
        saved.write_bytes(damage)
        with pytest.raises(LrsmsError, match=r"HLG.pt: truncated or not a decoding graph"):
            read()
    assert not (tmp_path / "executed").exists()
    torch.save({"arcs": torch.zeros(1)}, saved)
    with pytest.raises(LrsmsError, match=r"HLG.pt: truncated or not"):
        read()
    saved.unlink()
    with pytest.raises(LrsmsError, match=r"HLG.pt: cannot be read: No such file"):
        read()
