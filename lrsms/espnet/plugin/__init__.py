"""What is put into ESPnet: our classes, the guard around its loading, and the hooks of its optimizers."""
