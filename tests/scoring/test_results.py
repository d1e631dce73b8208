"""The report over several experiments."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from lrsms.errors import LrsmsError
from lrsms.lowrank.config import ROLES
from lrsms.scoring import pictures
from lrsms.scoring.results import find_decodings, without_folders, write_results

REQUIRED = (
    *("experiment", "config", "split", "parameters", "macs_per_second", "wer", "wer_low", "wer_high", "cer", "rtf"),
    *("train_step_seconds", "seed", "command", "commit"),
)


def run(recipe, **options):
    return write_results(recipe / "data", recipe / "exp", **options)


def read(recipe):
    return json.loads((recipe / "exp/results.json").read_text())


def test_results_json_has_one_object_per_experiment(recipe):
    run(recipe)
    dense, lowrank = read(recipe)
    assert all(key in row for key in REQUIRED for row in (dense, lowrank))
    assert (dense["experiment"], dense["wer"], dense["cer"]) == ("dense", 0.0, 0.0)
    assert (lowrank["experiment"], lowrank["wer"], lowrank["words"]) == ("lowrank", 40.0, 10)
    assert lowrank["cer"] == pytest.approx(100 * 14 / 46, abs=1e-3)
    assert lowrank["wer_low"] <= 40.0 <= lowrank["wer_high"]


def test_report_tables(recipe):
    table = run(recipe)
    text = (recipe / "exp/RESULTS.md").read_text()
    assert table in text
    row = next(line for line in table.splitlines() if "lowrank" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["lowrank", "decode_asr/test", "500,000", "4.00", "123.4"]
    assert cells[5].startswith("40.00 [")
    assert cells[7:] == ["0.250", "0.250"]
    wer = next(line for line in text.split("## WER")[1].splitlines() if "lowrank" in line)
    counts = [cell.strip() for cell in wer.strip("|").split("|")][2:]
    assert counts == ["4", "10", "70.0", "10.0", "20.0", "10.0", "40.0", "100.0"]
    difference = text.split("## Differences")[1].split("## ")[0]
    assert "lowrank" in difference and "+40.00 [" in difference and "0.000" in difference
    assert "seed 7" in text and "commit 0123456789ab" in text and "torch 2.11.0" in text
    assert "/home/someone" not in text and "--corpus_dir .../tiny --train_config conf/train.yaml" in text


def test_running_again_replaces(recipe, capsys):
    first, rows = run(recipe), read(recipe)
    assert run(recipe) == first
    assert "up to date" in capsys.readouterr().out
    assert run(recipe, force=True) == first
    assert read(recipe) == rows and len(rows) == 2
    assert "up to date" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["RESULTS.md", "results.json"])
def test_a_report_that_was_removed_is_written_again(recipe, name):
    run(recipe)
    before = (recipe / "exp" / name).read_text()
    (recipe / "exp" / name).unlink()
    run(recipe)
    assert (recipe / "exp" / name).read_text() == before


def test_a_changed_hypothesis_is_scored_again(recipe):
    run(recipe)
    (recipe / "exp/dense/decode_asr/test/text").write_text("spk1-u1 one two three\n")
    run(recipe)
    assert read(recipe)[0]["wer"] == 70.0
    assert read(recipe)[0]["missing_hypotheses"] == 3
    assert "3 utterances have no hypothesis" in (recipe / "exp/RESULTS.md").read_text()


def test_pictures_are_drawn_and_copied(recipe, tmp_path):
    from matplotlib.image import imread

    run(recipe, results_dir=tmp_path / "egs")
    for name in ("learning_curves.png", "rank_per_layer.png"):
        picture = imread(tmp_path / "egs" / name)
        assert picture.shape[:2] == (450, 1000)
        assert picture[..., :3].std() > 0.05
        assert (tmp_path / "egs" / name).stat().st_size < 150_000
        assert f"]({name})" in (tmp_path / "egs/RESULTS.md").read_text()
    assert json.loads((tmp_path / "egs/results.json").read_text()) == read(recipe)


def test_the_epochs_of_a_warm_up_are_drawn_before_the_others(recipe, tmp_path, monkeypatch):
    folder = recipe / "exp/lowrank"
    (folder / "warmup").mkdir()
    warmup = {"epoch": [1, 2], "loss": [90.0, 70.0]}
    (folder / "warmup/curves.json").write_text(json.dumps({"train": warmup, "valid": warmup | {"acc": [0.1, 0.2]}}))
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure))
    pictures.learning_curves({"dense": recipe / "exp/dense", "lowrank": folder}, tmp_path / "curves.png")
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in drawn[0].axes[0].lines}
    assert lines[1, 2, 3, 4, 5] == (90.0, 70.0, 60.0, 35.0, 15.0)  # train, drawn last
    assert (1, 2, 3) in lines and len(drawn[0].axes[0].lines) == 4
    accuracy = [list(line.get_ydata()) for line in drawn[0].axes[1].lines]
    assert [10.0, 20.0, 30.0, 60.0, 80.0] in accuracy


def test_every_rank_is_inside_its_panel(tmp_path, monkeypatch):
    layer = {"role": "attention", "depth": 0, "inputs": 90, "outputs": 90}
    layers = [layer | {"module": f"{side}.q", "rank": rank} for side, rank in (("encoder", 4), ("decoder", 80))]
    (tmp_path / "rank_plan.yaml").write_text(yaml.safe_dump({"layers": layers}))
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure))
    assert pictures.rank_per_layer({"one": tmp_path}, tmp_path / "ranks.png")
    encoder, decoder = drawn[0].axes
    assert encoder.get_ylim() == decoder.get_ylim() and decoder.get_ylim()[0] == 0 and decoder.get_ylim()[1] > 80


def test_experiments_of_one_plan_share_a_row(tmp_path, monkeypatch):
    for name, rank in (("one", 8), ("one_seed1", 8), ("two", 4), ("one_seed2", 8), ("dense", None)):
        (tmp_path / name).mkdir()
        layer = {"module": "encoder.q", "role": "attention", "depth": 0, "inputs": 90, "outputs": 90, "rank": rank}
        (tmp_path / name / "rank_plan.yaml").write_text(yaml.safe_dump({"layers": [layer]}))
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure))
    pictures.rank_per_layer({path.name: path for path in sorted(tmp_path.iterdir())}, tmp_path / "ranks.png")
    assert [axis.get_title() for axis in drawn[0].axes] == ["one and 2 more: encoder", "two: encoder"]


def test_every_role_has_a_color_and_a_mark_of_its_own():
    assert set(ROLES) < set(pictures._ROLES)
    assert len(set(pictures._ROLES.values())) == len(pictures._ROLES)


def test_pictures_that_cannot_be_drawn_are_not_mentioned(recipe):
    run(recipe)
    for experiment in ("dense", "lowrank"):
        (recipe / "exp" / experiment / "curves.json").unlink()
        (recipe / "exp" / experiment / "rank_plan.yaml").unlink()
    run(recipe)
    assert ".png" not in (recipe / "exp/RESULTS.md").read_text()
    assert not list((recipe / "exp").glob("*.png"))


def test_what_is_unfinished_is_named(recipe):
    shutil.copytree(recipe / "exp/dense", recipe / "exp/training")
    shutil.rmtree(recipe / "exp/training/decode_asr")
    shutil.copytree(recipe / "exp/lowrank/decode_asr/test", recipe / "exp/lowrank/decode_asr/dev")
    (recipe / "exp/lowrank/decode_asr/dev/decode.json").unlink()
    run(recipe)
    lines = (recipe / "exp/RESULTS.md").read_text().splitlines()
    left_out = next(line for line in lines if line.startswith("Left out"))
    assert "`training` has not been decoded" in left_out
    assert "`lowrank/decode_asr/dev` has no decode.json" in left_out
    assert len(read(recipe)) == 2


def test_an_experiment_inside_another_has_its_own_row(recipe):
    shutil.copytree(recipe / "exp/dense", recipe / "exp/lowrank_compressed/iter1")
    run(recipe)
    assert [row["experiment"] for row in read(recipe)] == ["dense", "lowrank", "lowrank_compressed/iter1"]


def test_decoding_without_training_summary_is_left_out(recipe):
    (recipe / "exp/lowrank/summary.json").unlink()
    decodings, incomplete = find_decodings(recipe / "exp")
    assert [decoding.experiment.name for decoding in decodings] == ["dense"]
    assert incomplete == ["`lowrank/decode_asr/test` has no summary.json above it: its training has not finished"]


def test_bad_input_is_named(recipe, tmp_path):
    with pytest.raises(LrsmsError, match="no finished decoding"):
        write_results(recipe / "data", tmp_path / "empty")
    (recipe / "exp/dense/summary.json").write_text("{}")
    with pytest.raises(LrsmsError, match=r"dense/summary.json lacks config, parameters"):
        run(recipe)
    (recipe / "exp/dense/summary.json").write_text("{")
    with pytest.raises(LrsmsError, match="summary.json is not JSON"):
        run(recipe)


def test_folders_of_absolute_paths_are_dropped(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = f"./run.sh --corpus-dir=/data/my/corpus --out {tmp_path}/exp/a --url https://host/a/b --ratio 1/2 ../x/y"
    expected = "./run.sh --corpus-dir=.../corpus --out exp/a --url https://host/a/b --ratio 1/2 ../x/y"
    assert without_folders(command) == expected


def test_command_line(recipe, run_module):
    verb = [sys.executable, "-m", "lrsms.bin.score"]
    done = subprocess.run([*verb, "--data_dir", "data", "--exp_dir", "exp"], cwd=recipe, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| lowrank " in done.stdout and "40.00 [" in done.stdout
    failed = run_module("lrsms.bin.score", "--exp_dir", "nowhere", cwd=recipe)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nowhere holds no finished decoding")


def test_main_in_process(recipe, monkeypatch, capsys):
    from lrsms.bin import score

    monkeypatch.setattr(sys, "argv", ["score", "--data_dir", str(recipe / "data"), "--exp_dir", str(recipe / "exp")])
    score.main()
    assert "| lowrank " in capsys.readouterr().out


def test_a_decoding_with_k2_has_its_own_row_and_names_k2(recipe):
    folder = recipe / "exp/dense/decode_k2_hlg_valid.acc.ave/test"
    shutil.copytree(recipe / "exp/dense/decode_asr/test", folder)
    decode = json.loads((folder / "decode.json").read_text())
    (folder / "decode.json").write_text(json.dumps(decode | {"decode_method": "k2_hlg", "k2_version": "1.24.4"}))
    table = run(recipe)
    assert table.count("| dense") == 2 and "decode_k2_hlg_valid.acc.ave/test" in table
    methods = {row["decode"]: (row["decode_method"], row["k2_version"]) for row in read(recipe)}
    assert methods["decode_k2_hlg_valid.acc.ave"] == ("k2_hlg", "1.24.4")
    assert methods["decode_asr"] == ("ctc_attention", None)
    assert "configuration `conf/decode.yaml`, k2 1.24.4" in (recipe / "exp/RESULTS.md").read_text()
