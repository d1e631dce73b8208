"""What a command keeps from the terminal, and what it does not."""

import logging
import subprocess
import sys
import warnings

import pytest

from lrsms.quiet import quiet_espnet


def test_nothing_is_printed_within_and_everything_after():
    code = (
        "import os, sys\nfrom lrsms.quiet import nothing_printed\nprint('before')\n"
        "with nothing_printed():\n"
        "    print('within')\n    print('within', file=sys.stderr)\n    os.system('echo of a child')\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("before\nafter\n", "", 0)


@pytest.mark.parametrize("program", ["lrsms.bin", "lrsms.espnet.__main__"])
def test_a_command_imports_espnet_without_a_word_and_hides_nothing_else(program):
    code = (
        f"import sys, {program}\nprint('before')\nimport espnet2.tasks.asr\nprint('after')\n"
        "print('error', file=sys.stderr)\nimport inspect\n"
        "assert 'class ASRTask' in inspect.getsource(espnet2.tasks.asr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("before\nafter\n", "error\n", 0)


def test_an_error_in_espnets_import_is_shown(tmp_path):
    (tmp_path / "espnet2").mkdir()
    (tmp_path / "espnet2" / "__init__.py").write_text("print('hidden')\n")
    (tmp_path / "espnet2" / "broken.py").write_text("print('hidden')\nraise ValueError('shown')\n")
    code = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport lrsms.bin\n"
        "try:\n    import espnet2.broken\nexcept ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("shown\n", "", 0)


def test_espnets_own_lists_of_lengths_are_not_warned_of(caplog):
    from lrsms.espnet.compat import make_pad_mask

    quiet_espnet()
    assert make_pad_mask([1, 2]).tolist() == [[False, True], [False, False]]
    logging.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def test_calling_it_again_changes_nothing():
    quiet_espnet()
    before = (list(sys.meta_path), list(logging.getLogger().filters), list(warnings.filters))
    quiet_espnet()
    assert (sys.meta_path, logging.getLogger().filters, list(warnings.filters)) == before
