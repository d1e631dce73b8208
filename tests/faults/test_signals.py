"""Signals, processes that end together, turns, and what a process that is killed leaves behind."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill_loop import session

from lrsms.errors import LrsmsError
from lrsms.files import atomic_write, exclusive, scratch_folder, write_text

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds, on a busy machine

# A verb that starts helpers and waits.
VERB = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from lrsms import command_line
from lrsms.files import scratch_folder
from lrsms.processes import be_helper, helpers, interrupts_blocked, start_context
if __name__ == "__main__":
    from made_up_verb_work import ready

def main():
    folder, how = sys.argv[1:]
    with scratch_folder(Path(folder)):
        if how == "helpers":
            with helpers(2, ready, folder):
                time.sleep(600)
        elif how == "pool":
            with ProcessPoolExecutor(2, start_context("lrsms.errors", False), initializer=be_helper) as pool:
                list(pool.map(ready, [folder] * 2))
        elif how.startswith("importing"):
            with ProcessPoolExecutor(2, start_context("lrsms.errors", how == "importing, spawned")) as pool:
                with interrupts_blocked():
                    done = pool.map(ready, [folder] * 2)
                list(done)
        else:
            ready(folder)

if __name__ == "__main__":
    command_line._is_main = lambda main: True
    command_line.run_verb(main)
"""
WORK = """
import multiprocessing, os, signal, sys, time
from pathlib import Path

if multiprocessing.parent_process() is not None and "importing" in sys.argv[-1]:
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    Path(sys.argv[1], f"ready{os.getpid()}").write_text("deaf" if blocked else "would show a stack trace")
    time.sleep(600)  # as an import of ESPnet takes seconds

def ready(folder):
    Path(folder, f"ready{os.getpid()}").touch()
    time.sleep(600)
"""


def wait_until(condition) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Verb:
    """A verb started in a session of its own, perhaps by a shell as run.sh starts it."""

    def __init__(self, folder: Path, how: str, by_recipe: bool = False):
        (folder / "made_up_verb.py").write_text(VERB)
        (folder / "made_up_verb_work.py").write_text(WORK)
        self.folder = folder / "out"
        self.folder.mkdir()
        command = [sys.executable, "-m", "made_up_verb", str(self.folder), how]
        if by_recipe:
            (folder / "run.sh").write_text('export LRSMS_RECIPE_PROCESS=$$\n"$@"\necho "still here"\n')
            command = ["bash", str(folder / "run.sh"), *command]
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
        environment.pop("LRSMS_RECIPE_PROCESS", None)
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=_hear_signals,
        )  # fmt: skip
        self.count = 2 if how != "alone" else 1
        assert wait_until(self.is_ready), self.end()

    def is_ready(self) -> bool:
        return len(list(self.folder.glob("ready*"))) == self.count or self.process.poll() is not None

    def all_end(self) -> bool:
        def gone() -> bool:
            self.process.poll()
            return not session(self.process.pid)

        return wait_until(gone)

    def end(self) -> str:
        for number in session(self.process.pid):
            os.kill(number, signal.SIGKILL)
        return self.process.communicate()[1]


