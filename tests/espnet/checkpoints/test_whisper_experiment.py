"""A local Whisper model as an experiment: decoded, trained, compressed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

import lrsms.espnet  # noqa: F401
from lrsms.bin import import_whisper as verb
from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.checkpoints.whisper_experiment import import_whisper
from lrsms.espnet.compress.bands import tied_table
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.espnet.export.merge_to_dense import merge_experiment
from lrsms.espnet.export.whisper import export_whisper
from lrsms.espnet.inference import whisper_recognizer
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.open import open_recognizer
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.espnet.inference.whisper_recognizer import WhisperRecognizer
from lrsms.espnet.models.cost import cost
from lrsms.espnet.training.run import Training
from lrsms.lowrank import low_rank_layers
from lrsms.scoring.decoding import read_hypotheses
from lrsms.whisper.files import open_whisper
from lrsms.whisper.search import Hypothesis

TRAINING = {
    "encoder": "lowrank_whisper",
    "decoder": "lowrank_whisper",
    **{"input_size": 1, "frontend": None, "normalize": None, "specaug": None},
    "model_conf": {
        **{"ctc_weight": 0.0, "sym_sos": "<|startoftranscript|>", "sym_eos": "<|endoftext|>"},
        **{"report_cer": False, "report_wer": False},
    },
    **{"max_duration": 4.0, "num_buckets": 2, "num_workers": 0, "max_epoch": 1, "num_att_plot": 0},
    **{"optim": "adam", "optim_conf": {"lr": 0.001}, "scheduler": None, "keep_nbest_models": 1},
    **{"best_model_criterion": [["valid", "acc", "max"]], "use_matplotlib": False, "log_interval": 1},
}


@pytest.fixture(scope="module")
def original(tiny_whisper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper") / "exp" / "original"
    import_whisper(tiny_whisper, Experiment(folder), "clip", language="de")
    return Experiment(folder)


@pytest.fixture(scope="module")
def data(original):
    """Folder of cuts of noise, and of the model's tokens."""
    folder = original.folder.parent.parent / "data"
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("dev", 3)):
        cuts = []
        for number in range(count):
            samples = (generator.standard_normal(8000 + 2000 * number) * 0.1).astype(np.float32)
            path = folder / "audio" / f"{split}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            import soundfile

            soundfile.write(path, samples, 16000)
            recording = Recording.from_file(path)
            text = ("Two words", "One")[number % 2]
            said = SupervisionSegment(path.stem, recording.id, 0.0, recording.duration, text=text)
            cuts.append(MonoCut(path.stem, 0.0, recording.duration, 0, [said], recording=recording))
        (folder / split).mkdir(parents=True, exist_ok=True)
        CutSet.from_cuts(cuts).to_file(folder / split / "cuts.jsonl.gz")
    (folder / "lang_whisper_multilingual").mkdir()
    original.copy_tokens(folder / "lang_whisper_multilingual")
    return folder


def write_decoding(path, **whisper):
    path.write_text(yaml.safe_dump({"beam_size": 2, "whisper": {"language": "en", "max_tokens": 8, **whisper}}))
    return path


def test_an_experiment_holds_all_it_needs(original, tiny_whisper):
    assert sorted(path.name for path in original.folder.iterdir()) == [
        *("config.yaml", "tokenizer.json", "tokens.txt", "valid.acc.ave.pth")
    ]
    assert original.is_whisper and len(original.token_list) == open_whisper(tiny_whisper).sizes.n_vocab
    model, args = original.load()
    assert (model.token_list[model.sos], model.token_list[model.eos]) == ("<|startoftranscript|>", "<|endoftext|>")
    assert isinstance(args.token_list, str)  # a list of 51,864 is slow to read
    assert model.encoder.encoders.conv1.weight.equal(open_whisper(tiny_whisper).state["encoder.conv1.weight"])
    costs = cost(model, 16000, 4.0)
    assert costs.parameters == costs.dense_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_texts_get_the_prompt_of_the_language(original):
    from espnet2.tasks.asr import ASRTask

    _, args = original.load()
    ids = ASRTask.build_preprocess_fn(args, train=False)("id", {"text": "Ja"})["text"]
    names = [original.token_list[number] for number in ids]
    assert names == ["<|de|>", "<|transcribe|>", "<|notimestamps|>", "\u0120", "J", "a"]


def test_unknown_language_is_refused(tiny_whisper, tmp_path):
    with pytest.raises(LrsmsError, match="language: 'fr' is unknown; it has en, de"):
        import_whisper(tiny_whisper, Experiment(tmp_path / "exp"), language="fr")


