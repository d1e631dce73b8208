"""Whisper (Radford et al. 2022) in plain torch: its files, model, tokens and search. Knows no ESPnet."""
