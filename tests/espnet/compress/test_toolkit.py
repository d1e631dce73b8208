"""Compressing a real, tiny ESPnet experiment."""

import copy
import json

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from lhotse import CutSet

from lrsms.compress import iterate
from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.evaluator import Evaluator
from lrsms.espnet.compress.model import Compressible
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.espnet.training.distillation import attach_teacher
from lrsms.lowrank import low_rank_layers

CHECKPOINT = "valid.acc.ave.pth"
OPTIONS = {
    **{"ratios": [0.15, 0.3, "dense"], "trials": 6, "controller": "random", "compression": 1.15, "max_iterations": 1},
    **{"multiple": 1, "calibration": {"utterances": 4}, "search_set": {"utterances": 3, "candidates": 4}},
    **{
        "survivors": 2,
        "confidence": 0.0,
        "finetune": {"epochs": 1, "optim_conf": {"lr": 0.001}, "distill_weight": 0.5},
    },
}


@pytest.fixture(scope="module")
def decode_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("conf") / "decode.yaml"
    path.write_text("beam_size: 2\nctc_weight: 0.5\n")
    return path


@pytest.fixture(scope="module")
def toolkit_for(corpus, decode_config):
    def make(original, root, **changes):
        config = CompressConfig.parse(OPTIONS | changes, "compress.yaml")
        return EspnetToolkit(config, root, original, corpus, decode_config=decode_config)

    return make


@pytest.fixture(scope="module")
def compressible(experiment):
    return Compressible(Experiment(experiment.output_dir, CHECKPOINT))


@pytest.fixture(scope="module")
def compressed(experiment, toolkit_for, tmp_path_factory):
    """One iteration of the whole loop."""
    root = tmp_path_factory.mktemp("compressed") / "tiny_compressed"
    toolkit = toolkit_for(experiment.output_dir, root)
    return toolkit, iterate.run(toolkit, experiment.output_dir, root, toolkit.config.loop)


def test_an_iteration_is_an_ordinary_experiment(compressed, experiment):
    toolkit, (iteration,) = compressed
    folder = toolkit.root / iteration.folder
    assert iteration.compression >= 1.15 * 0.98
    config = yaml.safe_load((folder / "config.yaml").read_text())
    ranks = json.loads((folder / "ranks.json").read_text())["ranks"]
    recognizer = Speech2Text(folder / "config.yaml", folder / CHECKPOINT)  # ESPnet's own inference
    found = {path.removesuffix(".gates"): layer.rank for path, layer in low_rank_layers(recognizer.asr_model)}
    assert found == ranks and config["encoder"] == "lowrank_conformer"
    assert sum(p.numel() for p in recognizer.asr_model.parameters() if p.requires_grad) == iteration.cost
    assert (folder / "decode_valid.acc.ave" / "dev" / "text").exists()
    assert json.loads((folder / "summary.json").read_text())["parameters"] == iteration.cost
    original = Speech2Text(experiment.output_dir / "config.yaml", experiment.output_dir / CHECKPOINT).asr_model
    assert iteration.original_cost == sum(p.numel() for p in original.parameters() if p.requires_grad)


def test_the_same_command_again_runs_nothing(compressed, experiment, monkeypatch):
    toolkit, done = compressed
    monkeypatch.setattr(EspnetToolkit, "search", lambda *_: pytest.fail("searched again"))
    monkeypatch.setattr(EspnetToolkit, "finetune", lambda *_: pytest.fail("trained again"))
    assert iterate.run(toolkit, experiment.output_dir, toolkit.root, toolkit.config.loop) == done


def test_truncation_is_what_the_trial_scored(compressed, compressible, corpus):
    toolkit, (iteration,) = compressed
    folder = toolkit.root / iteration.folder
    truncated = Speech2Text(folder / "truncated" / "config.yaml", folder / "truncated" / CHECKPOINT).asr_model
    ranks = json.loads((folder / "ranks.json").read_text())["ranks"]
    speech = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = torch.tensor([16000])
    with torch.no_grad(), toolkit.sliced(compressible, "whitened").at(ranks) as model:
        torch.testing.assert_close(
            truncated.encode(speech, lengths)[0], model.encode(speech, lengths)[0], rtol=1e-4, atol=1e-4
        )


