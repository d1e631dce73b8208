"""What has waited without end: locks of killed processes, headers and YAMLs that ask for endless work."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from lrsms.data.audio import read_audio
from lrsms.errors import LrsmsError
from lrsms.storage import OwnedLock, open_study, this_process

ENDED = {"machine": this_process()["machine"], "process": 2**22 + 1, "started": "1"}  # no process has such a number


def add_trial(journal: str) -> None:
    study = open_study(Path(journal), "study")
    study.tell(study.ask(), 1.0)


def in_time(work, *arguments, seconds=60):
    """Run ``work`` in a process that is ended if it does not come back."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join(seconds)
    waits = process.is_alive()
    if waits:
        process.kill()
        process.join()
    assert not waits, f"{work.__name__}{arguments} waits"
    assert process.exitcode == 0


KILLED = """
import os, sys
from pathlib import Path
from lrsms.storage import OwnedLock
OwnedLock(Path(sys.argv[1])).acquire()
os._exit(9)
"""


def link(journal: str, target: str) -> None:
    Path(f"{journal}.lock").symlink_to(target)


LEFT = {
    "by a process that was killed": lambda journal: subprocess.run([sys.executable, "-c", KILLED, journal]),
    "by a process of this machine that has ended": lambda journal: link(journal, json.dumps(ENDED)),
    "by Optuna's own lock": lambda journal: link(journal, journal),
    "by another machine": lambda journal: link(journal, json.dumps(ENDED | {"machine": "x"})),
    "by something else": lambda journal: link(journal, "5"),
    "as a file": lambda journal: Path(f"{journal}.lock").touch(),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("how", LEFT)
def test_a_lock_that_was_left_is_taken(how, absolute, tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    Path("exp").mkdir()
    journal = str(tmp_path / "exp/optuna.journal") if absolute else "exp/optuna.journal"
    add_trial(journal)
    LEFT[how](journal)
    hour_ago = time.time() - 3600
    os.utime(f"{journal}.lock", (hour_ago, hour_ago), follow_symlinks=False)
    in_time(add_trial, journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(journal))
    assert len(optuna.load_study(study_name="study", storage=storage).trials) == 2
    assert [path.name for path in Path("exp").iterdir()] == ["optuna.journal"]


def test_a_lock_that_is_held_is_waited_for(tmp_path):
    journal = tmp_path / "optuna.journal"
    held, order = OwnedLock(journal), []
    held.acquire()

    def wait():
        lock = OwnedLock(journal)
        lock.acquire()
        order.append("second")
        lock.release()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    order.append("first")
    held.release()
    thread.join(60)
    assert order == ["first", "second"] and not any(tmp_path.iterdir())


def test_processes_that_write_one_journal_lose_nothing(tmp_path):
    journal = tmp_path / "optuna.journal"
    add_trial(str(journal))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_trial, args=(str(journal),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(open_study(journal, "study").trials) == 4


@pytest.mark.parametrize("rate", [1, 999, 2_000_000_000])
def test_a_header_that_announces_no_sampling_rate_of_sound(rate, tmp_path):
    import wave

    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(20_000))
    with pytest.raises(LrsmsError, match="Hz"):
        read_audio(tmp_path / "x.wav", 16000)