def test_a_cut_vocabulary_leaves_the_logits_of_the_rest(whisper_of_words, tmp_path):
    whole, left = Experiment(tmp_path / "whole"), Experiment(tmp_path / "left")
    import_whisper(whisper_of_words, whole)
    import_whisper(whisper_of_words, left, vocabulary=261, texts=["a cat", "the cat"])
    assert len(whole.token_list) - len(left.token_list) == 3
    assert left.tokenizer.split("cat dog") == ["\u0120cat", "\u0120", "d", "o", "g"]
    rows = [whole.token_list.index(token) for token in left.token_list]
    logits = []
    for experiment in (whole, left):
        model = experiment.load()[0].eval()
        said = torch.tensor([[model.sos, *experiment.tokenizer.encode("cat")]])
        memory = model.encode(torch.sin(torch.arange(16000) / 9)[None], torch.tensor([16000]))[0]
        logits.append(model.decoder.decoders(said, model.decoder.decoders.begin(memory)).detach())
    torch.testing.assert_close(logits[1], logits[0][..., rows])


def test_a_language_is_refused_before_a_vocabulary_is_cut(whisper_of_words, tmp_path):
    with pytest.raises(LrsmsError, match="language: 'fr' is unknown"):
        import_whisper(whisper_of_words, Experiment(tmp_path / "exp"), language="fr", vocabulary=261)
    assert not (tmp_path / "exp").exists()


def test_verb_cuts_a_vocabulary_by_texts(whisper_of_words, tmp_path, monkeypatch, capsys):
    def run(*further):
        options = ["--model", whisper_of_words, "--asr_exp", tmp_path / "exp", "--data_dir", tmp_path / "data"]
        monkeypatch.setattr("sys.argv", ["import_whisper", *map(str, [*options, *further])])
        verb.main()
        return capsys.readouterr().out

    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\nthe cat\na dog\n")
    assert "Whisper of 1,775 tokens" in run()
    assert "Whisper of 1,772 tokens" in run("--vocabulary", "261", "--texts", texts)
    assert "is up to date" in run("--vocabulary", "261", "--texts", texts)
    assert "Whisper of 1,771 tokens" in run("--vocabulary", "260", "--texts", texts)
    texts.write_text("a dog\nthe dog\na cat\n")
    assert "up to date" not in run("--vocabulary", "260", "--texts", texts)
    assert "Whisper of 1,775 tokens" in run()
    with pytest.raises(SystemExit):
        run("--vocabulary", "261")
    assert "--vocabulary and --texts belong together" in capsys.readouterr().err


def test_verb_writes_once_and_again_if_the_model_changes(tiny_whisper, tmp_path, monkeypatch, capsys):
    options = ["--model", tiny_whisper, "--asr_exp", tmp_path / "exp", "--data_dir", tmp_path / "data"]

    def run(*further):
        monkeypatch.setattr("sys.argv", ["import_whisper", *map(str, [*options, *further])])
        verb.main()
        return capsys.readouterr().out

    assert "Whisper of 1,769 tokens" in run()
    assert (tmp_path / "data" / "lang_whisper_multilingual" / "tokenizer.json").exists()
    assert "is up to date, skipped" in run()
    assert "up to date" not in run("--audio_context", "clip")
    assert Experiment(tmp_path / "exp").options("encoder_conf")["audio_context"] == "clip"


def test_recognizers_say_the_same(original, data, tmp_path):
    speech = np.random.default_rng(1).standard_normal(16000).astype(np.float32) * 0.1
    options = {"beam_size": 2, "whisper": {"max_tokens": 8}}
    recognizer = open_recognizer(original, options)
    assert isinstance(recognizer, WhisperRecognizer)
    text, tokens, ids, hypothesis = recognizer(speech)[0]
    assert [original.token_list[number] for number in ids] == tokens and hypothesis.score < 0
    transcript = Recognizer(original.folder, decode=options)(speech)
    assert transcript.text == text
    int8 = open_recognizer(original, options, precision="int8")
    assert int8(speech)[0][2]  # its tied output reads weights that stay
    with pytest.raises(
        LrsmsError, match="decoding with lm_weight: 0.3: Whisper has no CTC, and its search takes beam_size"
    ):
        open_recognizer(original, {"lm_weight": 0.3})


