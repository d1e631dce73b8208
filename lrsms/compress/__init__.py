"""Compress a trained model: search ranks, truncate, fine-tune, repeat. Knows torch and Optuna, no toolkit."""
