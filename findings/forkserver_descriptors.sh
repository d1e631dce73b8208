#!/usr/bin/env bash
# torch 2.11.0 on Linux, Python 3.11: multiprocessing's fork server gives a new process some 250 tensors and no more.
#
# A tensor that is pickled to another process travels as one file descriptor (torch's default sharing strategy,
# https://docs.pytorch.org/docs/2.11/multiprocessing.html#sharing-strategies), and the fork server takes fewer than 256,
# four of its own and those of a queue among them (MAXFDS_TO_SEND in Lib/multiprocessing/forkserver.py). A small
# Conformer with the second moments of its layers' inputs has more: "ValueError: too many fds", from Process.start().
# A process that is spawned takes them; so does the fork server where they are in a file and its name is sent.
#
# Further: the server belongs to the calling process as a whole and imports what was asked for when it was started. A
# later set_forkserver_preload() for another module is accepted and changes nothing.
#
# Prints:
#   forkserver, 240 tensors: arrived
#   forkserver, 256 tensors: ValueError: too many fds
#   spawn, 256 tensors: arrived
#   fractions, asked for after the start: not preloaded
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"

"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "${folder}/tensors.py" <<'PYTHON'
import multiprocessing
import sys


def arrive(tensors, queue):
    queue.put("arrived" if sum(int(one) for one in tensors) == len(tensors) else "wrong")


def loaded(queue):
    queue.put("preloaded" if "fractions" in sys.modules else "not preloaded")


def send(method, count):
    import torch

    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=arrive, args=([torch.ones(1) for _ in range(count)], queue))
    try:
        process.start()
    except ValueError as error:
        return f"ValueError: {error}"
    answer = queue.get(timeout=120)
    process.join()
    return answer


if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["colorsys"])
    found = [f"{method}, {count} tensors: {send(method, count)}"
             for method, count in (("forkserver", 240), ("forkserver", 256), ("spawn", 256))]
    context.set_forkserver_preload(["fractions"])
    queue = context.Queue()
    context.Process(target=loaded, args=(queue,)).start()
    found.append(f"fractions, asked for after the start: {queue.get(timeout=120)}")
    print("\n".join(found))
    sys.exit(found != [
        "forkserver, 240 tensors: arrived",
        "forkserver, 256 tensors: ValueError: too many fds",
        "spawn, 256 tensors: arrived",
        "fractions, asked for after the start: not preloaded",
    ])
PYTHON
"${folder}/venv/bin/python" "${folder}/tensors.py"
