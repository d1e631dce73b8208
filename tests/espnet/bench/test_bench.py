"""Benchmarks on a tiny experiment: not how fast, but that they measure what they say."""

import json

import pytest
import torch

from lrsms.bench import decoding, looping, searching, training
from lrsms.compress.config import CompressConfig
from lrsms.data.cut_files import read_cuts
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.espnet.inference.open import open_recognizer

CHECKPOINT = "valid.acc.ave.pth"
OPTIONS = {
    **{"ratios": [0.15, 0.3, "dense"], "trials": 5, "controller": "random", "multiple": 1, "survivors": 1},
    **{"calibration": {"utterances": 4}, "search_set": {"utterances": 4}, "compression": 1.1, "target": 1.2},
    **{"finetune": {"epochs": 1}, "max_iterations": 2, "tolerance": 100.0},
}


@pytest.fixture(scope="module")
def decode_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("conf") / "decode.yaml"
    path.write_text("beam_size: 2\nctc_weight: 0.5\n")
    return path


@pytest.fixture
def toolkit(experiment, corpus, decode_config, tmp_path):
    config = CompressConfig.parse(OPTIONS, "compress.yaml")
    return EspnetToolkit(config, tmp_path / "work", experiment.output_dir, corpus, decode_config=decode_config)


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_truncations_are_scored_beside_the_original(toolkit, tmp_path):
    table = searching.truncations(toolkit, "dev", [1.1], ["loss", "ctc"], tmp_path / "out")
    found = read(tmp_path / "out", "truncation")["results"]
    assert [one["method"] for one in found] == ["original", "plain", "whitened", "activation_pca"]
    assert len({one["loss"] for one in found}) == 4  # each is another model
    assert all(one["method"] in table for one in found)
    assert table in (tmp_path / "out" / "truncation.md").read_text()


def test_controllers_run_equally_many_trials_and_are_scored_on_utterances_they_have_not_seen(toolkit, tmp_path):
    searching.controllers(toolkit, 1.1, ["random", "tpe", "uniform"], [0, 1], "test", tmp_path / "out")
    found = read(tmp_path / "out", "controllers")
    assert len(found["arms"]) == 6 and found["split"] == "test"
    for arm in found["arms"]:
        assert len(arm["best"]) == len(arm["seconds"]) == 5
        assert arm["best"] == sorted(arm["best"], reverse=True) and arm["seconds"] == sorted(arm["seconds"])
        assert arm["at_trials"] == arm["best"][-1] and arm["at_time"] >= arm["at_trials"]
    assert {arm["distinct"] for arm in found["arms"] if arm["controller"] == "uniform"} == {1}
    assert (tmp_path / "out" / "controllers.png").stat().st_size > 5000


def test_the_naive_trial_is_timed_beside_ours(toolkit, tmp_path):
    searching.trials_per_minute(toolkit, 1.1, 2, tmp_path / "out")
    seconds = read(tmp_path / "out", "trials")["seconds"]
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values()) and len(seconds) == 4
    assert not list((toolkit.root).glob("naive*"))  # its scratch is gone


@pytest.mark.slow
def test_single_shots_and_the_loop_start_from_the_same_original(toolkit, tmp_path):
    looping.single_shot_and_loop(toolkit, [50, 1.2], "test", tmp_path / "out")
    found = read(tmp_path / "out", "loop")["results"]
    ways = [(one["way"], one["experiment"], one["epochs"]) for one in found]
    assert ways[0][0] == "original" and found[0]["difference"] == 0 and found[0]["times"] == 1
    assert ways[1:] == [  # nothing of 50x: no grid meets it
        ("single shot", "single_1.2x", 1),
        ("single shot", "single_1.2x_long", 2),
        ("loop", "iter1", 1),
        ("loop", "iter2", 2),
    ]
    assert found[1]["times"] >= 1.2 * 0.999
    assert found[4]["times"] > found[3]["times"] >= 1.1 * 0.999
    assert (tmp_path / "out" / "loop.png").stat().st_size > 5000


def test_decoding_is_compared_with_the_first_experiment(experiment, corpus, decode_config, tmp_path):
    cuts, folders = corpus / "dev" / "cuts.jsonl.gz", [experiment.output_dir]
    decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, utterances=3)
    content = read(tmp_path, "decode")
    found = {(one["precision"], one["search"]): one for one in content["results"]}
    assert set(found) == {("fp32", "beam"), ("fp32", "ctc"), ("int8", "beam"), ("int8", "ctc")}
    assert found["fp32", "beam"]["times_faster"] == found["fp32", "ctc"]["times_faster"] == 1.0
    assert content["utterances"] == 3 and all(one["rtf"] > 0 for one in found.values())
    assert found["int8", "beam"]["parameters"] == found["fp32", "beam"]["parameters"]


