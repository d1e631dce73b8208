"""Stage 4 with k2: what it refuses needs no k2, what it finds does."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from lhotse import CutSet

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.inference import k2_lattice
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.k2_lattice import LatticeDecoding, LatticeRecognizer, ctc_scores
from lrsms.espnet.inference.open import check_options, open_recognizer
from lrsms.fsa.compile_hlg import make_graph
from lrsms.fsa.lattice import LatticeSearch
from lrsms.fsa.options import K2_CTC, K2_HLG, K2_RESCORING, K2Options
from lrsms.lowrank.merge import merge_


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "decode_quick.yaml"
    path.write_text(yaml.safe_dump({"beam_size": 2, "k2": {"output_beam": 12, "num_paths": 50}}))
    return path


def decoding_of(experiment, corpus, config, method) -> Decoding:
    return Decoding(experiment.output_dir, corpus / "test/cuts.jsonl.gz", config, method=method)


@pytest.fixture(scope="module")
def recognizer(experiment):
    return open_recognizer(Experiment(experiment.output_dir), {"beam_size": 2})


@pytest.fixture(scope="module")
def encoded(recognizer, corpus) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoder output, its length and CTC's scores of one utterance."""
    cut = next(cut for cut in CutSet.from_file(corpus / "test/cuts.jsonl.gz") if cut.duration > 1)
    speech = torch.as_tensor(load_waveform(cut))[None]
    with torch.no_grad():
        out, lengths = recognizer.asr_model.encode(speech, torch.tensor([speech.shape[1]]))
        return out, lengths, recognizer.asr_model.ctc.log_softmax(out)[0]


def bare(recognizer, **options) -> LatticeRecognizer:
    """A recognizer to ask for its scores, without k2 behind it."""
    found = object.__new__(LatticeRecognizer)
    found.recognizer, found.model, found.options = recognizer, recognizer.asr_model, K2Options(**options)
    return found


def test_ctc_scores_sum_over_every_alignment():
    torch.manual_seed(0)
    scores = torch.randn(4, 3).log_softmax(1)
    expected = {(): 0.0, (1,): 0.0, (1, 2): 0.0, (2, 2): 0.0}
    for frames in itertools.product(range(3), repeat=4):
        said = tuple(label for label, _ in itertools.groupby(frames) if label)
        if said in expected:
            expected[said] += float(sum(scores[time, label] for time, label in enumerate(frames)).exp())
    found = ctc_scores(scores, [torch.tensor(said, dtype=torch.long) for said in expected])
    assert found.exp().tolist() == pytest.approx(list(expected.values()), rel=1e-5)
    assert ctc_scores(scores, [torch.tensor([1, 1, 1])]).tolist() == [-float("inf")]  # needs five frames


def test_the_decoder_scores_hypotheses_together_as_one_by_one(recognizer, encoded):
    out, lengths, _ = encoded
    hypotheses = [torch.tensor(ids) for ids in ([2, 3, 4], [5], [], [3, 3, 3, 3, 2], [4, 2])]
    together = bare(recognizer, batch_size=2)._attention_scores(out, lengths, hypotheses)
    assert together.shape == (5,)
    model = recognizer.asr_model
    for ids, score in zip(hypotheses, together):
        # ESPnet's beam search asks the decoder token by token.
        said, state, total = torch.tensor([model.sos]), None, 0.0
        for token in [*ids.tolist(), model.eos]:
            step, state = model.decoder.score(said, state, out[0])
            total, said = total + float(step[token]), torch.cat([said, torch.tensor([token])])
        assert float(score) == pytest.approx(total, abs=1e-3)


def test_an_unknown_method(experiment, corpus, config):
    with pytest.raises(LrsmsError, match=r"decode_method: 'k2': expected one of ctc_attention, k2_ctc"):
        decoding_of(experiment, corpus, config, "k2").run()


def test_a_bad_block(experiment, corpus, config):
    config.write_text("k2: {lm_scales: 1}\n")
    with pytest.raises(LrsmsError, match=r"decode_quick.yaml: k2: unknown key 'lm_scales'; did you mean 'lm_scale'"):
        decoding_of(experiment, corpus, config, K2_CTC).run()
    with pytest.raises(LrsmsError, match=r"decode_quick.yaml: k2: unknown key"):  # said by ESPnet's search as well
        decoding_of(experiment, corpus, config, "ctc_attention").run()


def test_the_block_is_not_for_espnets_search():
    assert check_options({"beam_size": 3, "k2": {"lm_scale": 1}}, "x") == {"beam_size": 3}


def test_without_k2(experiment, corpus, config, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "k2", None)
    with pytest.raises(LrsmsError, match="--decode-method k2_hlg needs k2, which is not installed"):
        decoding_of(experiment, corpus, config, K2_HLG).run()


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (K2_CTC, {"model_conf": {"ctc_weight": 0.0}}, "ctc_weight: 0.0: the model has no CTC, which .*k2_ctc searches"),
        (K2_RESCORING, {"model_conf": {"ctc_weight": 1.0}}, "no attention decoder, .* decode it with k2_hlg"),
        (K2_RESCORING, {"decoder": "transducer"}, "decoder: transducer: the model has no attention decoder"),
        (K2_HLG, {"token_type": "word"}, r"lang_word/tokens.txt: not found; run stage 2 with the token type of"),
        (K2_HLG, {"token_list": ["<blank>", "<unk>", "q"]}, r"config.yaml has 3 tokens .*number 2 is 'q' in the model"),
    ],
)
def test_models_that_a_method_cannot_decode(experiment, corpus, tmp_path, monkeypatch, method, changes, message):
    monkeypatch.setattr(k2_lattice, "import_k2", lambda wanted_by: None)
    config = yaml.safe_load((experiment.output_dir / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | changes))
    options = LatticeDecoding(method, K2Options(), Experiment(tmp_path), corpus, ("train",))
    with pytest.raises(LrsmsError, match=message):
        options.check()


