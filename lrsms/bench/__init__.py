"""Benchmarks: what ``python -m lrsms.bin.bench`` measures, each a table, a JSON file and a picture."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"  # sizes, and what is compared in them: see lrsms.bench.sizes
