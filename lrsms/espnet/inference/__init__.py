"""Stage 4 and transcription: models opened, searched and aligned."""
