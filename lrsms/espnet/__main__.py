"""Run any ESPnet module with the low-rank classes registered.

Usage: python3 -m lrsms.espnet -m espnet2.bin.asr_train --config conf/train_lrsms.yaml ...

This module stays ``__main__`` while ESPnet's runs inside it: processes that ESPnet spawns for several GPUs import
their parent's ``__main__`` first and so register the classes too. (A file given instead of a module is its
children's ``__main__``: one that spawns processes imports ``lrsms.espnet`` itself.)
"""

import runpy
import sys

import lrsms.espnet  # registers, in spawned children as well
from lrsms.espnet.training.edit_distance import provide_editdistance
from lrsms.startup import start_espnet_program

start_espnet_program()
provide_editdistance()

# Spawned children skip a main module whose name ends in `.__main__`; under the package's name they run this one.
__spec__ = lrsms.espnet.__spec__

_USAGE = "usage: python3 -m lrsms.espnet [-m] espnet2.bin.<module> [options of that module]"


def main(arguments: list[str]) -> None:
    """Run ``-m module arguments...`` or ``file.py arguments...`` as Python itself would."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    if arguments[0] == "-m":
        if len(arguments) < 2:
            sys.exit(_USAGE)
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=False)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