def test_a_size_is_timed_with_random_weights(write_config, corpus, decode_config, tmp_path):
    config = write_config(tmp_path / "tiny.yaml")
    cuts = corpus / "dev" / "cuts.jsonl.gz"
    options = {"utterances": 1, "precisions": ["fp32"]}
    decoding.decode_speed([config], cuts, decode_config, CHECKPOINT, tmp_path, **options)
    beam, ctc = read(tmp_path, "decode")["results"]
    assert beam["experiment"] == "tiny" and beam["wer"] is None and beam["rtf"] > 0 and beam["parameters"] > 1000
    config.write_text(config.read_text() + "encodr: conformer\n")
    with pytest.raises(LrsmsError, match=r"tiny.yaml: line \d+: unknown key 'encodr'; did you mean 'encoder'"):
        decoding.decode_speed([config], cuts, decode_config, CHECKPOINT, tmp_path, **options)


def test_several_utterances_are_decoded_at_a_time_by_their_best_paths(experiment, corpus, decode_config, tmp_path):
    cuts, folders = corpus / "dev" / "cuts.jsonl.gz", [experiment.output_dir]
    options = {"utterances": 3, "precisions": ["fp32"], "batches": [1, 2]}
    decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, **options)
    found = {(one["search"], one["batch"]): one for one in read(tmp_path, "decode")["results"]}
    assert set(found) == {("beam", 1), ("ctc", 1), ("ctc", 2)} and found["ctc", 2]["times_faster"] == 1.0
    recognizer = open_recognizer(Experiment(experiment.output_dir, CHECKPOINT), {"beam_size": 2})
    audio = [torch.from_numpy(cut.load_audio()[0]) for cut in list(read_cuts(cuts))[:3]]
    together = decoding.best_path(recognizer, *audio)
    longest = max(range(3), key=lambda number: len(audio[number]))  # no padding: alone it is the same
    assert len(together) == 3 and together[longest : longest + 1] == decoding.best_path(recognizer, audio[longest])
    with pytest.raises(LrsmsError, match="--batch 32: a search takes one utterance; several are for --searches ctc"):
        decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, searches=["beam"], batches=[1, 32])
    with pytest.raises(LrsmsError, match="int8 is a CPU's; with --device cuda write fp32 or bf16"):
        decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, device="cuda")


