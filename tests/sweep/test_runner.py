"""Running a sweep's points: once each, whoever is started, stopped or killed in between. Nothing is trained here."""

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml

from lrsms.errors import LrsmsError
from lrsms.sweep import runner as runner_module
from lrsms.sweep.leases import Claims
from lrsms.sweep.processes import threads_for_each

KEYS = ["dense_seed0", "small_seed0", "dense_seed1", "small_seed1"]
SLOW = {"arms": {"dense": {"seconds": 30}, "small": {"seconds": 30}}}


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(runner_module, "_POLL_SECONDS", 0.2)


def trials(runner) -> list:
    backend = optuna.storages.journal.JournalFileBackend(str(runner.folder / "optuna.journal"))
    study = optuna.load_study(study_name=runner.sweep.folder, storage=optuna.storages.JournalStorage(backend))
    return study.get_trials()


def states(runner) -> dict[str, list[str]]:
    found = {}
    for trial in trials(runner):
        found.setdefault(trial.user_attrs["point"], []).append(trial.state.name)
    return found


def wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def session(process: subprocess.Popen) -> list[str]:
    """Processes of its session that live."""
    found = subprocess.run(["ps", "-s", str(process.pid), "-o", "stat=,args="], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if not line.startswith("Z")]


def test_every_point_is_run_once(make_runner, runs):
    runner = make_runner(nj=2)
    assert runner.run() == []
    assert sorted(key for key, *_ in runs()) == sorted(KEYS)
    assert all(map(runner.finished, runner.points()))
    assert {path.name for path in runner.folder.iterdir()} == {*KEYS, "configs", "optuna.journal"}
    for arm in runner.sweep.arms:
        assert yaml.safe_load((runner.folder / "configs" / f"{arm.name}.yaml").read_text()) == arm.config
    assert "training small_seed1" in (runner.folder / "small_seed1/sweep.log").read_text()
    assert {t.user_attrs["point"]: t.value for t in trials(runner)} == dict(zip(KEYS, [10.0, 30.0, 15.0, 35.0]))
    assert runner.run() == [] and len(runs()) == 4


def test_points_are_run_seed_by_seed(make_runner, runs):
    make_runner().run()
    assert [key for key, *_ in runs()] == KEYS


def test_only_what_is_asked_for_is_run(make_runner, runs):
    runner = make_runner(only="small_seed?")
    assert runner.run() == [] and [key for key, *_ in runs()] == ["small_seed0", "small_seed1"]
    assert [runner.finished(point) for point in runner.points()] == [False, True, False, True]
    assert runner.run() == [] and len(runs()) == 2


def test_asking_for_what_is_not_there_is_an_error(make_runner, runs):
    with pytest.raises(LrsmsError, match=r"--only smal: no experiment of .* matches; they are dense_seed0, small_"):
        make_runner(only="smal").run()
    assert not runs()


def test_tuning_trains_all_candidates_whatever_is_asked_for(make_runner, runs):
    runner = make_runner(content={"tune": {"wrong": [4, 1]}}, only="small*_seed1").tuning()
    assert runner.run() == [] and len(runs()) == len(runner.points()) == 4


def test_sweeps_of_one_folder_share_equal_arms_and_leave_the_others_points_alone(make_runner, runs):
    first = make_runner("first", {"arms": {"dense": None, "small": {"wrong": 6}}})
    claims = Claims(first.folder / "optuna.journal", "grid")
    number = claims.take("small_seed0")  # as a process would that is at work on the first sweep
    second = make_runner("second", {"arms": {"dense": None, "tiny": {"wrong": 9}}})
    assert second.run() == []
    assert claims.still_mine([number]) == {number}
    claims.give_back(number)
    assert first.run() == []
    assert Counter(key for key, *_ in runs()) == Counter(
        [f"{arm}_seed{seed}" for arm in ("dense", "small", "tiny") for seed in (0, 1)]
    )


