"""Batches for ESPnet's trainer, straight from Lhotse cuts."""
