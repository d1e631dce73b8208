"""Video files as frames on the clock of their sound."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lrsms.avsr.video import VideoError, gray_frames


def write(path, levels, rate=25, times=None, start=0.0):
    """One plain frame of each gray level; ``times`` are those of the frames in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate).limit_denominator(1001))
        stream.width = stream.height = 64
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), format="rgb24")
            frame.pts = round(1000 * (start + (times[index] if times else index / rate)))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def levels_of(path):
    return [round(float(frame.mean()) / 10) for frame in gray_frames(path)]


def test_frames_at_25_per_second_come_as_they_are(tmp_path):
    found = levels_of(write(tmp_path / "a.mp4", [20, 60, 100, 140, 180, 220] * 4))
    assert found == [2, 6, 10, 14, 18, 22] * 4


@pytest.mark.parametrize("rate", [50, 30, 29.97])
def test_other_rates_are_sampled_at_the_middle_of_each_frame(tmp_path, rate):
    seconds = 2
    count = round(seconds * rate)
    path = write(tmp_path / "a.mp4", [20 + 2 * index for index in range(count)], rate)
    frames = [float(frame.mean()) for frame in gray_frames(path)]
    assert len(frames) == 50
    shown = [int((index + 0.5) / 25 * rate) for index in range(50)]
    np.testing.assert_allclose(frames, [20 + 2 * index for index in shown], atol=4)


def test_a_gap_between_frames_is_filled_with_the_frame_before(tmp_path):
    times = [index / 25 + (0.12 if index >= 10 else 0) for index in range(24)]
    found = levels_of(write(tmp_path / "a.mp4", [20 + 40 * (index % 5) for index in range(24)], times=times))
    levels = [2 + 4 * (index % 5) for index in range(24)]
    assert found == [*levels[:10], *[levels[9]] * 3, *levels[10:]]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "missing_video"),
        (lambda path: path.write_bytes(b"not a video at all" * 100), "unreadable_video"),
        (lambda path: path.write_bytes(b""), "unreadable_video"),
        (lambda path: write(path, [100] * 20, rate=10), "wrong_fps"),
    ],
)
def test_videos_of_no_use_say_why(tmp_path, make, reason):
    path = tmp_path / "bad.mp4"
    make(path)
    with pytest.raises(VideoError) as caught:
        list(gray_frames(path))
    assert caught.value.reason == reason and str(path) in str(caught.value)


def test_a_sound_file_has_no_video_track(tmp_path, write_talking_head):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError) as caught:
        list(gray_frames(tmp_path / "a.mp4"))
    assert caught.value.reason == "no_video_track"


def test_a_file_cut_off_in_the_middle_is_not_taken_for_a_short_video(tmp_path):
    """An index at the front, as videos for streaming have it, still opens when the end is missing."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(50):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError) as caught:
        list(gray_frames(path))
    assert caught.value.reason in ("truncated_video", "unreadable_video")