def test_a_dense_experiment_of_stock_classes_is_compressed(
    experiment, dense_parts, write_config, make_training, toolkit_for, tmp_path
):
    training = make_training(
        write_config(tmp_path / "dense.yaml", **dense_parts, max_epoch=1), tmp_path / "exp" / "dense"
    )
    training.run()
    toolkit = toolkit_for(training.output_dir, tmp_path / "root", finetune={"epochs": 0}, truncation="plain")
    (iteration,) = iterate.run(toolkit, training.output_dir, tmp_path / "root", toolkit.config.loop)
    recognizer = Speech2Text(tmp_path / "root/iter1/config.yaml", tmp_path / "root/iter1" / CHECKPOINT)
    assert list(low_rank_layers(recognizer.asr_model)) and iteration.compression >= 1.14


# What VGG's convolutions hand to so small an LSTM is the largest of its matrices.
@pytest.mark.parametrize(
    ("parts", "times", "factored"),
    [
        pytest.param({"encoder": "rnn"}, 1.3, {"LowRankLSTM", "LSTMInput"}, marks=pytest.mark.slow),
        ({"encoder": "vgg_rnn"}, 1.1, {"LSTMInput"}),
    ],
)
def test_an_lstm_model_with_attention_is_compressed(
    parts, times, factored, write_config, make_training, toolkit_for, corpus, tmp_path
):
    conf = {"num_layers": 2, "hidden_size": 24, "output_size": 16, "bidirectional": True}
    conf |= {"subsample": [1, 2, 2]} if parts["encoder"] == "rnn" else {}
    changes = {"encoder_conf": conf, "decoder": "rnn", "decoder_conf": {"num_layers": 1, "hidden_size": 24}}
    training = make_training(
        write_config(tmp_path / "rnn.yaml", **parts, **changes, specaug=None, specaug_conf=None, max_epoch=1),
        tmp_path / "exp" / "rnn",
    )
    training.run()
    toolkit = toolkit_for(
        training.output_dir,
        tmp_path / "root",
        controller="energy",
        trials=2,
        roles=["recurrent", "recurrent_input"],
        compression=times,
    )
    (iteration,) = iterate.run(toolkit, training.output_dir, tmp_path / "root", toolkit.config.loop)
    folder = tmp_path / "root" / iteration.folder
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["encoder"] == f"lowrank_{parts['encoder']}" and config["decoder"] == "lowrank_rnn"
    model = Speech2Text(folder / "config.yaml", folder / CHECKPOINT).asr_model
    kinds = {type(layer).__name__ for _, layer in low_rank_layers(model)}
    assert kinds >= factored and iteration.compression >= times

    # The beam search of a candidate is ESPnet's own, also after batches have been scored: attention keeps a state.
    decode = {"beam_size": 2, "ctc_weight": 0.3}
    opened = Compressible(Experiment(folder, CHECKPOINT))
    dev = opened.utterances(corpus / "dev" / "cuts.jsonl.gz")
    evaluator = Evaluator(opened, dev, decode=decode)
    evaluator.score("loss")
    recognizer = Speech2Text(folder / "config.yaml", folder / CHECKPOINT, **decode)
    cuts = {cut.id: cut for cut in CutSet.from_file(corpus / "dev" / "cuts.jsonl.gz")}
    own = [recognizer(cuts[one.id].load_audio()[0])[0][0] or "" for one in dev]
    assert evaluator._beam_texts(dev) == own


def test_scores_agree_with_espnets_own(compressible, experiment, corpus):
    dev = compressible.utterances(corpus / "dev" / "cuts.jsonl.gz")
    evaluator = Evaluator(compressible, dev, decode={"beam_size": 2, "ctc_weight": 0.5})
    model = Speech2Text(experiment.output_dir / "config.yaml", experiment.output_dir / CHECKPOINT).asr_model
    losses = []
    for cut in CutSet.from_file(corpus / "dev" / "cuts.jsonl.gz"):
        utterance = next(one for one in dev if one.id == cut.id)
        speech = torch.from_numpy(cut.load_audio())
        with torch.no_grad():
            losses.append(
                model(
                    speech,
                    torch.tensor([speech.shape[1]]),
                    utterance.tokens[None],
                    torch.tensor([len(utterance.tokens)]),
                )[0]
            )
    assert evaluator.score("loss") == pytest.approx(
        float(sum(losses) / len(losses)), rel=1e-2
    )  # padding shows at edges
    assert evaluator.score("ctc") >= 0
    beam = evaluator.errors("beam")
    assert set(beam) == {one.id for one in dev}
    partial = []
    evaluator.score("ctc", lambda step, error: partial.append(step))
    assert partial == list(range(len(evaluator.batches)))


