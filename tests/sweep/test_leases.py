"""Who may run a point, when several processes ask for it."""

import subprocess
import sys
import time
import warnings

import pytest

from lrsms import storage as storages
from lrsms.errors import LrsmsError
from lrsms.sweep import leases
from lrsms.sweep.leases import Claims

TAKE_ALL = """
import pathlib, sys, time
from lrsms.sweep.leases import Claims
storage, points, then = sys.argv[1], int(sys.argv[2]), sys.argv[3]
mine = Claims(storage if "://" in storage else pathlib.Path(storage), "grid")
print("ready", flush=True)
sys.stdin.readline()
for point in range(points):
    number = mine.take(f"p{point}")
    if number is not None:
        print(f"p{point}", flush=True)
        if then == "end":
            mine.done(number, 1.0)
if then == "wait":
    time.sleep(60)
"""


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return tmp_path / "grid" / "optuna.journal"


@pytest.fixture
def begin(storage):
    """``begin(points, then)``: a process that, given a line, claims so many points and then ends them all or waits."""
    started = []

    def start(points: int, then: str) -> subprocess.Popen:
        command = [sys.executable, "-c", TAKE_ALL, str(storage), str(points), then]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_claimed_point_is_nobody_elses(storage):
    first, second = Claims(storage, "grid"), Claims(storage, "grid")
    assert first.take("a") is not None
    assert second.take("a") is None and first.take("a") is None
    assert second.take("b") is not None
    assert Claims(storage, "another study").take("a") is not None


@pytest.mark.parametrize("end", ["done", "failed"])
def test_what_has_ended_is_not_run_again_by_those_who_began_before(storage, end):
    first, second = Claims(storage, "grid"), Claims(storage, "grid")
    number = first.take("a")
    first.done(number, 12.5) if end == "done" else first.failed(number)
    assert first.take("a") is None and second.take("a") is None
    assert Claims(storage, "grid").take("a") is not None  # of what is finished, the folders know


def test_what_is_given_back_is_free_again(storage):
    first, second = Claims(storage, "grid"), Claims(storage, "grid")
    first.give_back(first.take("a"))
    assert second.take("a") is not None


def test_of_two_claims_at_the_same_moment_the_first_counts(storage, monkeypatch):
    first, second = Claims(storage, "grid"), Claims(storage, "grid")
    add_trial, taken = first._study.add_trial, []

    def add_late(trial):
        taken.append(second.take("a"))
        add_trial(trial)

    monkeypatch.setattr(first._study, "add_trial", add_late)
    assert first.take("a") is None and taken[0] is not None
    assert first.still_mine(taken) == set(taken)
    second.give_back(taken[0])
    monkeypatch.undo()
    assert first.take("a") is not None  # the claim that came too late was withdrawn


def test_processes_that_compete_claim_every_point_once(begin):
    processes = [begin(12, "end") for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        print(file=process.stdin, flush=True)
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [errors for _, errors in outputs] == ["", "", ""]
    taken = [line for output, _ in outputs for line in output.split()]
    assert sorted(taken) == sorted(f"p{i}" for i in range(12))


def test_a_killed_process_loses_its_claims(begin, storage):
    process = begin(1, "wait")
    print(file=process.stdin, flush=True)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "p0\n"]
    mine = Claims(storage, "grid")
    assert mine.take("p0") is None
    process.kill()  # and not waited for: a zombie does not hold claims
    while storages._started(process.pid) is not None:
        time.sleep(0.01)
    assert mine.take("p0") is not None


def test_another_process_of_the_same_number_does_not_inherit_claims(storage, monkeypatch):
    Claims(storage, "grid").take("a")
    monkeypatch.setattr(storages, "_started", lambda process: "later")
    assert Claims(storage, "grid").take("a") is not None


def test_another_machine_loses_its_claims_when_it_falls_silent(storage, monkeypatch):
    here = Claims(storage, "grid")
    monkeypatch.setattr(storages, "_machine", lambda: "elsewhere")
    there = Claims(storage, "grid")
    number = there.take("a")
    assert here.take("a") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + leases.DEAD_SECONDS - 1)
    there.heartbeat()
    monkeypatch.setattr(time, "time", lambda: now + leases.DEAD_SECONDS + 1)
    assert here.take("a") is None and there.still_mine([number]) == {number}
    monkeypatch.setattr(time, "time", lambda: now + 2 * leases.DEAD_SECONDS)
    assert here.take("a") is not None
    assert there.still_mine([number]) == set()
    there.done(number, 1.0)  # too late, and no error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json\nnot json\n", r"optuna.journal: cannot be opened .*; remove it while nothing runs"),
        (None, r"nosuch://x: cannot be opened as a storage of Optuna \(NoSuchModuleError.*sqlite:///"),
    ],
)
def test_a_bad_storage_is_one_line(content, message, tmp_path):
    storage = "nosuch://x"
    if content:
        storage = tmp_path / "optuna.journal"
        storage.write_bytes(content)
    with pytest.raises(LrsmsError, match=message) as error:
        Claims(storage, "grid")
    assert "\n" not in str(error.value)


def test_optuna_says_nothing(storage, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = Claims(storage, "grid")
        number = mine.take("a")
        mine.done(number, 3.0)
        mine.give_back(number)
        mine.failed(mine.take("b"))
    assert capfd.readouterr() == ("", "")
