"""From finished experiments to a page, a JSON file and a section of RESULTS.md."""

import json
import shutil

import pytest
from scipy import stats

from lrsms.errors import LrsmsError
from lrsms.scoring.bootstrap import paired_bootstrap
from lrsms.sweep import report as report_module
from lrsms.sweep.report import write_report

WORDS = 20  # of the test set; an arm's WER is 5 * (wrong + seed)


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Names of the pictures to draw, and no time lost with drawing them."""

    def draw(content, curves, folder, stem):
        for name in names:
            (folder / name).touch()
        return dict.fromkeys(names, "a picture")

    names = ["sweep_arms.png"]
    monkeypatch.setattr(report_module, "draw", draw)
    return names


@pytest.fixture
def report(made_up):
    """``report(runner, *without, **options)``: the page's text and the JSON file of a sweep finished but for those."""

    def make(runner, *without: str, **options) -> tuple[str, dict]:
        for point in runner.points():
            if point.key not in without:
                made_up.write_finished(runner, point)
        write_report(runner, **options)
        stem = runner.folder / runner.sweep.path.stem
        return stem.with_suffix(".md").read_text(), json.loads(stem.with_suffix(".json").read_text())

    return make


def cells(page: str, arm: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {arm} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_line_per_arm(make_runner, report):
    page, _ = report(make_runner(content={"seeds": [0, 1, 2], "title": "Sizes"}))
    assert page.startswith("# Sizes\n")
    student = stats.ttest_1samp([30.0, 35.0, 40.0], 0).confidence_interval(0.95)
    welch = stats.ttest_ind([30.0, 35.0, 40.0], [10.0, 15.0, 20.0], equal_var=False).confidence_interval(0.95)
    dense, small = cells(page, "dense"), cells(page, "small")
    assert dense[:7] == ["dense", "3", "1,000", "1.00", "2.0", "1.00", "1.250"]
    assert small[:7] == ["small", "3", "250", "4.00", "1.0", "2.00", "1.250"]
    assert dense[7].startswith("15.00 [2.5") and dense[9:] == ["", ""]
    assert small[7] == f"35.00 [{student.low:.2f}, {student.high:.2f}]"
    assert small[8] == "7.61"  # one character of 92 for each wrong word
    assert small[9] == f"+20.00 [{welch.low:+.2f}, {welch.high:+.2f}]"
    assert small[10].startswith("+20.00 [+")


def test_the_json_file_is_complete(make_runner, report):
    arms = {"dense": {"encoder_conf.low_rank": None}, "small": {"wrong": 6, "parameters": 250}}
    _, found = report(make_runner(content={"arms": arms, "reference": "dense"}))
    dense, small = found["arms"]
    assert (found["title"], found["reference"], found["seeds"], found["unfinished"]) == ("sweep", "dense", [0, 1], [])
    assert found["reference_config"] == {"max_epoch": 3, "wrong": 2, "encoder_conf": {"blocks": 2}}
    assert dense["differs_from_reference"] == {}
    assert small["differs_from_reference"] == {"wrong": 6, "parameters": 250, "encoder_conf.low_rank.attention": 0.5}
    assert small["seeds"] == [0, 1] and small["wer"] == [30.0, 35.0] and small["cer"] == [6.5217, 7.6087]
    assert small["wer_mean"][0] == 32.5 and small["words"] == WORDS
    assert [one["train_step_seconds"] for one in small["experiments"]] == [0.25, 1.25]
    experiment = small["experiments"][1]
    assert (experiment["experiment"], experiment["seed"], experiment["epochs"]) == ("small_seed1", 1, 3)
    assert experiment["command"] == "python3 -m lrsms.bin.sweep .../sweep.yaml"
    assert experiment["decoding"]["rtf"] == 0.1 and experiment["commit"] == "0123456789ab"
    assert found["versions"] == [{"python": "3.11"}] and "cores" in found["reported_by"]["machine"]


def test_the_bootstrap_pools_the_seeds_that_both_arms_have(make_runner, report):
    runner = make_runner(content={"seeds": [0, 1, 2]})
    _, found = report(runner, "dense_seed0", "small_seed2")
    low, high = found["arms"][1]["difference_over_utterances"][1:]
    expected = paired_bootstrap([3, 0, 0, 0], [5, 2, 0, 0], [5] * 4)  # seed 1 alone
    assert found["arms"][1]["difference_over_utterances"][0] == pytest.approx(expected.difference) == 20
    assert (low, high) == (expected.low, expected.high)
    assert found["arms"][1]["seeds"] == [0, 1] and found["unfinished"] == ["dense_seed0", "small_seed2"]


def test_arms_without_a_common_seed_differ_over_seeds_alone(make_runner, report):
    page, found = report(make_runner(), "dense_seed0", "small_seed1")
    assert found["arms"][1]["difference_over_utterances"] is None
    assert cells(page, "small")[9:] == ["+15.00", ""]


def test_one_seed_has_no_interval_but_that_over_utterances(make_runner, report):
    page, _ = report(make_runner(content={"seeds": [0]}))
    assert cells(page, "small")[7:10] == ["30.00", "6.52", "+20.00"]
    assert cells(page, "small")[10].startswith("+20.00 [")


@pytest.mark.parametrize(
    ("wrong", "margin", "seeds", "verdict"),
    [
        (2, 15.0, [0, 1, 2], "not inferior"),  # 5 points from seed to seed: Welch's interval ends at 11.3
        (2, 10.0, [0, 1, 2], "open"),
        (20, 10.0, [0, 1, 2], "inferior"),
        (2, 15.0, [0], "open: one seed"),
    ],
)
def test_the_verdict_goes_by_the_interval_over_seeds_and_a_margin(make_runner, report, wrong, margin, seeds, verdict):
    arms = {"dense": {"wrong": 2}, "small": {"wrong": wrong}}
    page, found = report(make_runner(content={"arms": arms, "margin": margin, "seeds": seeds}))
    assert [row["verdict"] for row in found["arms"]] == [None, verdict]
    assert cells(page, "small")[11] == verdict and cells(page, "dense")[11] == ""
    assert f"at most {margin:g} points" in page


def test_without_its_reference_a_sweep_compares_nothing(make_runner, report):
    page, found = report(make_runner(), "dense_seed0", "dense_seed1")
    assert cells(page, "small")[3:6] == ["-", "1.0", "-"] and cells(page, "small")[9:] == ["", ""]
    assert "Not finished: dense_seed0, dense_seed1." in page
    assert [row["arm"] for row in found["arms"]] == ["small"]


def test_unknown_work_is_left_open(make_runner, report):
    arms = {"dense": {"macs": None}, "small": {"macs": 1e6}}
    page, _ = report(make_runner(content={"arms": arms}))
    assert cells(page, "dense")[4:6] == ["-", "-"] and cells(page, "small")[4:6] == ["1.0", "-"]


def test_every_split_has_its_table(make_runner, report, recipe):
    shutil.copytree(recipe / "data/test", recipe / "data/other")
    page, found = report(make_runner(test_splits=("test", "other")))
    assert page.index("## test") < page.index("## other")
    assert [row["split"] for row in found["arms"]] == ["test", "test", "other", "other"]


def test_the_page_says_what_differs_and_how_it_was_made(make_runner, report):
    page, _ = report(make_runner(content={"arms": {"a": None, "b": {"wrong": 3, "encoder_conf.low_rank": None}}}))
    assert "Beside `a`:\n\n- b: `wrong: 3, encoder_conf.low_rank.attention: removed`" in page
    assert "commit 0123456789ab; python 3.11" in page and "machine: a processor, 2 cores" in page
    assert "/home/me" not in page
    assert "![a picture](sweep_arms.png)" in page


def test_findings_and_the_section_of_results_are_written_and_replaced(make_runner, report, recipe, pictures):
    results = recipe / "results"
    results.mkdir()
    (results / "RESULTS.md").write_text("# Results\n\n## WER\n\na\n\n## Provenance\n\nb\n")
    page, found = report(make_runner(content={"title": "Sizes"}), results_dir=results)
    assert (results / "findings/sweep.md").read_text() == page
    assert json.loads((results / "findings/sweep.json").read_text()) == found
    assert {path.name for path in (results / "findings").iterdir()} == {"sweep.md", "sweep.json", "sweep_arms.png"}
    pictures[:] = ["sweep_values.png"]
    report(make_runner("tiny", {"title": "Tiny", "seeds": [0]}), results_dir=results)
    text = (results / "RESULTS.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        *("# Results", "## WER", "## Sweeps", "### Sizes", "### Tiny", "## Provenance")
    ]
    assert "[findings/sweep.md](findings/sweep.md)" in text and cells(text, "small")[1] == "2"
    report(make_runner(content={"title": "Other sizes"}), results_dir=results)
    again = (results / "RESULTS.md").read_text()
    assert again == text.replace("### Sizes", "### Other sizes")
    assert {path.name for path in (results / "findings").glob("*.png")} == {"sweep_values.png"}


def test_nothing_finished_is_an_error(make_runner):
    with pytest.raises(LrsmsError, match="holds no finished experiment of .*sweep.yaml"):
        write_report(make_runner())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{}", "dense_seed0/summary.json lacks epochs, train_hours"),
        ("summary.json", "{", "dense_seed0/summary.json is missing or not JSON"),
        ("curves.json", None, "dense_seed0/curves.json is missing or not JSON"),
    ],
)
def test_a_malformed_file_is_named(make_runner, report, file, content, message):
    runner = make_runner()
    report(runner)
    path = runner.folder / "dense_seed0" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(LrsmsError, match=f"{message}.*; remove its folder and run the sweep again"):
        write_report(runner)


