"""Factoring any torch model: what can be factored, at which rank, and the proof that it is right."""