@pytest.mark.parametrize(
    ("then", "line"),
    [
        ("error", "error: no such microphone"),
        ("crash", "ZeroDivisionError: a defect"),
        ("killed", "training bad_seed0"),
    ],
)
def test_a_failed_point_is_reported_and_tried_again_by_the_next_run(make_runner, runs, then, line):
    arms = {"bad": {"then": then}, "good": {"wrong": 1}}
    runner = make_runner(content={"arms": arms, "seeds": [0]})
    assert [point.key for point in runner.run()] == ["bad_seed0"]
    assert runner.points()[0].log.read_text().splitlines()[-1] == line
    assert states(runner) == {"bad_seed0": ["FAIL"], "good_seed0": ["COMPLETE"]}
    assert [point.key for point in runner.run()] == ["bad_seed0"]
    assert [key for key, *_ in runs()] == ["bad_seed0", "good_seed0", "bad_seed0"]


def test_a_decoding_that_cannot_be_scored_is_a_failure(make_runner, made_up, monkeypatch):
    runner = make_runner(content={"seeds": [0]})
    for point in runner.points():
        made_up.write_finished(runner, point)
    (point.experiment / "summary.json").unlink()  # trained again, and then there is one hypothesis too many
    monkeypatch.setattr(runner_module, "score_decoding", lambda *_: (_ for _ in ()).throw(LrsmsError("one too many")))
    assert runner.run() == [point]
    assert point.log.read_text().endswith("error: one too many\n")


def test_an_arm_that_has_changed_is_refused(make_runner, runs):
    first = make_runner()
    first.run()
    changed = make_runner("changed", {"arms": {"dense": {"wrong": 3}, "small": {"wrong": 6}}, "seeds": [5]})
    with pytest.raises(
        LrsmsError, match=r"changed.yaml: arm 'dense' is not as .*dense_seed0 was trained .*another name"
    ):
        changed.run()
    assert yaml.safe_load((first.folder / "configs/dense.yaml").read_text())["wrong"] == 2
    assert len(runs()) == 4
    other = make_runner("other", {"arms": {"dense2": {"wrong": 3}}})
    assert other.run() == [] and len(runs()) == 6


def test_an_arm_that_never_trained_may_change(make_runner, runs):
    make_runner(content={"arms": {"dense": {"color": 1}}})
    with pytest.raises(LrsmsError, match=r"sweep.yaml: arm 'dense': .*configs/dense.yaml: unknown key 'color'"):
        make_runner(content={"arms": {"dense": {"color": 1}}}).run()
    assert not runs()
    assert make_runner(content={"arms": {"dense": {"wrong": 1}}, "seeds": [0]}).run() == []


@pytest.mark.parametrize("change", [{"train_split": "train_sp"}, {"valid_split": "valid"}])
def test_other_splits_in_one_folder_are_refused(make_runner, change):
    make_runner().run()
    with pytest.raises(
        LrsmsError, match=r"folder: grid: .*dense_seed0 was trained with dev, lang_char, train, this sweep"
    ):
        make_runner(**change).run()


def test_other_tokens_in_one_folder_are_refused(make_runner):
    make_runner().run()
    with pytest.raises(LrsmsError, match="this sweep is with dev, lang_unigram80, train; name another folder"):
        make_runner(content={"token_type": "unigram", "vocab_size": 80}).run()


def test_arms_taken_out_of_the_file_are_left_alone(make_runner, runs):
    make_runner().run()
    smaller = make_runner(content={"arms": {"small": {"wrong": 6, "parameters": 250, "macs": 1e6}}, "seeds": [0, 1, 2]})
    assert smaller.run() == []
    assert [key for key, *_ in runs()][4:] == ["small_seed2"]
    assert (smaller.folder / "dense_seed0/summary.json").exists()