def test_the_epochs_of_a_warm_up_come_first(make_runner, report):
    runner = make_runner()
    report(runner)
    experiment = runner.folder / "dense_seed0"
    (experiment / "warmup").mkdir()
    warmup = {"valid": {"epoch": [1, 2], "acc": [0.1, 0.2], "loss": [50.0, 40.0]}}
    (experiment / "warmup/curves.json").write_text(json.dumps(warmup))
    curve = report_module._curve(experiment)
    assert curve["epoch"] == [1, 2, 3, 4, 5] and curve["acc"] == [0.1, 0.2, 0.5, 0.8, 0.9]


def test_how_soon_an_arm_is_as_good_as_the_reference_at_the_end(make_runner, report):
    arms = {"dense": {}, "quick": {"acc": [0.7, 0.95, 0.9], "macs": 1e6}, "slow": {"acc": [0.1, 0.2, 0.8]}}
    page, found = report(make_runner(content={"arms": arms, "reference": "dense", "seeds": [0]}))
    section = page[page.index("## As good as the reference") :]
    assert cells(section, "dense") == ["dense", "3", "1.00", "1.00"]
    assert cells(section, "quick") == ["quick", "2", "0.33", "0.67"]
    assert cells(section, "slow") == ["slow", "not reached", "", ""]
    assert found["attained"]["key"] == "acc" and found["attained"]["value"] == 0.9


def test_the_criterion_of_the_reference_says_what_as_good_is(make_runner, report):
    criterion = {"best_model_criterion": [["train", "acc", "max"], ["valid", "loss", "min"]]}
    arms = {"dense": criterion, "late": {**criterion, "converges": 4}}
    page, found = report(make_runner(content={"arms": arms, "reference": "dense", "seeds": [0]}))
    assert found["attained"]["key"] == "loss" and found["attained"]["value"] == 3.0
    assert [arm["epochs"] for arm in found["attained"]["arms"]] == [3, None]


def test_a_reference_alone_is_compared_with_nothing(make_runner, report):
    page, found = report(make_runner(content={"arms": {"dense": {}}, "reference": "dense"}))
    assert "As good as" not in page and "attained" not in found
