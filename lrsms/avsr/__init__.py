"""Audio-visual recognition: frame-synchronous arrays, front-ends, mouth regions, talking mouths, noise."""
