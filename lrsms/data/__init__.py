"""Corpora to Lhotse manifests, manifests to cuts, transcripts to tokens."""
