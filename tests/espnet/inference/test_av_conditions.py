"""One audio-visual checkpoint: ESPnet's own inference, every condition, and the tables and the picture of them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from lhotse import CutSet

from lrsms.avsr.conditions import Condition, ConditionLoader, grid, parse_snrs
from lrsms.avsr.frames import SAMPLES
from lrsms.avsr.noise import Babble
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.av_batches import decoding_loader
from lrsms.espnet.export.merge_to_dense import merge_experiment
from lrsms.espnet.inference.av_conditions import ConditionsDecoding
from lrsms.espnet.inference.av_picture import UtterancePicture
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.scoring.decoding import read_hypotheses
from lrsms.scoring.results import write_results

CONDITIONS = grid(["audio", "video", "audiovisual"], [None, 0.0])


@pytest.fixture(scope="module")
def decoding(av_experiment, av_corpus, tmp_path_factory) -> Decoding:
    """Not run yet."""
    config = tmp_path_factory.mktemp("conf") / "decode_quick.yaml"
    config.write_text(yaml.safe_dump({"beam_size": 2, "ctc_weight": 0.5, "maxlenratio": -4}))
    return Decoding(av_experiment.output_dir, av_corpus / "test/cuts.jsonl.gz", config)


@pytest.fixture(scope="module")
def conditions(decoding, av_corpus) -> ConditionsDecoding:
    """A finished decoding under five conditions; read only."""
    done = ConditionsDecoding(decoding, CONDITIONS, av_corpus / "train/cuts.jsonl.gz", voices=2)
    done.run()
    return done


def test_the_grid_has_video_once_and_refuses_what_it_does_not_know():
    assert [condition.name for condition in CONDITIONS] == [
        *("audio_clean", "audio_0dB", "video", "audiovisual_clean", "audiovisual_0dB")
    ]
    assert parse_snrs("clean 20 -2.5") == [None, 20.0, -2.5]
    with pytest.raises(LrsmsError, match="'loud' is neither a number of dB nor clean"):
        parse_snrs("clean loud")
    with pytest.raises(LrsmsError, match="'lips' is unknown; some of audio video audiovisual"):
        grid(["lips"], [None])
    with pytest.raises(LrsmsError, match="nothing to decode"):
        grid([], [None])


def test_a_condition_zeroes_a_stream_and_mixes_the_same_noise_at_every_ratio(av_experiment, av_corpus, tmp_path):
    cut = next(iter(CutSet.from_file(av_corpus / "test/cuts.jsonl.gz")))
    loader = decoding_loader(Experiment(av_experiment.output_dir), tmp_path)
    babble = Babble.from_manifest(av_corpus / "train/cuts.jsonl.gz", voices=2)
    arrays = {
        condition: ConditionLoader.make(loader, condition, babble)(cut)
        for condition in [*CONDITIONS, Condition("audio", 6.0)]
    }
    clean = arrays[Condition("audiovisual")]
    assert clean.shape[1] == SAMPLES + 24 * 24 and clean[:, :SAMPLES].any() and clean[:, SAMPLES:].any()
    assert np.array_equal(arrays[Condition("audio")][:, :SAMPLES], clean[:, :SAMPLES])
    assert not arrays[Condition("audio")][:, SAMPLES:].any()
    assert np.array_equal(arrays[Condition("video")][:, SAMPLES:], clean[:, SAMPLES:])
    assert not arrays[Condition("video")][:, :SAMPLES].any()
    noise = {snr: arrays[Condition("audio", snr)][:, :SAMPLES] for snr in (0.0, 6.0)}
    # Where the sum stays in [-1, 1] the noise at 6 dB is half of that at 0 dB; a sum that is scaled keeps its shape.
    residues = {}
    for snr, mixed in noise.items():
        scale = 1.0 / max(1.0, np.abs(mixed).max())
        residue = mixed * scale - clean[:, :SAMPLES] * (mixed.ravel() @ clean[:, :SAMPLES].ravel()) / (
            clean[:, :SAMPLES].ravel() @ clean[:, :SAMPLES].ravel()
        )
        residues[snr] = residue.ravel() / np.linalg.norm(residue)
    assert residues[0.0] @ residues[6.0] > 0.99
    powers = [np.mean((mixed - clean[:, :SAMPLES]) ** 2) / np.mean(clean[:, :SAMPLES] ** 2) for mixed in noise.values()]
    assert powers[0] == pytest.approx(4 * powers[1], rel=0.2)


def test_espnets_own_inference_decodes_the_checkpoint(decoding, conditions, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    options = yaml.safe_load(decoding.config.read_text())
    recognizer = Speech2Text(
        decoding.asr_exp / "config.yaml", decoding.asr_exp / "valid.acc.ave.pth", **options
    )  # with lrsms.espnet imported, which registers the encoder
    loader = decoding_loader(decoding.experiment, tmp_path)
    hypotheses = read_hypotheses(conditions.output_dir / "audiovisual_clean/text")
    for cut in CutSet.from_file(decoding.cuts):
        assert recognizer(torch.from_numpy(loader(cut)))[0][0] == hypotheses[cut.id]


def test_stage_4_decodes_it_as_the_clean_audiovisual_condition(decoding, conditions):
    decoding.run()
    assert (decoding.output_dir / "text").read_text() == (
        conditions.output_dir / "audiovisual_clean" / "text"
    ).read_text()


def test_every_condition_has_a_folder_and_the_streams_matter(conditions, decoding):
    folder = conditions.output_dir
    assert folder == decoding.asr_exp / "conditions_quick_valid.acc.ave" / "test"
    assert sorted(path.name for path in folder.iterdir()) == sorted(condition.name for condition in CONDITIONS)
    scores = {}
    for condition in CONDITIONS:
        report = json.loads((folder / condition.name / "decode.json").read_text())
        assert (report["modality"], report["snr_db"], report["without_video"]) == (
            *(condition.modality, condition.snr_db),
            0,
        )
        scores[condition.name] = (folder / condition.name / "score").read_text()
    assert len(set(scores.values())) == len(CONDITIONS)


def test_decoded_conditions_are_skipped_and_a_missing_one_is_made_up_for(conditions, capsys, monkeypatch):
    decoded = []
    monkeypatch.setattr(Decoding, "hypotheses", lambda self, options, loads, jobs: decoded.extend(loads) or iter(()))
    conditions.run()
    assert "5 of 5 conditions are decoded already" in capsys.readouterr().out and not decoded
    more = dataclasses.replace(conditions, conditions=[*CONDITIONS, Condition("audio", 10.0)])
    with pytest.raises(StopIteration):  # there is no hypothesis to take
        more.run()
    assert decoded == ["audio_10dB"]


def test_results_have_the_tables_and_the_picture(conditions, decoding, av_corpus, tmp_path):
    decoding.run()
    exp_dir = decoding.asr_exp.parent
    write_results(av_corpus, exp_dir, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "## WER over noise and modality" in page and "![WER over SNR](wer_over_snr.png)" in page
    line = next(line for line in page.splitlines() if line.startswith("| tiny_av") and "| video " in line)
    assert line.split("|")[4].strip() == "same"
    rows = json.loads((tmp_path / "conditions.json").read_text())
    assert {(row["modality"], row["snr_db"]) for row in rows} == {
        (condition.modality, condition.snr_db) for condition in CONDITIONS
    }
    assert (tmp_path / "wer_over_snr.png").stat().st_size > 10_000
    rates = {(row["modality"], row["snr_db"]): row["wer"] for row in rows}
    assert f"{rates['audio', 0.0]:.2f}" in page


def test_what_cannot_be_decoded_is_named(conditions, decoding, experiment, corpus, tmp_path):
    audio = dataclasses.replace(decoding, asr_exp=experiment.output_dir, cuts=corpus / "test/cuts.jsonl.gz")
    with pytest.raises(LrsmsError, match="not an audio-visual encoder; decode it with python -m lrsms.bin.decode"):
        dataclasses.replace(conditions, decoding=audio).run()
    lips = tmp_path / "lips"
    lips.mkdir()
    config = yaml.safe_load((decoding.asr_exp / "config.yaml").read_text())
    config["encoder_conf"]["modality"] = "video"
    (lips / "config.yaml").write_text(yaml.safe_dump(config))
    (lips / "valid.acc.ave.pth").write_bytes(Path(decoding.asr_exp / "valid.acc.ave.pth").read_bytes())
    with pytest.raises(LrsmsError, match="encoder_conf.modality is video, which cannot decode audio"):
        dataclasses.replace(conditions, decoding=dataclasses.replace(decoding, asr_exp=lips)).run()


def test_an_utterance_is_drawn_under_its_conditions(decoding, av_corpus, tmp_path):
    painter = UtterancePicture(decoding, av_corpus / "train/cuts.jsonl.gz", voices=2)
    cut = list(CutSet.from_file(decoding.cuts))[1]
    painter.draw(cut.id, grid(["audio", "video", "audiovisual"], [0.0]), tmp_path / "new" / "utterance.png")
    assert (tmp_path / "new" / "utterance.png").stat().st_size > 20_000
    with pytest.raises(LrsmsError, match="test/cuts.jsonl.gz: no utterance 'nobody'"):
        painter.draw("nobody", grid(["video"], [None]), tmp_path / "utterance.png")


def test_merged_it_is_the_dense_audiovisual_encoder_with_the_same_hypotheses(decoding, conditions, tmp_path):
    merged = merge_experiment(decoding.experiment, tmp_path / "merged")
    assert merged.factored == 0 and merged.difference < 1e-4
    assert merged.foreign == "encoder: av_conformer is this package's"
    config = yaml.safe_load((tmp_path / "merged/config.yaml").read_text())
    assert config["encoder"] == "av_conformer" and "low_rank" not in config["encoder_conf"]
    dense = dataclasses.replace(decoding, asr_exp=tmp_path / "merged")
    dense.run()
    expected = read_hypotheses(conditions.output_dir / "audiovisual_clean/text")
    assert read_hypotheses(dense.output_dir / "text") == expected


def test_a_low_rank_model_of_the_region_starts_from_a_dense_audiovisual_checkpoint(
    build_tiny, av_changes, decoding, conditions, tmp_path
):
    merge_experiment(decoding.experiment, tmp_path)
    dense = torch.load(tmp_path / "valid.acc.ave.pth", weights_only=True)
    tokens = yaml.safe_load((decoding.asr_exp / "config.yaml").read_text())["token_list"]
    model = build_tiny(**av_changes, token_list=tokens)
    load_pretrained_model(str(tmp_path / "valid.acc.ave.pth"), model, ignore_init_mismatch=False)
    path = "encoder.fusion.hidden"
    layer = model.get_submodule(path)
    left, values, right = torch.linalg.svd(dense[f"{path}.weight"])
    best = left[:, : layer.rank] * values[: layer.rank] @ right[: layer.rank]
    torch.testing.assert_close(layer.product(), best, rtol=1e-4, atol=1e-5)
