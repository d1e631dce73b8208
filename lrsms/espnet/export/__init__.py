"""Stage 8: trained models for other programs."""
