"""Stage 6: what the compression loop needs of ESPnet's models."""