def test_the_beam_search_uses_the_candidate(compressible, experiment, corpus, tmp_path, toolkit_for):
    dev = compressible.utterances(corpus / "dev" / "cuts.jsonl.gz")
    evaluator = Evaluator(compressible, dev, decode={"beam_size": 2, "ctc_weight": 0.0})
    before = evaluator._beam_texts(dev)
    weight = compressible.model.decoder.output_layer.weight
    saved = weight.clone()
    weight.data.zero_()
    after = evaluator._beam_texts(dev)
    weight.data.copy_(saved)
    assert before != after and evaluator._beam_texts(dev) == before


def test_test_data_is_refused(experiment, toolkit_for, tmp_path):
    for key in ("calibration", "search_set"):
        with pytest.raises(LrsmsError, match=rf"{key}.split: 'test' is test data, which compression must not see"):
            toolkit_for(experiment.output_dir, tmp_path, **{key: {"split": "test"}})


def test_a_missing_dev_set_and_a_budget_out_of_reach_are_named(experiment, toolkit_for, tmp_path):
    toolkit = toolkit_for(experiment.output_dir, tmp_path / "a")
    toolkit.valid_split = "evil"
    with pytest.raises(LrsmsError, match="evil/cuts.jsonl.gz: not found; compression needs the cuts of evil"):
        iterate.run(toolkit, experiment.output_dir, tmp_path / "a", toolkit.config.loop)
    toolkit = toolkit_for(experiment.output_dir, tmp_path / "b", compression=100.0, target=200.0)
    with pytest.raises(LrsmsError, match="out of reach: the smallest ratios leave"):
        iterate.run(toolkit, experiment.output_dir, tmp_path / "b", toolkit.config.loop)


def test_a_class_without_low_rank_form_is_named_with_what_it_has(compressible):
    from lrsms.espnet.compress.model import _low_rank_name

    with pytest.raises(
        LrsmsError,
        match=r"encoder: 'longformer' \(LowRankConformerEncoder: .*Linear.*no low-rank form; .* conformer",
    ):
        _low_rank_name("encoder", "longformer", compressible.model.encoder)


def test_a_missing_checkpoint_is_named(experiment):
    with pytest.raises(LrsmsError, match="nothing.pth: not found"):
        Compressible(Experiment(experiment.output_dir, "nothing.pth"))


