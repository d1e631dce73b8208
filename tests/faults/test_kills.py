"""Kills at random moments of every stage, and of a training of two processes."""

import json

import pytest
from kill_loop import kill_loop, stages, write_table


@pytest.mark.slow
def test_the_same_command_goes_on_after_any_kill(tmp_path):
    found = kill_loop(kills=40, in_a_row=4)
    assert found.keys() == {stage.name for stage in stages()}
    table = write_table(found, tmp_path)
    for name, counts in found.items():
        assert counts["kills"] and counts["runs to the end"], name
        assert not any(counts[key] for key in ("lost", "wrong", "waiting", "left", "litter", "traces")), table
    assert json.loads((tmp_path / "kills.json").read_text())["stages"].keys() == found.keys()