def test_rescoring_without_a_decoder_still_has_the_other_methods(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(k2_lattice, "import_k2", lambda wanted_by: None)
    tokens = (corpus / "lang_char/tokens.txt").read_text().splitlines()
    config = {"model_conf": {"ctc_weight": 1.0}, "token_type": "char", "token_list": tokens}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for method in (K2_CTC, K2_HLG):
        LatticeDecoding(method, K2Options(), Experiment(tmp_path), corpus, ("train",)).check()


def test_ctc_alone_is_the_best_label_of_each_frame(k2, recognizer, encoded, experiment, corpus):
    trained = Experiment(experiment.output_dir)
    searching = LatticeRecognizer(recognizer, trained, K2_CTC, K2Options(), None)
    for cut in list(CutSet.from_file(corpus / "test/cuts.jsonl.gz"))[:3]:
        speech = load_waveform(cut)
        text, tokens, ids, hypothesis = searching(speech)[0]
        out, _ = recognizer.asr_model.encode(torch.as_tensor(speech)[None], torch.tensor([len(speech)]))
        best = recognizer.asr_model.ctc.log_softmax(out)[0].max(1)
        assert ids == [label for label, _ in itertools.groupby(best.indices.tolist()) if label]
        assert hypothesis.score == pytest.approx(float(best.values.sum()), rel=1e-4)
        assert text == recognizer.tokenizer.tokens2text(tokens)


@pytest.fixture(scope="module")
def graph(k2, corpus) -> Path:
    return make_graph(corpus / "lang_char", [corpus / "train/cuts.jsonl.gz"])


def test_rescoring_takes_the_best_by_the_weights(recognizer, encoded, experiment, graph):
    out, lengths, scores = encoded
    trained = Experiment(experiment.output_dir)
    for weights in ({"ctc_weight": 1.0}, {"attention_weight": 1.0}, {"lm_weight": 1.0}):
        options = K2Options(**({"ctc_weight": 0.0, "attention_weight": 0.0, "lm_weight": 0.0} | weights))
        searching = LatticeRecognizer(recognizer, trained, K2_RESCORING, options, graph)
        paths = searching.search.nbest(scores)
        assert len(paths) > 3
        with torch.no_grad():
            found, score = searching._rescored(paths, out, lengths, scores)
            spelled = [torch.tensor(path.token_ids, dtype=torch.long) for path in paths]
            ctc, attention = ctc_scores(scores, spelled), searching._attention_scores(out, lengths, spelled)
        language = torch.tensor([searching.language.score(path.words) for path in paths])
        of = {"ctc_weight": ctc, "attention_weight": attention, "lm_weight": language}[next(iter(weights))]
        assert (found, score) == (paths[int(of.argmax())], pytest.approx(float(of.max()), abs=1e-4))


@pytest.mark.parametrize("method", [K2_CTC, K2_HLG, K2_RESCORING])
def test_decoding_a_split(k2, experiment, corpus, config, method, capsys):
    decoding = dataclasses.replace(decoding_of(experiment, corpus, config, method), nj=2)
    decoding.run()
    folder = decoding.output_dir
    assert folder == experiment.output_dir / f"decode_quick_{method}_valid.acc.ave" / "test"
    ids = sorted(CutSet.from_file(corpus / "test/cuts.jsonl.gz").ids)
    text = {line.split()[0]: line.split()[1:] for line in (folder / "text").read_text().splitlines()}
    assert sorted(text) == ids and text["short-test"] == []
    report = json.loads((folder / "decode.json").read_text())
    assert report["decode_method"] == method and report["k2"]["output_beam"] == 12 and report["k2_version"][0].isdigit()
    if method != K2_CTC:
        words = {line.split("\t")[0] for line in (corpus / "lang_char/hlg_3gram/lexicon.txt").read_text().splitlines()}
        assert {word for said in text.values() for word in said} <= words
        assert report["words_outside_lexicon"] == 0
    before = (folder / "text").read_bytes()
    one = dataclasses.replace(decoding, nj=1)
    one.run()
    assert "skipped" in capsys.readouterr().out
    one.run(force=True)
    assert (folder / "text").read_bytes() == before


def test_nothing_within_the_beams_is_an_empty_hypothesis(recognizer, experiment, graph, monkeypatch):
    searching = LatticeRecognizer(recognizer, Experiment(experiment.output_dir), K2_RESCORING, K2Options(), graph)
    monkeypatch.setattr(LatticeSearch, "_best_of", lambda self, lattice: None)
    assert searching(torch.zeros(16000).numpy())[0][:3] == ("", [], [])


def test_factors_multiplied_out_say_the_same(recognizer, experiment, corpus, graph):
    trained = Experiment(experiment.output_dir)
    merged = open_recognizer(trained, {"beam_size": 2}, change=merge_)
    opened = (recognizer, merged)
    factored, dense = (LatticeRecognizer(model, trained, K2_RESCORING, K2Options(), graph) for model in opened)
    for cut in list(CutSet.from_file(corpus / "test/cuts.jsonl.gz"))[:2]:
        speech = load_waveform(cut)
        (*said, score), (*again, other) = factored(speech)[0], dense(speech)[0]
        assert said == again and score.score == pytest.approx(other.score, abs=1e-2)