def test_a_size_is_not_read_from_the_command_line(write_config, corpus, decode_config, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench", "--batch", "1", "32"])  # ESPnet's --batch_size and others begin so
    config, cuts = write_config(tmp_path / "tiny.yaml"), corpus / "dev" / "cuts.jsonl.gz"
    options = {"utterances": 1, "precisions": ["fp32"], "searches": ["ctc"]}
    decoding.decode_speed([config], cuts, decode_config, CHECKPOINT, tmp_path, **options)
    assert read(tmp_path, "decode")["results"][0]["rtf"] > 0


def test_int8_is_quantized_where_a_layer_is_large_enough(experiment, monkeypatch):
    small = open_recognizer(Experiment(experiment.output_dir, CHECKPOINT), {"beam_size": 2}, "int8").asr_model
    assert not [one for one in small.modules() if isinstance(one, torch.ao.nn.quantized.dynamic.Linear)]
    monkeypatch.setattr("lrsms.espnet.inference.open.LEAST_INT8", 0)
    model = open_recognizer(Experiment(experiment.output_dir, CHECKPOINT), {"beam_size": 2}, "int8").asr_model
    quantized = [one for one in model.modules() if isinstance(one, torch.ao.nn.quantized.dynamic.Linear)]
    assert quantized and not [one for one in model.encoder.modules() if type(one) is torch.nn.Linear]


def test_the_gain_of_the_search_is_seen_beside_that_of_ranks(
    experiment, write_config, dense_parts, corpus, decode_config, tmp_path
):
    folders, cuts = [write_config(tmp_path / "stock.yaml", **dense_parts), experiment.output_dir], corpus / "dev"
    options = {"utterances": 1, "precisions": ["fp32"], "searches": ["beam", "espnet", "ctc"]}
    table = decoding.decode_speed(folders, cuts / "cuts.jsonl.gz", decode_config, CHECKPOINT, tmp_path, **options)
    ours = experiment.output_dir.name
    found = [(one["experiment"], one["search"]) for one in read(tmp_path, "decode")["results"]]
    espnets = "beam, ESPnet's"
    assert found == [("stock", espnets), ("stock", "ctc"), (ours, "beam"), (ours, espnets), (ours, "ctc")]
    assert espnets in table
    with pytest.raises(LrsmsError, match="--searches: 'greedy' is unknown; any of beam, fast, espnet, ctc"):
        decoding.decode_speed(folders, cuts / "cuts.jsonl.gz", decode_config, CHECKPOINT, tmp_path, searches=["greedy"])


def test_an_unknown_precision_is_refused(experiment, corpus, decode_config, tmp_path):
    with pytest.raises(LrsmsError, match="--precisions: 'int4' is unknown; any of fp32, bf16, int8"):
        decoding.decode_speed(
            [experiment.output_dir],
            corpus / "dev/cuts.jsonl.gz",
            decode_config,
            CHECKPOINT,
            tmp_path,
            precisions=("int4",),
        )


def test_training_steps_are_timed_on_made_up_speech(write_config, dense_parts, tmp_path):
    configs = [write_config(tmp_path / "dense.yaml", **dense_parts), write_config(tmp_path / "low.yaml")]
    options = {"batches": [2, 1], "precisions": ["fp32", "bf16"], "seconds": 1.0, "steps": 2, "vocab_size": 20}
    table = training.train_speed(configs, tmp_path / "out", threads=1, **options)
    results = read(tmp_path / "out", "train")["results"]
    cases = [("fp32", 2), ("fp32", 1), ("bf16", 2), ("bf16", 1)]
    assert [(one["precision"], one["batch"]) for one in results[::2]] == cases
    assert all(one["times_faster"] == 1.0 for one in results[::2])  # than the first of the same case
    dense, low = results[:2]
    assert dense["parameters"] > low["parameters"] and "| dense " in table
    assert all(one[part] > 0 for one in (dense, low) for part in ("forward", "backward", "update", "audio_per_second"))
    assert 2**27 < dense["memory"] < 2**34 and dense["times_faster"] == dense["memory_share"] == 1.0


def test_merged_and_bfloat16_models_decode_the_same_words(experiment, corpus, decode_config, tmp_path):
    cuts, folders = corpus / "dev" / "cuts.jsonl.gz", [experiment.output_dir]
    options = {"precisions": ["fp32", "bf16"], "weights": ["stored", "merged"], "threads": [1, 2]}
    decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, utterances=2, **options)
    found = read(tmp_path, "decode")["results"]
    assert len(found) == 2 * 2 * 2 * 2 and {one["threads"] for one in found} == {1, 2}
    stored, merged = (
        {one["parameters"] for one in found if one["experiment"].endswith("merged") is kind} for kind in (False, True)
    )
    assert len(stored) == len(merged) == 1 and min(merged) > min(stored)
    exact = {(one["search"], one["experiment"]): one["wer"] for one in found if one["precision"] == "fp32"}
    assert exact["ctc", experiment.output_dir.name] == exact["ctc", f"{experiment.output_dir.name}, merged"]
    with pytest.raises(LrsmsError, match="--weights: 'thin' is unknown; any of stored, merged, faster"):
        decoding.decode_speed(folders, cuts, decode_config, CHECKPOINT, tmp_path, weights=["thin"])


def test_pointwise_convolutions_are_quantized_too(experiment, monkeypatch):
    monkeypatch.setattr("lrsms.espnet.inference.open.LEAST_INT8", 0)
    monkeypatch.setattr("lrsms.espnet.inference.open.LEAST_INT8", 0)
    model = open_recognizer(Experiment(experiment.output_dir, CHECKPOINT), {"beam_size": 2}, "int8").asr_model
    kept = [one for one in model.encoder.modules() if isinstance(one, torch.nn.Conv1d) and one.kernel_size == (1,)]
    assert not kept


def test_the_verb_says_what_it_does_not_know(experiment, run_module, tmp_path):
    options = ["controllers", "--asr_exp", experiment.output_dir, "--controllers", "annealing"]
    found = run_module("lrsms.bin.bench", *options, cwd=tmp_path)
    assert found.returncode == 1 and "'annealing' is unknown; any of reinforce" in found.stderr
