"""Every command of README.md, docs/ and the recipes' READMEs, run as it is written in a clone (see doc_clone.py).

    utils/test.sh -m slow -n 0 -s --no-cov tests/documentation
    LRSMS_AVAILABLE="network, k2" utils/test.sh ...      also those behind these markers

-s shows each command with its seconds as it ends, and what was skipped, with the reason.
"""

import os
from pathlib import Path

import pytest
from doc_blocks import NEEDS, read_blocks
from doc_clone import Clone
from doc_run import run_file

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/*/README.md")])


@pytest.fixture(scope="session")
def available() -> frozenset[str]:
    """What LRSMS_AVAILABLE says this machine has of the things that markers name."""
    found = frozenset(filter(None, (part.strip() for part in os.environ.get("LRSMS_AVAILABLE", "").split(","))))
    assert found <= NEEDS.keys(), f"LRSMS_AVAILABLE: expected some of {', '.join(NEEDS)}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_command_succeeds(path, tmp_path, write_talking_head, available):
    blocks = read_blocks(path, str(path.relative_to(ROOT)))
    if not any(block.commands for block in blocks):
        pytest.skip("it shows no command")
    report = run_file(blocks, Clone(tmp_path, write_talking_head), available)
    for row in report.skipped:
        print(f"skipped    {row}")
    assert not report.failed, "\n".join(report.failed)
