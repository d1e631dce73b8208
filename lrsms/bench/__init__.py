"""Benchmarks: what ``python -m lrsms.bin.bench`` measures, each a table, a JSON file and a picture."""