def test_a_teacher_that_agrees_adds_nothing_and_another_does(experiment, build_model):
    teacher = experiment.output_dir / CHECKPOINT
    student = Speech2Text(experiment.output_dir / "config.yaml", teacher).asr_model.train()
    student.specaug = None
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.BatchNorm1d):
            module.eval()  # or it would go by the batch, and its teacher would not
    student.ctc.dropout_rate = 0.0
    batch = (
        torch.randn(2, 16000) * 0.1,
        torch.tensor([16000, 12000]),
        torch.tensor([[2, 3, 4], [3, 2, -1]]),
        torch.tensor([3, 2]),
    )
    plain = student(*(part.clone() for part in batch))[0]
    names = set(student.state_dict())
    attach_teacher(student, teacher, 0.25)
    assert set(student.state_dict()) == names  # the teacher is not saved with it
    loss, stats, _ = student(*(part.clone() for part in batch))
    torch.testing.assert_close(loss, 0.75 * plain, rtol=1e-4, atol=1e-4)
    assert float(stats["loss_distill"]) == pytest.approx(0.0, abs=1e-3)
    attach_teacher(student, teacher, 0.25, encoder_weight=2.0)  # and once more: the first has nothing to add
    assert float(student(*(part.clone() for part in batch))[1]["loss_encoder"]) == pytest.approx(0.0, abs=1e-5)
    other = build_model(experiment.output_dir, specaug=None).train()
    attach_teacher(other, teacher, 1.0, encoder_weight=2.0)
    loss, stats, _ = other(*(part.clone() for part in batch))
    assert float(stats["loss_distill"]) > 1.0
    assert float(stats["loss_encoder"]) > 0.1
    torch.testing.assert_close(loss.squeeze(), stats["loss_distill"] + stats["loss_encoder"])
    loss.backward()
    assert other.encoder.encoders[0].feed_forward.w_1[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert "loss_distill" not in other.eval()(*(part.clone() for part in batch))[1]


@pytest.mark.parametrize(
    "decoder",
    [
        {},
        {"decoder": "rnn", "decoder_conf": {"hidden_size": 16}},
        {"decoder": "lowrank_rnn", "decoder_conf": {"hidden_size": 16}},
    ],
    ids=["attention", "LSTM", "low-rank LSTM"],
)
def test_divergence_of_a_batch_is_the_mean_of_its_utterances(experiment, build_model, decoder):
    student = build_model(experiment.output_dir, specaug=None, **decoder).train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    student.ctc.dropout_rate = 0.0
    attach_teacher(student, experiment.output_dir / CHECKPOINT, 1.0)
    speech, lengths = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 16000])  # a clip's end hears padding
    text, tokens = torch.tensor([[2, 3, 4, 2, 3], [3, 2, -1, -1, -1]]), torch.tensor([5, 2])

    def stats(rows, longest=5):
        return student(speech[rows], lengths[rows], text[rows, :longest], tokens[rows])[1]

    both, first, second = stats([0, 1]), stats([0]), stats([1], 2)
    torch.testing.assert_close(
        both["loss_distill"], (first["loss_distill"] + second["loss_distill"]) / 2, rtol=1e-3, atol=1e-4
    )


def test_another_vocabulary_is_no_teacher(experiment, build_model):
    model = copy.copy(build_model(experiment.output_dir))
    model.token_list = [*model.token_list[:-1], "x"]
    with pytest.raises(LrsmsError, match="has other tokens"):
        attach_teacher(model, experiment.output_dir / CHECKPOINT, 0.5)
    with pytest.raises(LrsmsError, match="distill_weight: 0 is not above 0"):
        attach_teacher(model, experiment.output_dir / CHECKPOINT, 0)
    with pytest.raises(LrsmsError, match="distill_encoder_weight: -1 is not a number of at least 0"):
        attach_teacher(model, experiment.output_dir / CHECKPOINT, 0.5, encoder_weight=-1)
    model.encoder = torch.nn.Module()
    model.encoder.output_size = lambda: 7
    with pytest.raises(LrsmsError, match=r"distill_encoder_weight: the encoder of .* is \d+ wide, this one 7"):
        attach_teacher(model, experiment.output_dir / CHECKPOINT, 0.5, encoder_weight=1)
    model.use_transducer_decoder = True
    with pytest.raises(LrsmsError, match=r"the decoder of the model to train is \w+, which does not attend"):
        attach_teacher(model, experiment.output_dir / CHECKPOINT, 0.5)


def test_the_verb(experiment, corpus, decode_config, run_python, tmp_path):
    config = tmp_path / "compress.yaml"
    config.write_text(yaml.safe_dump(OPTIONS | {"finetune": {"epochs": 0}}))
    options = ["--asr_exp", experiment.output_dir, "--config", config, "--output_dir", tmp_path / "out"]
    options += ["--data_dir", corpus, "--decode_config", decode_config, "--nj", "2"]
    done = run_python("-m", "lrsms.bin.compress", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| iter1" in done.stdout and "iter1: 1." in done.stdout
    for name in ("COMPRESSION.md", "compression.json", "trials.png", "loop.png", "ranks.png", "best_so_far.png"):
        assert (tmp_path / "out" / name).exists(), name
    summary = json.loads((tmp_path / "out/iter1/summary.json").read_text())
    assert summary["epochs"] == 0 and summary["parameters"] < summary["dense_parameters"]  # as stage 7 reports it
    content = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert content["trials"] == {"iter1": 6} and content["iterations"][0]["compression"] > 1.1
    assert content["search_set"]["utterances"] == 3
