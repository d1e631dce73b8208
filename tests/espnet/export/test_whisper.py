"""Whisper out again: what others open says what the experiment says."""

import base64

import numpy as np
import pytest
import torch

import lrsms.espnet  # noqa: F401
from lrsms.bin import export as verb
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.checkpoints.whisper_experiment import import_whisper
from lrsms.espnet.export.whisper import export_whisper
from lrsms.espnet.inference.open import open_recognizer
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.espnet.models.whisper import CONTEXTS
from lrsms.lowrank import low_rank_layers
from lrsms.onnx.files import open_session, read_metadata
from lrsms.whisper.files import open_whisper
from lrsms.whisper.graphs import DECODER_NAMES

SPEECH = np.random.default_rng(2).standard_normal(24000).astype(np.float32) * 0.1


@pytest.fixture(scope="module")
def original(tiny_whisper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "original"
    import_whisper(tiny_whisper, Experiment(folder), "clip")
    return Experiment(folder)


@pytest.fixture(scope="module")
def low_rank(original):
    """The same, its weights truncated."""
    folder = original.folder.with_name("low_rank")
    block = {"attention": 0.25, "feed_forward": 0.5, "multiple": 2}
    config = dict(original.config)
    config["encoder_conf"] = {**config["encoder_conf"], "low_rank": block}
    config["decoder_conf"] = {**config["decoder_conf"], "low_rank": block | {"cross_attention": 0.25, "output": 0.25}}
    folder.mkdir()
    original.copy_tokens(folder)
    model, _ = original.load()
    model.encoder = LOW_RANK_ENCODERS["lowrank_whisper"](**config["encoder_conf"])
    model.decoder = LOW_RANK_DECODERS["lowrank_whisper"](len(original.token_list), 16, **config["decoder_conf"])
    model.load_state_dict(torch.load(original.weights, weights_only=True))
    experiment = Experiment(folder)
    experiment.write(config, model.state_dict())
    assert len(dict(low_rank_layers(experiment.load()[0]))) > 15
    return experiment


OPTIONS = {"beam_size": 2, "whisper": {"max_tokens": 12}}


def said(experiment):
    return open_recognizer(experiment, OPTIONS)(SPEECH)[0][2]


@pytest.mark.parametrize("form", ["openai", "transformers"])
def test_dense_files_say_the_same(low_rank, form, tmp_path):
    done = export_whisper(low_rank, tmp_path / form, form=form)
    assert done.factored == 0 and done.merged > 15 and "clips of their own length" in done.summary
    assert open_whisper(tmp_path / form).audio_context == "clip"
    again = Experiment(tmp_path / "again")
    import_whisper(tmp_path / form, again, "clip")
    assert said(again) == said(low_rank) != []
    transcripts = [Recognizer(model, decode=OPTIONS)(SPEECH).text for model in (tmp_path / form, low_rank.folder)]
    assert transcripts[0] == transcripts[1]


def test_graphs_for_sherpa(low_rank, tmp_path):
    pytest.importorskip("onnxruntime")
    factored = export_whisper(low_rank, tmp_path / "factored", form="sherpa")
    dense = export_whisper(low_rank, tmp_path / "dense", form="sherpa", merge="all", precisions=["fp32"])
    assert factored.difference < 1e-4 and dense.difference < 1e-4 and factored.factored > 15 and dense.factored == 0
    assert sorted(path.name for path in (tmp_path / "factored").iterdir()) == [
        *("decoder.int8.onnx", "decoder.onnx", "encoder.int8.onnx", "encoder.onnx", "tokens.txt")
    ]
    size, whole = ((tmp_path / name / "decoder.onnx").stat().st_size for name in ("factored", "dense"))
    assert size < 0.75 * whole
    assert whole < 4 * 1.5 * 1769 * 16 + 200_000  # the table is there once, whichever end reads it
    about = read_metadata(tmp_path / "factored" / "encoder.onnx")
    assert (about["sot_sequence"], about["n_text_ctx"], about["is_multilingual"]) == ("259,260,263", "160", "1")
    assert about["all_language_codes"] == "en,de"
    lines = [line.split() for line in (tmp_path / "factored" / "tokens.txt").read_text().splitlines()]
    spelled = {base64.b64decode(token): int(number) for token, number in lines}
    assert len(spelled) == 258 and b" -" in spelled and {bytes([byte]) for byte in range(256)} <= spelled.keys()


def test_a_cut_vocabulary_goes_along(whisper_of_words, tmp_path):
    pytest.importorskip("onnxruntime")
    cut, again = Experiment(tmp_path / "cut"), Experiment(tmp_path / "again")
    import_whisper(whisper_of_words, cut, "clip", vocabulary=260, texts=["a cat", "the cat"])
    assert "its vocabulary is not openai-whisper's" in export_whisper(cut, tmp_path / "openai", form="openai").summary
    export_whisper(cut, tmp_path / "transformers", form="transformers")
    for form in ("openai", "transformers"):
        import_whisper(tmp_path / form, again, "clip")
        assert again.tokenizer.split("cat dog") == cut.tokenizer.split("cat dog")
        assert said(again) == said(cut) != []
    export_whisper(cut, tmp_path / "sherpa", form="sherpa", precisions=["fp32"])
    about = read_metadata(tmp_path / "sherpa" / "encoder.onnx")
    assert (about["n_vocab"], about["eot"]) == (str(len(cut.token_list)), "260")
    assert len((tmp_path / "sherpa" / "tokens.txt").read_text().splitlines()) == 260


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("padding", [0, 1, 400])
def test_graphs_make_the_silence_of_the_model(tiny_whisper, tmp_path, context, padding):
    """Zeros behind the frames, as sherpa-onnx pads, change nothing."""
    pytest.importorskip("onnxruntime")
    experiment = Experiment(tmp_path / "exp")
    import_whisper(tiny_whisper, experiment, context)
    export_whisper(experiment, tmp_path / "out", form="sherpa", precisions=["fp32"])
    encoder, decoder = (open_session(tmp_path / "out" / f"{part}.onnx") for part in ("encoder", "decoder"))
    model = experiment.load()[0].eval()
    speech, length = torch.from_numpy(SPEECH[None, :23000]).clone(), torch.tensor([23000])
    speech[:, -240:] = 0  # or windows behind the clip would reach into it, which sherpa-onnx does not make
    tokens = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        mel, _ = model.encoder.log_mel(speech, length)
        encoded, lengths = model.encode(speech, length)
        keys = [block.cross_attn.key(encoded) for block in model.decoder.decoders.blocks]
        logits, _ = model.decoder(encoded, lengths, tokens, torch.tensor([3]))
    cross = encoder.run(None, {"mel": torch.nn.functional.pad(mel, (0, padding)).numpy()})
    torch.testing.assert_close(torch.from_numpy(cross[0]), torch.stack(keys), atol=2e-5, rtol=1e-3)
    caches = np.zeros((2, model.decoder.sizes.n_text_layer, 1, model.decoder.sizes.n_text_ctx, 16), np.float32)
    inputs = (tokens.numpy(), caches[0], caches[1], *cross, np.zeros(1, np.int64))
    found = decoder.run(None, dict(zip(DECODER_NAMES[0], inputs)))[0]
    torch.testing.assert_close(torch.from_numpy(found), logits, atol=2e-4, rtol=1e-3)


def test_wrong_forms(low_rank, tmp_path):
    with pytest.raises(LrsmsError, match="form: 'ggml' is unknown; one of openai, transformers, sherpa"):
        export_whisper(low_rank, tmp_path, form="ggml")
    with pytest.raises(LrsmsError, match="merge: 'faster': of a Whisper model, all or none"):
        export_whisper(low_rank, tmp_path, form="sherpa", merge="faster")
    with pytest.raises(LrsmsError, match="precisions: 'int4' is unknown"):
        export_whisper(low_rank, tmp_path, form="sherpa", precisions=["int4"])


def test_verb(low_rank, tmp_path, monkeypatch, capsys):
    def run():
        options = ["--asr_exp", low_rank.folder, "--format", "openai", "--output_dir", tmp_path / "out"]
        monkeypatch.setattr("sys.argv", ["export", *map(str, options)])
        verb.main()
        return capsys.readouterr().out

    assert "model.pt" in run() and (tmp_path / "out" / "model.pt").exists()
    assert "have not changed; skipped" in run()


def test_factored_weights_open_with_a_class_of_ours(low_rank):
    """A low-rank experiment is itself the factored form: nothing but its folder is needed."""
    recognizer = open_recognizer(low_rank, {"whisper": {"max_tokens": 4}})
    assert dict(low_rank_layers(recognizer.asr_model)) and recognizer(SPEECH)[0][2]