def _hear_signals() -> None:
    """Tests that a shell has started in the background inherit that these are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


SIGNALS = [
    # how the verb works, signal, to all processes or to the verb alone, status, what it says
    ("alone", signal.SIGINT, False, 130, "interrupted: run the same command again to go on\n"),
    ("alone", signal.SIGTERM, False, 143, "terminated: run the same command again to go on\n"),
    ("alone", signal.SIGHUP, False, 129, "terminated: run the same command again to go on\n"),
    ("pool", signal.SIGINT, True, 130, "interrupted: run the same command again to go on\n"),
    ("pool", signal.SIGINT, False, 130, "interrupted: run the same command again to go on\n"),
    ("pool", signal.SIGTERM, False, 143, "terminated: run the same command again to go on\n"),
    ("pool", signal.SIGKILL, False, -9, None),
    ("importing", signal.SIGINT, True, 130, "interrupted: run the same command again to go on\n"),
    ("importing, spawned", signal.SIGINT, True, 130, "interrupted: run the same command again to go on\n"),
    ("helpers", signal.SIGINT, True, 130, None),
    ("helpers", signal.SIGTERM, False, 143, None),
    ("helpers", signal.SIGKILL, False, -9, None),
]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize(("how", "number", "to_all", "status", "said"), SIGNALS)
def test_a_verb_ends_with_its_helpers_and_leaves_nothing(how, number, to_all, status, said, tmp_path):
    verb = Verb(tmp_path, how)
    if "importing" in how:
        assert [path.read_text() for path in verb.folder.glob("ready*")] == ["deaf"] * 2
    (os.killpg if to_all else os.kill)(verb.process.pid, number)
    assert verb.all_end()
    errors = verb.end()
    assert verb.process.returncode == status
    assert "Traceback" not in errors and (said is None or errors == said)
    if number != signal.SIGKILL:
        assert not list(verb.folder.glob(".unfinished-*"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("how", ["alone", "pool"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_verb_ends_with_its_recipe(how, number, tmp_path):
    verb = Verb(tmp_path, how, by_recipe=True)
    os.kill(verb.process.pid, number)
    assert verb.all_end()
    assert "Traceback" not in verb.end()


def test_a_verb_outlives_a_shell_that_is_no_recipe(tmp_path):
    """As after nohup, or disown: the terminal closes, and the training goes on."""
    (tmp_path / "wait.py").write_text(
        "import time\nfrom lrsms.processes import end_with_recipe\nend_with_recipe()\ntime.sleep(1.5)\n"
        "open('done', 'w').close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("LRSMS_RECIPE_PROCESS", None)
    subprocess.run(["bash", "-c", f"{sys.executable} wait.py & exit 0"], cwd=tmp_path, env=environment, check=True)
    assert wait_until((tmp_path / "done").exists)


HOLD = """
import sys, time
from pathlib import Path
from lrsms.files import exclusive, scratch_folder
folder = Path(sys.argv[1])
with exclusive(folder / "lock", busy=lambda: print("busy", flush=True)), scratch_folder(folder) as scratch:
    (scratch / "half").write_text("x")
    print("in", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_one_at_a_time_and_the_next_takes_over_from_one_that_is_killed(tmp_path):
    first = hold(tmp_path)
    assert first.stdout.readline() == "in\n"
    second = hold(tmp_path)
    assert second.stdout.readline() == "busy\n"
    first.kill()
    assert second.stdout.readline() == "in\n"
    # What the killed one has left is removed by the one after it, by its end if not before; its own stays until then.
    assert list(tmp_path.glob(".unfinished-*"))
    second.communicate("")
    assert not list(tmp_path.iterdir())
    first.communicate()


def test_busy_may_refuse(tmp_path):
    first = hold(tmp_path)
    assert first.stdout.readline() == "in\n"

    def refuse() -> None:
        raise LrsmsError("in use")

    with pytest.raises(LrsmsError, match="in use"), exclusive(tmp_path / "lock", refuse):
        pass
    first.communicate("")
    with exclusive(tmp_path / "lock", refuse):
        assert (tmp_path / "lock").exists()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_is_removed_by_the_next_that_writes_there(tmp_path, monkeypatch):
    process = hold(tmp_path)
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.communicate()
    assert len(list(tmp_path.glob(".unfinished-*/half"))) == 1
    monkeypatch.setattr("lrsms.files._cleaned", set())
    write_text(tmp_path / "a", "A")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "lock"}


def test_what_is_given_up_only_after_the_next_has_looked_is_removed_at_its_end(tmp_path, monkeypatch):
    """As of a process that is being killed: the kernel closes its files one after the other."""
    left = tmp_path / ".unfinished-left"
    left.mkdir()
    held = os.open(left, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr("lrsms.files._cleaned", set())
    with scratch_folder(tmp_path):
        assert left.exists()
        os.close(held)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_taken_for_an_abandoned_one(tmp_path, monkeypatch):
    with scratch_folder(tmp_path) as scratch:
        (scratch / "a").touch()
        monkeypatch.setattr("lrsms.files._cleaned", set())
        write_text(tmp_path / "b", "B")
        assert (scratch / "a").exists()


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 64 KiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def torch_save(path: Path) -> None:
    import torch

    torch.save(torch.zeros(100_000), path)


def numpy_savez(path: Path) -> None:
    import numpy as np

    np.savez(path, a=np.zeros(100_000))


def soundfile_write(path: Path) -> None:
    import numpy as np
    import soundfile

    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 200_000), 16000, format="FLAC")


