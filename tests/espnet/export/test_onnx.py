"""A trained experiment as ONNX files: the same text by onnxruntime and by sherpa-onnx, smaller in int8."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lhotse import CutSet

from lrsms.bench.decoding import beam_search, best_path
from lrsms.bench.exporting import check_export, compare_exports
from lrsms.bin import export
from lrsms.errors import LrsmsError
from lrsms.espnet.bench.dummy import write_dummy_model
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.export.onnx import export_onnx, frontend_options
from lrsms.espnet.export.onnx_recognizer import open_onnx_recognizer
from lrsms.espnet.inference.open import open_recognizer
from lrsms.onnx.files import open_session, read_metadata

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lrsms[export]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'lrsms[export]'")
CHECKPOINT = "valid.acc.ave.pth"
OPTIONS = {"beam_size": 3, "ctc_weight": 0.5}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory, write_config):
    """An experiment of random weights, so that the best path is no blank; a sixth of the frames."""
    folder = tmp_path_factory.mktemp("chatty")
    base = yaml.safe_load(write_config(folder / "base.yaml").read_text())
    encoder = base["encoder_conf"] | {"input_layer": "conv2d6"}
    write_dummy_model(
        write_config(folder / "train.yaml", encoder_conf=encoder), folder / "exp", CHECKPOINT, vocab_size=30
    )
    return folder / "exp"


@pytest.fixture(scope="module")
def onnx(chatty, tmp_path_factory):
    """Both precisions of it, factored."""
    return export_onnx(Experiment(chatty, CHECKPOINT), tmp_path_factory.mktemp("onnx"), merge="none")


@pytest.fixture
def decode_config(tmp_path):
    path = tmp_path / "decode.yaml"
    path.write_text(yaml.safe_dump(OPTIONS))
    return path


@pytest.fixture(scope="module")
def audio(corpus):
    cut = next(iter(CutSet.from_file(corpus / "test" / "cuts.jsonl.gz")))
    return torch.from_numpy(cut.load_audio()[0])


def test_both_searches_give_the_checkpoints_text_and_scores(chatty, onnx, audio):
    ours = open_recognizer(Experiment(chatty, CHECKPOINT), OPTIONS)
    exported = open_onnx_recognizer(Experiment(chatty, CHECKPOINT), OPTIONS, onnx, "fp32")
    assert len(best_path(ours, audio)[0].split()) > 2 and beam_search(ours, audio) != [""]
    assert best_path(exported, audio) == best_path(ours, audio)
    expected, found = (one(audio)[0] for one in (ours, exported))
    assert found[0] == expected[0]
    assert float(found[3].score) == pytest.approx(float(expected[3].score), abs=1e-2)


def test_the_exported_search_has_no_network_of_torch(chatty, onnx, audio, monkeypatch):
    exported = open_onnx_recognizer(Experiment(chatty, CHECKPOINT), OPTIONS, onnx, "int8")

    def refuse(*_, **__):
        raise AssertionError("torch's network was asked")

    for part in (exported.asr_model.encoder, exported.asr_model.decoder):
        monkeypatch.setattr(part, "forward", refuse)
    monkeypatch.setattr(exported.asr_model.decoder, "forward_one_step", refuse)
    assert beam_search(exported, audio) != [""] and best_path(exported, audio) != [""]


def test_the_files_say_what_they_are(chatty, onnx):
    metadata = read_metadata(onnx.encoder_file("fp32"))
    assert (metadata["vocab_size"], metadata["subsampling_factor"], metadata["frontend"]) == ("30", "6", "kaldi_fbank")
    assert metadata["frontend_num_filters"] == "20" and metadata["tokens"].split("\n")[0] == "<blank>"
    report = json.loads((onnx.folder / "export.json").read_text())
    assert report["merged"] == {"fp32": 0, "int8": 0} and report["factored_layers"] == onnx.layers > 10
    assert report["bytes"]["decoder.int8.onnx"] == onnx.decoder_file("int8").stat().st_size
    assert onnx.difference < 1e-3
    assert "encoder_ctc.int8.onnx" in onnx.summary


def test_merged_layers_are_one_product_each(chatty, onnx, tmp_path):
    merged = export_onnx(Experiment(chatty, CHECKPOINT), tmp_path, merge="all", precisions=["fp32"])
    assert merged.merged == {"fp32": onnx.layers} and merged.difference < 1e-3
    x = np.random.default_rng(0).standard_normal((1, 130, 20), np.float32)
    inputs = {"x": x, "x_lens": np.array([130])}
    first, second = (open_session(one.encoder_file("fp32")).run(None, inputs)[0] for one in (onnx, merged))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_layers_are_measured_where_that_is_asked_for(chatty, onnx, tmp_path):
    done = export_onnx(Experiment(chatty, CHECKPOINT), tmp_path, precisions=["fp32"])
    assert 0 <= done.merged["fp32"] <= onnx.layers and done.difference < 1e-3


def test_sherpa_recognizes_a_file(chatty, audio, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install 'lrsms[export]'")
    done = export_onnx(Experiment(chatty, CHECKPOINT), tmp_path, form="sherpa", merge="none")
    assert done.features.usual
    soundfile.write(tmp_path / "digits.wav", audio.numpy(), 16000)
    samples, rate = soundfile.read(tmp_path / "digits.wav", dtype="float32")
    ours = open_recognizer(Experiment(chatty, CHECKPOINT), OPTIONS)
    for precision in ("fp32", "int8"):
        files = {"model": str(done.encoder_file(precision)), "tokens": str(tmp_path / "tokens.txt")}
        recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(**files, sample_rate=16000, feature_dim=20)
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        recognizer.decode_stream(stream)
        found = stream.result
        if precision == "fp32":
            assert [found.text] == best_path(ours, torch.from_numpy(samples)) and found.text
        with torch.no_grad():
            encoded, _ = ours.asr_model.encode(audio[None], torch.tensor([len(audio)]))
        ids = ours.asr_model.ctc.argmax(encoded)[0]
        last = 0.06 * max(frame for frame in range(len(ids)) if ids[frame] != 0)
        assert 0 < found.timestamps[-1] <= last + 0.04  # the last token begins no later than its last frame
    assert found.timestamps[-1] > 0.5 * len(audio) / 16000 * 4 / 6  # as 40 ms each, 60 ms would end too early


def test_features_of_an_experiment_of_espnets_recipes_name_the_sampling_rate_in_hz():
    options = frontend_options({"frontend_conf": {"fs": "8k", "num_filters": 40}})
    assert options["fs"] == 8000 and options["num_filters"] == 40 and options["frame_shift"] == 0.01


def test_features_that_sherpa_has_no_option_for_are_refused_before_anything_is_written(write_config, tmp_path):
    frontend = {"fs": 16000, "num_filters": 20, "frame_shift": 0.03, "frame_length": 0.04}
    write_dummy_model(write_config(tmp_path / "train.yaml", frontend_conf=frontend), tmp_path / "exp", CHECKPOINT, 30)
    with pytest.raises(LrsmsError, match="config.yaml: frontend_conf.frame_shift: 0.03"):
        export_onnx(Experiment(tmp_path / "exp", CHECKPOINT), tmp_path / "out", form="sherpa")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("merge", ["none", "faster"])
def test_an_lstm_model_is_exported_without_its_decoder(merge, write_config, tmp_path, audio):
    changes = {
        "encoder": "lowrank_rnn",
        "encoder_conf": {"use_projection": False, "hidden_size": 16, "output_size": 12, "num_layers": 2}
        | {"low_rank": {"recurrent": 0.25, "recurrent_input": 0.25, "multiple": 1}},
        "decoder": "lowrank_rnn",
        "decoder_conf": {"hidden_size": 16, "att_conf": {"adim": 12}}
        | {"low_rank": {"attention": 0.25, "recurrent": 0.25}},
    }
    write_dummy_model(write_config(tmp_path / "train.yaml", **changes), tmp_path / "exp", CHECKPOINT, 30)
    done = export_onnx(Experiment(tmp_path / "exp", CHECKPOINT), tmp_path / "out", merge=merge)
    assert done.merged["fp32"] == {"none": 3, "faster": 2}[merge]
    assert not done.decoder and "decoder: lowrank_rnn is not exported" in done.notes[0]
    ours = open_recognizer(Experiment(tmp_path / "exp", CHECKPOINT), OPTIONS)
    exported = open_onnx_recognizer(Experiment(tmp_path / "exp", CHECKPOINT), OPTIONS, done, "fp32")
    assert best_path(exported, audio) == best_path(ours, audio)


def test_a_check_leaves_a_table_and_catches_another_text(chatty, onnx, corpus, decode_config):
    options = {"merge": "none", "precisions": ["fp32", "int8"], "utterances": 1}
    cuts = corpus / "test" / "cuts.jsonl.gz"
    table = check_export(onnx, Experiment(chatty, CHECKPOINT), cuts, decode_config, **options)
    results = json.loads((onnx.folder / "check.json").read_text())["results"]
    assert {(one["form"], one["precision"], one["search"]) for one in results} == {
        (form, precision, search)
        for form, precision in (("checkpoint", "fp32"), ("onnx", "fp32"), ("onnx", "int8"))
        for search in ("ctc", "beam")
    }
    assert all(one["same_text"] == 1 for one in results if one["precision"] == "fp32") and "1 of 1" in table
    assert all(one["rtf"] > 0 and one["bytes"] > 1000 for one in results)
    other = onnx.encoder_file("fp32").read_bytes()
    try:
        onnx.encoder_file("fp32").write_bytes(_scrambled(other))
        with pytest.raises(LrsmsError, match="has the checkpoint's text for 0 of 1"):
            check_export(onnx, Experiment(chatty, CHECKPOINT), cuts, decode_config, **options)
    finally:
        onnx.encoder_file("fp32").write_bytes(other)


def _scrambled(content: bytes) -> bytes:
    """The model with its CTC weights the other way round."""
    import onnx as package

    model = package.load_from_string(content)
    weights = max(
        (one for one in model.graph.initializer if list(one.dims) == [16, 30]), key=lambda one: len(one.raw_data)
    )
    values = package.numpy_helper.to_array(weights)[:, ::-1].copy()
    weights.CopyFrom(package.numpy_helper.from_array(values, weights.name))
    return model.SerializeToString()


def test_experiments_are_compared_form_by_form(chatty, write_config, dense_parts, corpus, decode_config, tmp_path):
    write_dummy_model(write_config(tmp_path / "dense.yaml", **dense_parts), tmp_path / "dense", CHECKPOINT, 30)
    options = {"merges": ["none"], "precisions": ["fp32"], "searches": ["ctc"], "utterances": 1}
    places = (tmp_path / "out", tmp_path / "work")
    cuts = corpus / "test" / "cuts.jsonl.gz"
    compare_exports([tmp_path / "dense", chatty], cuts, decode_config, CHECKPOINT, *places, **options)
    results = json.loads((tmp_path / "out" / "export.json").read_text())["results"]
    rows = [(one["form"], one["experiment"], one["layers"]) for one in results]
    assert rows == [
        *(("checkpoint", "dense", "as trained"), ("checkpoint", "exp", "as trained")),
        *(("onnx", "dense", "dense"), ("onnx", "exp", "factored")),
        *(("sherpa-onnx", "dense", "dense"), ("sherpa-onnx", "exp", "factored")),
    ]
    assert all(one["compared_with"][0] == "dense" for one in results)


def test_the_verb_writes_what_it_is_asked_for(chatty, corpus, decode_config, monkeypatch, capsys, tmp_path):
    command = f"export --asr_exp {chatty} --format sherpa --output_dir {tmp_path / 'out'} --precisions int8"
    check = f"--check test --data_dir {corpus} --config {decode_config} --utterances 1 --merge none"
    monkeypatch.setattr("sys.argv", f"{command} {check}".split())
    export.main()
    printed = capsys.readouterr().out
    assert "--sample-rate=16000 --feat-dim=20" in printed and "| sherpa-onnx | int8" in printed
    files = {"model.int8.onnx", "tokens.txt", "export.json", "check.json", "check.md", "inputs.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    export.main()
    assert "inputs have not changed; skipped" in capsys.readouterr().out


def test_what_there_is_no_such_thing_of_is_an_error(chatty, tmp_path):
    for options, message in (({"merge": "some"}, "merge: 'some'"), ({"precisions": ["int4"]}, "precisions: 'int4'")):
        with pytest.raises(LrsmsError, match=f"{message} is unknown; .* of "):
            export_onnx(Experiment(chatty, CHECKPOINT), tmp_path / "out", **options)
    with pytest.raises(LrsmsError, match="missing.pth: not found; run stage 3 to its end"):
        export_onnx(Experiment(chatty, "missing.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
