"""Models and data for measurements where nothing has been trained."""
