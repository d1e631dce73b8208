"""A tiny corpus, its configuration and one trained experiment: the fixtures of tests/espnet.

Generated inputs are the same in every run; ``HYPOTHESIS_PROFILE=thorough`` makes thirty times as many.
"""

import importlib.util
import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

for _name, _count in (("quick", 50), ("thorough", 1500)):
    settings.register_profile(
        _name, max_examples=_count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file

_path = Path(__file__).parents[1] / "espnet" / "conftest.py"
_spec = importlib.util.spec_from_file_location("espnet_fixtures", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})
