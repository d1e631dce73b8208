"""How helper processes are started, and what they are given."""

import multiprocessing
import sys
import time
from multiprocessing import forkserver

import pytest
import torch

from lrsms.processes import helpers, one_thread, start_context


@pytest.fixture(autouse=True)
def own_server():
    """A process has one server, which has imported what was asked for first: other tests want ESPnet in it."""
    yield
    forkserver._forkserver._stop()


def test_processes_on_a_gpu_start_from_nothing_and_others_from_a_server():
    assert start_context("lrsms.errors", on_gpu=True).get_start_method() == "spawn"
    assert start_context("lrsms.errors", on_gpu=False).get_start_method() == "forkserver"


def test_one_thread_is_for_the_context_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_helper_that_fails_is_named(capsys):
    with helpers(1, sys.exit, 3):
        wait_for_children()
    assert "ended with status 3; its work was done here" in capsys.readouterr().err


def test_helpers_that_end_well_or_are_not_needed_any_more_are_not(capsys):
    with helpers(1, sys.exit, 0):
        wait_for_children()
    with helpers(1, time.sleep, 600):
        pass
    wait_for_children()
    assert not capsys.readouterr().err


def wait_for_children() -> None:
    for process in multiprocessing.active_children():
        process.join(60)