def test_a_text_that_repeats_itself_is_heard_again_with_all_of_the_silence(tiny_whisper, tmp_path, monkeypatch):
    condensed, full = Experiment(tmp_path / "exp"), open_whisper(tiny_whisper).sizes.n_audio_ctx
    import_whisper(tiny_whisper, condensed, "condensed")
    heard: list[int] = []  # positions of the encoder

    def say(decoder, memory, tokens, options, beam_size, counts):
        heard.append(memory.shape[1])
        word = tokens.encode("again")
        return [Hypothesis(tuple(word * (1 if memory.shape[1] == full else 60)), -1.0)]

    monkeypatch.setattr(whisper_recognizer, "search", say)
    speech = np.random.default_rng(1).standard_normal(16000).astype(np.float32) * 0.1
    assert open_recognizer(condensed, {})(speech)[0][0] == "again"
    assert len(heard) == 2 and heard[0] < heard[1] == full
    heard.clear()
    assert Recognizer(condensed.folder)(speech).text == "again"
    assert len(heard) == 2 and heard[1] == full
    heard.clear()
    recognizer = open_recognizer(condensed, {"whisper": {"compression_ratio_threshold": None}})
    assert recognizer(speech)[0][0] == " ".join(["again"] * 60) and len(heard) == 1
    recognizer(speech)
    assert heard[0] == heard[1]  # the silence is condensed still
    heard.clear()
    open_recognizer(condensed, {"whisper": {"compression_ratio_threshold": 100}})(speech)
    assert len(heard) == 1


def test_decoding_writes_texts_and_counts_errors_by_the_normalizer(original, data, tmp_path):
    pytest.importorskip("whisper_normalizer")
    config = write_decoding(tmp_path / "decode.yaml", normalizer="whisper_english")
    decoding = Decoding(original.folder, data / "dev" / "cuts.jsonl.gz", config)
    decoding.run()
    assert len(read_hypotheses(decoding.output_dir / "text")) == 3
    from lrsms.scoring.decoding import score_decoding

    (decoding.output_dir / "text").write_text("dev0 two words.\ndev1 1\ndev2 TWO words\n")
    scores = score_decoding(decoding.output_dir, decoding.cuts)
    assert scores.wer.total.errors == 0 and scores.plain.total.errors == 4
    assert (decoding.output_dir / "score_plain" / "result.txt").exists()


