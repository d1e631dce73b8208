"""ESPnet's models in low-rank form: which layers have which role, what they cost, which ranks a target asks for."""
