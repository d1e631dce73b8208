"""What an experiment's folder and a pack hold, read as data."""