@pytest.mark.parametrize(
    "write", [lambda path: path.write_bytes(bytes(200_000)), torch_save, numpy_savez, soundfile_write]
)
def test_a_full_disk_is_said_in_one_line_whatever_writes(write, full_disk):
    (full_disk / "a.npz").write_text("old")
    with (
        pytest.raises(LrsmsError, match=r"a.npz: cannot be written: the disk is full; make room, and run the same"),
        atomic_write(full_disk / "a.npz") as unfinished,
    ):
        write(unfinished)
    assert (full_disk / "a.npz").read_text() == "old"
    assert [path.name for path in full_disk.iterdir()] == ["a.npz"]


def test_a_stage_on_a_full_disk_says_so_and_goes_on_when_there_is_room(full_disk, root):
    command = [sys.executable, "-m", "lrsms.bin.prepare", "--corpus", "digits", "--output_dir", str(full_disk / "data"),
               "--num_train", "40", "--num_dev", "1", "--num_test", "1", "--num_jobs", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {full_disk}/data/")
    assert done.stderr.strip().endswith("the disk is full; make room, and run the same command again")
    subprocess.run(["mount", "-o", "remount,size=16m", str(full_disk)], check=True)
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == 0
    assert (full_disk / "data/train/recordings.jsonl.gz").exists()
    assert not list(full_disk.rglob(".unfinished-*"))


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody may write to, not even root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("no right to mount a disk, and root may write everywhere")
        yield folder
        folder.chmod(0o700)
        return
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_folder_that_may_not_be_written_to_is_named(read_only):
    with pytest.raises(LrsmsError, match=r"a.txt: cannot be written: (Read-only file system|Permission denied); give"):
        write_text(read_only / "a.txt", "A")


@pytest.mark.parametrize(
    "verb",
    [
        ["prepare", "--corpus", "digits", "--num_train", "2", "--num_dev", "1", "--num_test", "1", "--output_dir"],
        ["score", "--data_dir", "{here}", "--exp_dir", "{here}", "--results_dir"],
    ],
)
def test_a_verb_names_the_folder_that_it_may_not_write_to(verb, read_only, root, tmp_path):
    command = [sys.executable, "-m", f"lrsms.bin.{verb[0]}", *(word.format(here=tmp_path) for word in verb[1:])]
    done = subprocess.run([*command, str(read_only / "out")], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_second_training_in_one_folder_is_refused(corpus, write_config, tmp_path):
    from lrsms.espnet.training.run import Training

    script = HOLD.replace('"lock"', '".exp.lock"')
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert first.stdout.readline() == "in\n"
    second = Training(
        config=write_config(tmp_path / "train.yaml"), output_dir=tmp_path / "exp", lang_dir=corpus / "lang_char",
        train_cuts=corpus / "train/cuts.jsonl.gz", valid_cuts=corpus / "dev/cuts.jsonl.gz", token_type="char",
    )  # fmt: skip
    for force in (False, True):
        with pytest.raises(LrsmsError, match=r"exp: another process is training in this folder; wait for it or end it"):
            second.run(force)
    assert not (tmp_path / "exp").exists()
    first.communicate("")


STAGE_0 = ["--corpus", "digits", "--num_train", "30", "--num_dev", "2", "--num_test", "2", "--num_jobs", "1"]


def test_two_that_prepare_one_folder_take_turns(tmp_path):
    command = [sys.executable, "-m", "lrsms.bin.prepare", "--output_dir", "data", *STAGE_0]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (waited,) = (text for text in said if text)
    lines = waited.splitlines()
    assert lines[-1] == "prepare: data is up to date, skipped (--force true runs it again)"
    assert lines[:-1] in ([], ["prepare: data: waiting for another command that is preparing data"])
    assert not list((tmp_path / "data/.stamps").glob("lock"))
