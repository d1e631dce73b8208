"""k2 where it is installed."""

import pytest


@pytest.fixture(scope="session")
def k2():
    """The package; skips where it is not installed."""
    return pytest.importorskip("k2", reason="k2 is not installed; docs/k2.md says how to build it")
