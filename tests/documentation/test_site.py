"""The documentation site."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path):
    for package in ("mkdocs", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the packages of the documentation: pip install 'lrsms[docs]'")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the site is built in a clone: it takes the files that git tracks")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "ranks/index.html", "api/index.html"} <= pages
    assert "repository/egs/grid/asr1/RESULTS/index.html" in pages
    assert "ratio" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")  # from the docstrings
