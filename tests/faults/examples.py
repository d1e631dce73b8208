"""How many inputs hypothesis makes for each property: few in the suite, LRSMS_FAULTS_EXAMPLES of them if it is set."""

import os

import pytest

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
fuzz = hypothesis.settings(
    max_examples=int(os.environ.get("LRSMS_FAULTS_EXAMPLES", 100)),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
