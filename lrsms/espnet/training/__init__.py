"""Stage 3: a training through ESPnet's task and trainer."""