def test_another_decoding_config_opens_the_points_again(make_runner, recipe, runs):
    runner = make_runner(content={"seeds": [0]})
    runner.run()
    (recipe / "conf/decode.yaml").write_text("beam_size: 4\n")
    assert not any(map(runner.finished, runner.points()))
    runner.run()
    assert len(runs()) == 4 and all(map(runner.finished, runner.points()))


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("data/train/cuts.jsonl.gz", "data/train/cuts.jsonl.gz: not found; run stage 1 first"),
        ("data/test/cuts.jsonl.gz", "data/test/cuts.jsonl.gz: not found; run stage 1 first"),
        ("data/lang_char/tokens.txt", "data/lang_char/tokens.txt: not found; run stage 2 first"),
        ("conf/decode.yaml", "conf/decode.yaml: no such decoding YAML"),
    ],
)
def test_a_missing_input_stops_before_anything_is_trained(make_runner, recipe, runs, absent, message):
    runner = make_runner()
    (recipe / absent).unlink()
    with pytest.raises(LrsmsError, match=message):
        runner.run()
    assert not runs()


def test_more_gpus_than_there_are_is_an_error(make_runner):
    with pytest.raises(LrsmsError, match="--ngpu 99: torch sees"):
        make_runner(ngpu=99).run()


def test_points_are_spread_over_gpus(make_runner, runs, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    runner = make_runner(content={"seeds": [0]}, ngpu=2, nj=2)
    assert runner.run() == []
    assert sorted(gpu for *_, gpu in runs()) == ["3", "5"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_a_claim_lost_to_another_machine_stops_the_training(make_runner, runs, monkeypatch):
    runner = make_runner(content=SLOW | {"seeds": [0]}, nj=2)
    lost = []

    class Watched(Claims):
        def heartbeat(self) -> None:
            if not lost and len(runs()) == 2:
                lost.append(self.take("dense_seed0"))
                self.give_back(0)  # as another machine does that has not heard of this one
                self.failed(1)

    monkeypatch.setattr(runner_module, "Claims", Watched)
    assert runner.run() == []
    assert lost == [None] and not any(map(runner.finished, runner.points()))
    assert not any(Path(f"/proc/{process}").exists() for _, process, *_ in runs())


def test_two_runners_run_every_point_once(write_sweep, start_verb, make_runner, runs):
    sweep = write_sweep(seeds=[0, 1, 2, 3], arms={"dense": {"seconds": 0.3}, "small": {"seconds": 0.3}})
    processes = [start_verb(sweep, "--nj", "2") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert Counter(key for key, *_ in runs()) == Counter(f"{a}_seed{s}" for a in ("dense", "small") for s in range(4))
    runner = make_runner(content=yaml.safe_load(sweep.read_text()))
    assert all(map(runner.finished, runner.points()))
    assert all(
        found.count("COMPLETE") == 1 and set(found) <= {"COMPLETE", "PRUNED"} for found in states(runner).values()
    )


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGINT, os.kill), (signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)]
)
def test_a_runner_that_is_stopped_leaves_no_training_and_no_claim(
    write_sweep, start_verb, make_runner, runs, number, send
):
    process = start_verb(write_sweep(**SLOW), "--nj", "2")
    wait_for(lambda: len(runs()) == 2)
    send(process.pid, number)  # killpg: as a terminal does
    _, errors = process.communicate(timeout=120)
    wait_for(lambda: not session(process))
    folder = make_runner(content=SLOW).folder
    assert not any("Traceback" in text for text in (errors, *(log.read_text() for log in folder.glob("*/sweep.log"))))
    if number == signal.SIGINT:
        assert process.returncode == 130 and errors.endswith("interrupted: run the same command again to go on\n")
        assert states(make_runner(content=SLOW)) == {"dense_seed0": ["PRUNED"], "small_seed0": ["PRUNED"]}
    quick = {"arms": {"dense": {"seconds": 0}, "small": {"seconds": 0}}}
    for path in folder.glob("*_seed*/checkpoint.pth"):
        path.unlink()  # or the arms would not be allowed to change
    runner = make_runner(content=quick)
    assert runner.run() == []
    assert len(runs()) == 2 + 4 and all(map(runner.finished, runner.points()))


@pytest.mark.parametrize(
    ("nj", "allowed", "threads"), [(1, "1", 1), (2, "4", 4), (8, "4", 1), (99, "", 1), (1, "x", 8)]
)
def test_threads_are_shared_and_no_more_than_allowed(monkeypatch, nj, allowed, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert threads_for_each(nj) == threads
