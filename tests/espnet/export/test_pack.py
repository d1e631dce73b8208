"""A packed experiment opens elsewhere, with ESPnet's own loader and one import."""

import json
import shutil
import zipfile

import pytest
import yaml
from lhotse import CutSet

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.export.pack import pack_experiment
from lrsms.espnet.inference.open import open_recognizer

CHECKPOINT = "valid.acc.ave.pth"
ELSEWHERE = """
import sys
import lrsms.espnet
import soundfile
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

recognize = Speech2Text(**unpack(sys.argv[1], "unpacked"), ctc_weight=0.5, beam_size=3)
speech, rate = soundfile.read("speech.wav")
text, *_, hypothesis = recognize(speech)[0]
print("TEXT", text, round(float(hypothesis.score), 2))
"""


@pytest.fixture
def moved(experiment, tmp_path):
    """A copy of the trained experiment, in a recipe of its own with results."""
    folder = tmp_path / "recipe" / "exp" / "tiny"
    shutil.copytree(experiment.output_dir, folder, ignore=shutil.ignore_patterns("*epoch.pth", "tensorboard"))
    entry = {"experiment": "tiny", "decode": "decode_valid.acc.ave", "split": "test", "utterances": 4}
    entry |= {"wer": 12.34, "wer_low": 10.0, "wer_high": 15.0, "decode_config": "conf/decode.yaml"}
    results = [entry, entry | {"experiment": "other", "wer": 99.0}, entry | {"decode": "decode_latest", "wer": 88.0}]
    (tmp_path / "recipe" / "exp" / "results.json").write_text(json.dumps(results))
    return folder


def test_it_decodes_in_another_folder_with_the_experiment_gone(moved, corpus, run_python, tmp_path):
    import soundfile

    audio = next(iter(CutSet.from_file(corpus / "test" / "cuts.jsonl.gz"))).load_audio()[0]
    expected = open_recognizer(Experiment(moved, CHECKPOINT), {"ctc_weight": 0.5, "beam_size": 3})(audio)[0]
    done = pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "packed")
    shutil.rmtree(moved)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(done.archive, elsewhere / "model.zip")
    soundfile.write(elsewhere / "speech.wav", audio, 16000, subtype="FLOAT")
    (elsewhere / "use.py").write_text(ELSEWHERE)
    run = run_python("use.py", "model.zip", cwd=elsewhere)
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("TEXT")]
    *text, score = line.split()[1:]
    assert " ".join(text) == " ".join(expected[0].split())
    assert float(score) == pytest.approx(float(expected[3].score), abs=0.02)


def test_the_card_says_what_it_is_and_how_well(moved, tmp_path):
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["frontend_conf"]["fs"] = "16k"  # as ESPnet's asr.sh writes it
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    done = pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "packed", license_name="cc-by-4.0")
    card = done.card.read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0" and "low-rank" in header["tags"]
    assert (
        "| test  | decode.yaml |          4 | 12.34 [10.00, 15.00] |" in card
        and "99.0" not in card
        and "88.0" not in card
    )
    assert "times fewer than dense" in card and "encoder `lowrank_conformer`" in card and "16000 Hz" in card
    assert "import lrsms.espnet" in card and 'unpack("tiny.zip", "tiny")' in card
    with zipfile.ZipFile(done.archive) as archive:
        assert archive.read("README.md").decode() == card
    assert done.scores == 1 and "1 results in it" in done.summary
    unnamed = pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "again").card.read_text()
    assert "FILL IN" in yaml.safe_load(unnamed.split("---")[1])["license"]


def test_paths_of_this_machine_stay_here(moved, tmp_path):
    done = pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "packed")
    with zipfile.ZipFile(done.archive) as archive:
        names = archive.namelist()
        texts = [archive.read(name).decode() for name in names if name.endswith((".yaml", ".md"))]
    assert sorted(names) == sorted(
        ["meta.yaml", "README.md", *(f"exp/tiny/{name}" for name in ("config.yaml", CHECKPOINT, "rank_plan.yaml"))]
    )
    assert not any(str(tmp_path) in text or "train_cuts" in text for text in texts)
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["README.md", "tiny.zip"]


def test_files_that_the_config_names_come_along(moved, tmp_path):
    config = yaml.safe_load((moved / "config.yaml").read_text())
    lang = moved.parent.parent / "data" / "lang_bpe"
    lang.mkdir(parents=True)
    (lang / "words.txt").write_text("<laugh>\n")
    (moved / "config.yaml").write_text(yaml.safe_dump(config | {"non_linguistic_symbols": "data/lang_bpe/words.txt"}))
    done = pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "packed")
    with zipfile.ZipFile(done.archive) as archive:
        inside = yaml.safe_load(archive.read("exp/tiny/config.yaml"))["non_linguistic_symbols"]
        assert inside == "exp/tiny/words.txt" and archive.read(inside) == b"<laugh>\n"
    (lang / "words.txt").unlink()
    with pytest.raises(LrsmsError, match="non_linguistic_symbols: none of .*words.txt is found"):
        pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "broken")
    assert not list((tmp_path / "broken").iterdir())


def test_a_checkpoint_that_executes_code_is_not_packed(moved, tmp_path):
    import pickle

    (moved / CHECKPOINT).unlink()
    (moved / CHECKPOINT).write_bytes(pickle.dumps(print))
    with pytest.raises(LrsmsError, match="valid.acc.ave.pth"):
        pack_experiment(Experiment(moved, CHECKPOINT), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
