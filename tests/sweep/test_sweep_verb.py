"""The command line of a sweep; its experiments are made up."""

import json
import sys

import pytest
import yaml


@pytest.fixture
def sweep(recipe, made_up, monkeypatch):
    """``sweep(*arguments)``: run the verb in this process, in the recipe's folder."""
    monkeypatch.chdir(recipe)
    monkeypatch.setenv("LRSMS_COMMAND", "./run_sweep.sh")

    def run(*arguments) -> None:
        from lrsms.bin import run_verb
        from lrsms.bin import sweep as verb

        monkeypatch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        run_verb(verb.main)

    return run


def test_a_sweep_runs_and_reports(sweep, write_sweep, recipe, capsys):
    (recipe / "RESULTS.md").write_text("# Results\n")
    sweep(write_sweep(seeds=[0]), "--nj", "2", "--results_dir", ".")
    assert "| small " in capsys.readouterr().out
    assert json.loads((recipe / "findings/sweep.json").read_text())["reported_by"]["command"] == "./run_sweep.sh"
    assert "## Sweeps" in (recipe / "RESULTS.md").read_text()
    assert (recipe / "sweeps/grid/sweep.md").exists()


def test_failures_are_named_with_their_reason_and_the_rest_is_reported(sweep, write_sweep, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep(write_sweep(seeds=[0], arms={"good": None, "bad": {"then": "error"}}))
    output, errors = capsys.readouterr()
    assert stop.value.code == 1 and "| good " in output
    assert errors.splitlines()[-1] == (
        "error: 1 experiments failed, and the same command tries them again: "
        "sweeps/grid/bad_seed0/sweep.log: error: no such microphone"
    )


def test_when_all_fail_the_reason_is_still_given(sweep, write_sweep, capsys):
    with pytest.raises(SystemExit):
        sweep(write_sweep(seeds=[0], arms={"bad": {"then": "error"}}))
    assert "no such microphone" in capsys.readouterr().err.splitlines()[-1]


def test_what_another_process_runs_is_named(sweep, write_sweep, make_runner, capsys):
    from lrsms.sweep.leases import Claims

    claims = Claims(make_runner().folder / "optuna.journal", "grid")
    claims.take("small_seed0")
    sweep(write_sweep(seeds=[0]))
    assert capsys.readouterr().err.endswith("not finished: small_seed0\n")


def test_arms_are_tuned_on_dev_at_the_first_seed_before_the_others(sweep, write_sweep, recipe, runs, capsys):
    arms = {"dense": None, "small": {"parameters": 250}}
    content = {"tune": {"wrong": [4, 1, 3]}, "arms": arms, "seeds": [3, 4], "margin": 1.0, "reference": "dense"}
    sweep(write_sweep(**content), "--nj", "2")
    trained = [key for key, *_ in runs()]
    candidates = {f"{arm},wrong={wrong}_seed3" for arm in arms for wrong in (4, 1, 3)}
    assert set(trained[:6]) == candidates
    chosen = {f"{arm},wrong=1_seed{seed}" for arm in arms for seed in (3, 4)}
    assert set(trained[6:]) == chosen  # those of the first seed for the test set
    page = (recipe / "sweeps/grid/sweep.md").read_text()
    found = json.loads((recipe / "sweeps/grid/sweep.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["dense,wrong=1", "small,wrong=1"]
    assert found["reference"] == "dense,wrong=1" and found["arms"][0]["split"] == "test"
    assert [row["wer"] for row in found["tuning"]] == [35.0, 20.0, 30.0] * 2
    assert [row["chosen"] for row in found["tuning"]] == [False, True, False] * 2
    assert "| dense,wrong=4 |        35.00 |        |" in page
    sweep(write_sweep(**content), "--report_only")
    assert len(runs()) == len(trained)
    with pytest.raises(SystemExit):
        sweep(write_sweep(**{**content, "folder": "other"}), "--report_only")
    assert "tune: dense,wrong=4_seed3 is not finished" in capsys.readouterr().err


def test_epochs_double_until_no_arm_gains(sweep, write_sweep, recipe, runs):
    arms = {"dense": {"scheduler_conf": {"first_cycle_steps": 100, "warmup_steps": 10}}, "small": {"converges": 6}}
    path = write_sweep(until="converged", arms=arms, seeds=[0, 1])
    sweep(path)
    trained = [key for key, *_ in runs()]
    tried = [f"{arm}{epochs}_seed0" for epochs in ("", ",epochs=6", ",epochs=12") for arm in arms]
    assert trained[:6] == tried  # 6 epochs are better than 3 for one arm, 12 for none
    assert sorted(trained[6:]) == sorted(f"{arm},epochs=6_seed{seed}" for arm in arms for seed in (0, 1))
    found = json.loads((recipe / "sweeps/grid/sweep.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["dense,epochs=6", "small,epochs=6"] and found["converged"]
    assert [(row["epochs"], row["loss"]) for row in found["lengths"]] == [
        *((3, 3.0), (3, 6.0), (6, 3.0), (6, 3.0), (12, 3.0), (12, 3.0))
    ]
    config = yaml.safe_load((recipe / "sweeps/grid/configs/dense,epochs=12.yaml").read_text())
    assert config["max_epoch"] == 12 and config["scheduler_conf"] == {"first_cycle_steps": 400, "warmup_steps": 10}
    assert "Twice the epochs of the arms above gain less than 2%" in (recipe / "sweeps/grid/sweep.md").read_text()


def test_arms_that_never_stop_gaining_are_said_not_to_have_converged(sweep, write_sweep, recipe):
    sweep(write_sweep(until="converged", arms={"slow": {"converges": 1000}}, seeds=[0]), "--nj", "2")
    found = json.loads((recipe / "sweeps/grid/sweep.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["slow,epochs=48"] and not found["converged"]
    assert "they have not converged" in (recipe / "sweeps/grid/sweep.md").read_text()


def test_a_candidate_that_fails_is_named(sweep, write_sweep, runs, capsys):
    with pytest.raises(SystemExit):
        sweep(write_sweep(seeds=[0], arms={"dense": None}, tune={"then": ["error", "well"]}))
    assert "dense,then=error_seed0/sweep.log: error: no such microphone" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(key for key, *_ in runs()) == ["dense,then=error_seed0", "dense,then=well_seed0"]


def test_report_only_runs_nothing(sweep, write_sweep, make_runner, made_up, runs, capsys):
    with pytest.raises(SystemExit):
        sweep(write_sweep(), "--report_only")
    assert capsys.readouterr().err.startswith("error: sweeps/grid holds no finished experiment of")
    runner = make_runner()
    made_up.write_finished(runner, runner.points()[0])
    sweep(write_sweep(), "--report_only")
    assert "| dense " in capsys.readouterr().out and not runs()


def test_report_only_refuses_an_arm_that_has_changed(sweep, write_sweep, capsys):
    sweep(write_sweep(seeds=[0]))
    with pytest.raises(SystemExit):
        sweep(write_sweep(seeds=[0], arms={"dense": {"wrong": 9}}), "--report_only")
    assert "arm 'dense' is not as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nj", "0"], "--nj: 0: must be at least 1"),
        (["--ngpu", "-1"], "--ngpu: -1: must be at least 0"),
        (["--test_splits", " "], "--test_splits: name at least one"),
    ],
)
def test_impossible_options_are_refused(sweep, write_sweep, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep(write_sweep(), *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_scoring_the_recipe_keeps_the_section(sweep, write_sweep, recipe, made_up, make_runner, monkeypatch, capsys):
    from lrsms.bin import score

    sweep(write_sweep(seeds=[0]), "--results_dir", ".")
    summary = json.loads((recipe / "sweeps/grid/dense_seed0/summary.json").read_text())
    made = {"config": "conf/train.yaml", "command": "./run.sh"}
    (recipe / "exp").mkdir()
    (recipe / "sweeps/grid/dense_seed0").rename(recipe / "exp/dense")
    (recipe / "exp/dense/summary.json").write_text(json.dumps(summary | made))
    decode = next(recipe.glob("exp/dense/decode_*/test/decode.json"))
    decode.write_text(json.dumps(json.loads(decode.read_text()) | made | {"utterances": 4}))
    monkeypatch.setattr(sys, "argv", ["score", "--results_dir", "."])
    score.main()
    text = (recipe / "RESULTS.md").read_text()
    assert (
        text.index("## CER") < text.index("## Sweeps") < text.index("[findings/sweep.md]") < text.index("## Provenance")
    )
    assert "## Sweeps" not in (recipe / "exp/RESULTS.md").read_text()
