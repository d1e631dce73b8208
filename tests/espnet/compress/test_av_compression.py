"""Compressing an audio-visual experiment: the same loop on arrays of sound and picture."""

import json

import yaml

from lrsms.compress import iterate
from lrsms.compress.config import CompressConfig
from lrsms.espnet.compress.toolkit import EspnetToolkit

OPTIONS = {
    **{"ratios": [0.3, "dense"], "trials": 3, "controller": "random", "compression": 1.05, "max_iterations": 1},
    **{"multiple": 1, "calibration": {"utterances": 2}, "search_set": {"utterances": 2, "candidates": 2}},
    **{"survivors": 1, "confidence": 0.0, "finetune": {"epochs": 1, "optim_conf": {"lr": 0.001}}},
}


def test_an_iteration_is_an_audio_visual_experiment(av_experiment, av_corpus, tmp_path):
    decode = tmp_path / "decode.yaml"
    decode.write_text("beam_size: 2\nctc_weight: 0.5\n")
    config = CompressConfig.parse(OPTIONS, "compress.yaml")
    toolkit = EspnetToolkit(config, tmp_path / "compressed", av_experiment.output_dir, av_corpus, decode_config=decode)
    iterate.run(toolkit, av_experiment.output_dir, tmp_path / "compressed", config.loop)
    folder = tmp_path / "compressed/iter1"
    made = yaml.safe_load((folder / "config.yaml").read_text())
    assert made["encoder"] == "lowrank_av_conformer" and made["encoder_conf"]["region"] == 24
    assert made["av_conf"] == {"snrs": [0, "clean"], "babble_voices": 2}
    summaries = [path / "summary.json" for path in (folder, av_experiment.output_dir)]
    parameters = [json.loads(path.read_text())["parameters"] for path in summaries]
    assert parameters[0] < parameters[1]
