#!/usr/bin/env bash
# Optuna 5.0.0: the grace period of a journal's lock never begins if the journal's path is relative.
#
# JournalFileSymlinkLock (optuna/storages/journal/_file.py), the default of JournalFileBackend, links <journal>.lock to
# the journal by the path that it was given. The link lies beside the journal, so that a relative path with a folder in
# it, such as exp/optuna.journal, leads nowhere from there. acquire() asks os.stat of the link for its age, which fails,
# and tries again at once: a lock that a killed process has left is waited for without end, on a busy core. With an
# absolute path it is released after grace_period (30 s by default).
#
# Prints:
#   absolute path: the lock that was left is taken within 60 s: True
#   relative path: the lock that was left is taken within 60 s: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q optuna==5.0.0
cat > "${folder}/wait.py" <<'PYTHON'
import multiprocessing
import os
import sys
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock


def acquire(journal):
    JournalFileSymlinkLock(journal, grace_period=3).acquire()


def taken(journal):
    Path(journal).touch()  # as JournalFileBackend does
    JournalFileSymlinkLock(journal).acquire()  # and never released, as by a process that was killed
    process = multiprocessing.Process(target=acquire, args=(journal,))
    process.start()
    process.join(60)
    ended = process.exitcode == 0
    process.kill()
    return ended


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("exp").mkdir()
    absolute, relative = taken(os.path.abspath("exp/a.journal")), taken("exp/b.journal")
    print(f"absolute path: the lock that was left is taken within 60 s: {absolute}")
    print(f"relative path: the lock that was left is taken within 60 s: {relative}")
    sys.exit(not absolute or relative)
PYTHON
"${folder}/venv/bin/python" "${folder}/wait.py" "${folder}"