def test_training_goes_on_and_moves(original, data, tmp_path, tiny_whisper):
    low_rank = {"attention": 0.25, "multiple": 2}
    config = TRAINING | {
        "encoder_conf": {"whisper_model": str(tiny_whisper), "audio_context": "clip", "low_rank": low_rank},
        "decoder_conf": {"whisper_model": str(tiny_whisper), "low_rank": low_rank | {"output": 0.5}},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    training = Training(
        tmp_path / "train.yaml",
        tmp_path / "exp",
        data / "train" / "cuts.jsonl.gz",
        data / "dev" / "cuts.jsonl.gz",
        data / "lang_whisper_multilingual",
        "whisper_multilingual",
    )
    training.run()
    moved = tmp_path / "elsewhere"
    (tmp_path / "exp").rename(moved)
    saved = yaml.safe_load((moved / "config.yaml").read_text())
    assert (saved["token_list"], saved["bpemodel"]) == ("tokens.txt", "tokenizer.json")
    model, _ = Experiment(moved).load()
    before = open_whisper(tiny_whisper).state["decoder.blocks.0.mlp.0.weight"]
    assert not model.decoder.decoders.blocks[0].mlp[0].weight.equal(before)
    assert len(dict(low_rank_layers(model))) == 2 * 4 + 2 * 4 + 1


@pytest.mark.parametrize("truncation", ["whitened", "activation_pca"])
def test_compression_with_a_teacher(original, data, tmp_path, truncation):
    config = CompressConfig.parse(
        {
            **{"trials": 4, "ratios": [0.25, 0.5], "multiple": 2, "fidelity": "loss", "survivor_fidelity": None},
            **{"truncation": truncation, "calibration": {"utterances": 3}, "search_set": {"utterances": 3}},
            "finetune": {"epochs": 1, "distill_weight": 0.5, **{k: v for k, v in TRAINING.items() if k in KEYS}},
        },
        "compress.yaml",
    )
    toolkit = EspnetToolkit(
        config, tmp_path / "compressed", original.folder, data, decode_config=write_decoding(tmp_path / "decode.yaml")
    )
    limit = toolkit.cost(original.folder) / 1.15
    ranks = toolkit.search(original.folder, limit, "iter1")
    assert "decoder.decoders.token_embedding" in {layer.path for layer in toolkit.open(original.folder).layers}
    folder = toolkit.root / "iter1"
    folder.mkdir(parents=True)
    toolkit.finetune(original.folder, ranks, folder)
    prompt = {"whisper_language": "de", "whisper_task": "transcribe"}
    assert Experiment(folder).options("preprocessor_conf") == prompt  # or it would be trained on English prompts
    assert toolkit.cost(folder) <= limit
    assert sum(toolkit.dev_errors(folder).words) == 5
    trained = yaml.safe_load((folder / "train.yaml").read_text())
    assert (trained["optim"], trained["grad_clip"]) == ("adamw", 5.0)  # the imported model's, not ESPnet's defaults


def test_compression_of_a_vocabulary_in_bands(original, data, tmp_path):
    """It starts from a model that says the same, gives each band a rank of its own, and goes out as others open it."""
    bounds = [40, 200]
    config = CompressConfig.parse(
        {
            **{"trials": 4, "ratios": [0.25, 0.5], "multiple": 2, "tie": "block", "bands": bounds},
            **{"roles": ["output"], "fidelity": "loss", "survivor_fidelity": None},
            **{"calibration": {"utterances": 3}, "search_set": {"utterances": 3}, "finetune": {"epochs": 0}},
        },
        "compress.yaml",
    )
    toolkit = EspnetToolkit(
        config, tmp_path / "compressed", original.folder, data, decode_config=write_decoding(tmp_path / "decode.yaml")
    )
    start = toolkit.start()
    assert start != original.folder and toolkit.start() == start  # the second time, it is there
    model, same = (Experiment(folder).load()[0].eval() for folder in (original.folder, start))
    table = same.decoder.decoders.token_embedding
    assert table.weight.equal(model.decoder.decoders.token_embedding.weight)
    said = {number for text in ("Two words", "One") for number in original.tokenizer.encode(text)}
    assert toolkit.cost(start) == toolkit.cost(original.folder)
    assert len(said & set(table.tokens(0).tolist())) == len(said)
    limit = toolkit.cost(start) / 1.2
    ranks = toolkit.search(start, limit, "iter1")
    assert all(path.startswith("decoder.decoders.token_embedding.bands.") for path in ranks)
    folder = toolkit.root / "iter1"
    folder.mkdir(parents=True)
    toolkit.finetune(start, ranks, folder)
    assert toolkit.cost(folder) <= limit
    small = Experiment(folder).load()[0].eval()
    export_whisper(Experiment(folder), tmp_path / "openai", form="openai")
    table = open_whisper(tmp_path / "openai" / "model.pt").state["decoder.token_embedding.weight"]
    torch.testing.assert_close(table, small.decoder.decoders.token_embedding.weight, atol=1e-6, rtol=1e-5)
    assert export_whisper(Experiment(folder), tmp_path / "sherpa", form="sherpa").difference < 1e-3
    merged = merge_experiment(Experiment(folder), tmp_path / "merged")
    assert "decoder: lowrank_whisper is this package's" in merged.foreign
    dense = Experiment(tmp_path / "merged").load()[0]
    assert not any(low_rank_layers(dense))
    torch.testing.assert_close(dense.decoder.decoders.token_embedding.weight, table, atol=1e-6, rtol=1e-5)
    # A model with bands keeps them.
    again = EspnetToolkit(config, tmp_path / "again", folder, data)
    assert again.start() == folder


def test_bands_that_are_factored_and_rehearsed_before_the_loop(original, data, tmp_path):
    sure = Experiment(tmp_path / "sure")
    sure.folder.mkdir()
    state = torch.load(original.weights, weights_only=True)
    state["decoder.decoders.token_embedding.weight"] *= 60  # or random weights are sure of no token
    sure.write(original.config, state)
    original.copy_tokens(sure.folder)
    bands = {"bands": [40, 200], "band_ranks": [10, 10, 4], "rehearsal": 20, "roles": ["attention", "feed_forward"]}
    config = CompressConfig.parse(
        {
            **{"trials": 2, "ratios": [0.25, 0.5], "multiple": 2, "tie": "block", **bands, "finetune": {"epochs": 0}},
            **{"fidelity": "loss", "survivor_fidelity": None, "truncation": "plain"},
            **{"calibration": {"utterances": 3}, "search_set": {"utterances": 3}},
        },
        "compress.yaml",
    )
    toolkit = EspnetToolkit(
        config, tmp_path / "compressed", sure.folder, data, decode_config=write_decoding(tmp_path / "decode.yaml")
    )
    toolkit.begin()
    start = toolkit.start()
    other = EspnetToolkit(replace(config, band_ranks=(9, 10, 4)), toolkit.root, sure.folder, data)
    with pytest.raises(LrsmsError, match="holds a compression of another band_ranks"):
        other.begin()
    table = Experiment(start).load()[0].decoder.decoders.token_embedding
    assert [band.rank for band in table.bands] == [10, 10, 4]
    rows = json.loads((start / "rehearsal.json").read_text())["bands"]
    assert [(row["tokens"], row["rank"]) for row in rows] == [(40, 10), (160, 10), (1569, 4)]
    assert toolkit.cost(start) == toolkit.cost(sure.folder) - 1769 * 16 + 10 * 56 + 10 * 176 + 4 * (1569 + 16)
    ranks = toolkit.search(start, toolkit.cost(start) / 1.05, "iter1")
    path = "decoder.decoders.token_embedding.bands."
    assert [ranks[f"{path}{number}"] for number in range(3)] == [10, 10, 4]
    folder = toolkit.root / "iter1"
    folder.mkdir(parents=True)
    toolkit.finetune(start, ranks, folder)
    again = Experiment(folder).load()[0].decoder.decoders.token_embedding
    products = [torch.cat([band.product() for band in one.bands]) for one in (table, again)]
    torch.testing.assert_close(*products, atol=1e-3, rtol=1e-3)  # the loop truncates others
    said = Experiment(start).tokenizer.encode("Two")
    whole = Experiment(sure.folder).load()[0].decoder.decoders.token_embedding.weight
    assert (table(torch.tensor(said)) - whole[said]).norm() < 0.7 * whole[said].norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"band_ranks": [8, 8]}, r"band_ranks: \[8, 8\]: one for each band, of which bands: \[\] makes none"),
        ({"bands": [40], "band_ranks": [8]}, r"bands: \[40\] makes 2"),
        ({"bands": [40], "band_ranks": [8, 8], "roles": ["output"]}, "leave output out of roles"),
        ({"bands": [40], "band_ranks": [8, 8], "roles": None}, "leave output out of roles"),
    ],
)
def test_ranks_of_bands_are_refused(options, message):
    with pytest.raises(LrsmsError, match=f"compress.yaml: .*{message}"):
        CompressConfig.parse(options, "compress.yaml")


