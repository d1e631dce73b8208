"""The clock of stored video: mouth regions come 25 times a second."""

FRAME_RATE = 25  # per second
FRAME_SHIFT = 1 / FRAME_RATE  # seconds
TOLERANCE = 0.2  # seconds by which audio may be longer or shorter than video
