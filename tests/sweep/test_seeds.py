"""Verdicts over seeds from result files of several runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrsms.errors import LrsmsError
from lrsms.sweep import seeds
from lrsms.sweep.intervals import difference_interval, mean_interval
from lrsms.sweep.seeds import compare_seeds, read_rates, write_seeds

DENSE, LOW = [5.0, 6.0, 5.5], [4.9, 5.6, 5.2]


def results(name, rates, first=0, words=480):
    return [
        {
            "experiment": f"{name}_seed{seed}",
            "decode": "decode_a",
            "split": "test",
            "seed": seed,
            "wer": r,
            "words": words,
        }
        for seed, r in enumerate(rates, first)
    ]


def condition(name, modality, snr, rate):
    return {"experiment": name, "split": "test", "modality": modality, "snr_db": snr, "wer": rate, "words": 480}


def written(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def rates_of(tmp_path, *contents):
    files = [written(tmp_path / f"{number}.json", content) for number, content in enumerate(contents)]
    return [rate for file in files for rate in read_rates(file)]


def test_seeds_of_several_files_are_one_configuration(tmp_path):
    rates = rates_of(tmp_path, results("dense", DENSE), results("low", LOW[:1]), results("low", LOW[1:], first=1))
    dense, low = compare_seeds(rates, "dense", 1.0)
    assert (dense.configuration, dense.seeds, dense.wer) == ("dense", (0, 1, 2), tuple(DENSE))
    assert (low.seeds, low.wer, low.condition) == ((0, 1, 2), tuple(LOW), "test, decode_a")
    assert low.wer_mean[0] == pytest.approx(mean_interval(LOW).mean)
    expected = difference_interval(DENSE, LOW)
    assert low.difference_over_seeds == pytest.approx((expected.mean, expected.low, expected.high))
    assert (dense.verdict, low.verdict) == (None, "not inferior")


def test_verdicts_are_by_the_ends_of_the_interval(tmp_path):
    worse = [6.2, 6.5, 6.4]
    ends = difference_interval(DENSE, worse)
    rates = rates_of(tmp_path, results("dense", DENSE), results("low", worse))
    margins = {ends.high + 0.01: "not inferior", ends.high - 0.01: "open", ends.low - 0.01: "inferior", None: None}
    for margin, verdict in margins.items():
        assert compare_seeds(rates, "dense", margin)[1].verdict == verdict


def test_conditions_of_noise_are_compared_each_for_itself_clean_first(tmp_path):
    rows = [
        condition(f"{name}{seed}", modality, snr, rate + extra)
        for name, extra in (("dense", 0.0), ("low", -1.0))
        for seed, rate in (("", 5.0), ("_seed3", 6.0))
        for modality, snr in (("audiovisual", -5.0), ("audiovisual", 0.0), ("audiovisual", None), ("video", None))
    ]
    compared = compare_seeds(rates_of(tmp_path, rows), "dense", None)
    low = [row for row in compared if row.configuration == "low"]
    noises = ["test, video", "test, audiovisual, clean", "test, audiovisual, 0 dB", "test, audiovisual, -5 dB"]
    assert [row.condition for row in low] == noises
    assert all(row.seeds == (0, 3) and row.wer == (4.0, 5.0) for row in low)


def test_a_sweeps_arms_are_configurations(tmp_path):
    arms = [{"arm": "dense", "split": "test", "seeds": [0, 1], "wer": [5.0, 6.0], "words": 480}]
    arms += [{"arm": "low", "split": "test", "seeds": [0], "wer": [4.0], "words": 480}]
    dense, low = compare_seeds(rates_of(tmp_path, {"arms": arms[:1]}, {"arms": arms[1:]}), "dense", 1.0)
    assert (dense.wer, low.wer, low.verdict) == ((5.0, 6.0), (4.0,), "open: one seed")


def test_what_the_reference_lacks_is_not_compared(tmp_path):
    rates = rates_of(tmp_path, results("dense", DENSE), [condition("low", "audio", None, 3.0)])
    assert [row.configuration for row in compare_seeds(rates, "dense", 1.0)] == ["dense"]


def test_what_is_left_out_is_named(tmp_path):
    files = [results("dense", DENSE), [condition("low", "audio", None, 3.0)]]
    paths = [written(tmp_path / f"{number}.json", content) for number, content in enumerate(files)]
    assert "no condition that `dense` has as well: low." in write_seeds(paths, "dense", 1.0, tmp_path)
    assert "Left out" not in write_seeds(paths[:1], "dense", 1.0, tmp_path)


def test_a_seed_given_twice_is_refused(tmp_path):
    rates = rates_of(tmp_path, results("dense", DENSE), results("dense", DENSE[:1]))
    with pytest.raises(LrsmsError, match=r"1\.json: seed 0 of dense \(test, decode_a\) is in .*0\.json as well"):
        compare_seeds(rates, "dense", 1.0)


def test_other_test_sets_are_refused(tmp_path):
    rates = rates_of(tmp_path, results("dense", DENSE), results("low", LOW, words=100))
    with pytest.raises(LrsmsError, match=r"low \(test, decode_a\) was tested on 100 words, dense in .* on 480"):
        compare_seeds(rates, "dense", 1.0)


def test_a_reference_that_no_file_has_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(LrsmsError, match=r"--reference tense: the files have dense"):
        compare_seeds(rates_of(tmp_path, results("dense", DENSE)), "tense", 1.0)


@pytest.mark.parametrize("content", ["no json", '{"arms": 3}', "[3]", '[{"experiment": "a"}]'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LrsmsError, match=r"other\.json is neither results\.json nor"):
        read_rates(path)


def test_long_names_lie_within_the_picture(tmp_path, monkeypatch):
    drawn = []

    def keep(figure, path):
        figure.canvas.draw()
        drawn.append((figure.get_window_extent(), figure.legends[0].get_window_extent()))

    monkeypatch.setattr(seeds, "save", keep)
    names = [f"{name},lr=0.004,weight_decay=0.01" for name in ("dense_12", "lrsms_3x_12", "lrsms_3x_24")]
    files = [written(tmp_path / f"{number}.json", results(name, LOW)) for number, name in enumerate(names)]
    write_seeds(files, names[0], 1.0, tmp_path / "out")
    ((figure, legend),) = drawn
    assert figure.x0 <= legend.x0 and legend.x1 <= figure.x1


def test_the_verb_writes_page_json_and_picture(tmp_path):
    first = written(tmp_path / "a.json", results("dense", DENSE))
    second = written(tmp_path / "b.json", results("low", LOW))
    command = [sys.executable, "-m", "lrsms.bin.seeds", str(first), str(second), "--reference", "dense"]
    made = subprocess.run(
        [*command, "--margin", "1", "--output-dir", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert "| not inferior |" in made.stdout
    page = (tmp_path / "out" / "seeds.md").read_text(encoding="utf-8")
    assert made.stdout.strip() in page
    assert "a.json" in page
    content = json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8"))
    assert [row["wer"] for row in content["rows"]] == [DENSE, LOW]
    assert (tmp_path / "out" / "seeds.png").read_bytes().startswith(b"\x89PNG")
    refused = subprocess.run([*command, "--margin", "-1"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "write 0 or more" in refused.stderr


def test_verdicts_are_those_of_the_sweep_itself(tmp_path):
    path = Path(__file__).parents[2] / "egs/grid/asr1/findings/sweep_muon.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    write_seeds([path], content["reference"], content["margin"], tmp_path)
    rows = json.loads((tmp_path / "seeds.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["configuration"], row["condition"]): row for row in rows}
    for arm in content["arms"]:
        row = found[arm["arm"], arm["split"]]
        assert row["wer_mean"] == pytest.approx(arm["wer_mean"], abs=1e-3)
        assert row["verdict"] == arm["verdict"]