def test_bands_are_refused_where_no_output_is_tied(original, data, tmp_path):
    config = CompressConfig.parse({"bands": [40], "calibration": {"utterances": 3}}, "compress.yaml")
    toolkit = EspnetToolkit(config, tmp_path / "compressed", original.folder, data)
    with pytest.raises(LrsmsError, match=r"bands: \[999999999\] are not rising numbers of tokens"):
        replace(toolkit, config=replace(config, bands=(999999999,))).start()
    for ranks, target, message in (
        ((8, 64), 2.0, r"band_ranks: 64 saves nothing in a band of 1,729 tokens"),
        (
            (4, 4),
            1.05,
            r"what band_ranks make of it is .* times smaller already: target: 1.05 leaves the loop nothing to do",
        ),
    ):
        bands = replace(config, bands=(40,), band_ranks=ranks, rehearsal=1, roles=("attention",), target=target)
        with pytest.raises(LrsmsError, match=message):
            replace(toolkit, config=bands).start()
    assert not (tmp_path / "compressed").exists()  # before any calibration
    compressible = toolkit.open(original.folder)
    compressible.layers[0] = replace(compressible.layers[0], rank=3)
    with pytest.raises(LrsmsError, match=r"bands: the model is low-rank already; give the dense one"):
        tied_table(compressible)
    compressible.model.decoder.decoders.token_output = torch.nn.Identity()
    with pytest.raises(LrsmsError, match=r"bands: they are for a Whisper model, whose output is its embedding"):
        tied_table(compressible)


KEYS = ("max_duration", "num_buckets", "num_workers", "num_att_plot", "scheduler",
        "keep_nbest_models", "best_model_criterion", "use_matplotlib", "log_interval")  # fmt: skip


@torch.no_grad()
def test_whitened_table_is_nearest_in_what_the_output_makes_of_it(original, data, tmp_path):
    """Of the tied embedding, truncation looks at the output's inputs: the table is wide and looked up by one-hot."""
    config = CompressConfig.parse({"roles": ["output"], "calibration": {"utterances": 6}}, "compress.yaml")
    toolkit = EspnetToolkit(config, tmp_path / "compressed", original.folder, data)
    compressible = toolkit.open(original.folder)
    path = "decoder.decoders.token_embedding"
    moments = toolkit._moments(compressible)[path]
    assert moments.second.shape == (16, 16)
    table = compressible.model.get_submodule(path).weight
    lost = {}
    for method in ("whitened", "plain"):
        with toolkit.sliced(compressible, method).at({path: 6}) as model:
            rest = table - model.get_submodule(path).product()
            lost[method] = float((rest.double() @ moments.second * rest).sum())
    assert lost["whitened"] < 0.999 * lost["plain"]
