"""Mouth regions: found, smoothed over time, cropped; clips without a face refused with a reason."""

import cv2
import numpy as np
import pytest

from lrsms.avsr.extract import contact_sheet, extract_all
from lrsms.avsr.mouth import extract_mouth, follow
from lrsms.avsr.video import VideoError, gray_frames


def darkest(regions):
    """Row and column of the dark inside of the mouth, the mean over frames, as shares of the region."""
    dark = regions < np.quantile(regions, 0.04, axis=(1, 2), keepdims=True)
    places = [np.argwhere(frame).mean(axis=0) for frame in dark]
    return np.array(places) / regions.shape[1]


def test_the_mouth_is_in_the_middle_of_the_region_and_its_movement_remains(tmp_path, write_talking_head):
    regions = extract_mouth(write_talking_head(tmp_path / "a.mp4", seconds=2.0))
    assert regions.shape == (50, 96, 96) and regions.dtype == np.uint8
    np.testing.assert_allclose(darkest(regions).mean(axis=0), 0.5, atol=0.12)
    inside = (regions[:, 40:60, 40:56] < 60).mean(axis=(1, 2))  # opens and closes four times a second
    spectrum = np.abs(np.fft.rfft(inside - inside.mean()))
    assert np.fft.rfftfreq(50, 1 / 25)[spectrum.argmax()] == pytest.approx(4.0)


def test_the_region_follows_a_moving_head_smoothly(tmp_path, write_talking_head):
    path = write_talking_head(
        tmp_path / "a.mp4", seconds=2.0, size=320, center=lambda time: (110 + 50 * time, 150 + 10 * np.sin(3 * time))
    )
    track = follow(gray_frames(path))
    times = (np.arange(50) + 0.5) / 25
    np.testing.assert_allclose(track.centers[:, 0], 110 + 50 * times, atol=5)
    assert np.abs(np.diff(track.centers, 2, axis=0)).max() < 1.0  # pixels per frame and frame
    regions = extract_mouth(path)
    places = darkest(regions)
    assert np.ptp(places[:, 1]) < 0.12  # of the region, while the head crosses a third of the picture
    assert track.faces == 1.0 and track.mouths > 0.4


def test_frames_without_a_face_are_interpolated(tmp_path, write_talking_head):
    moving = {"seconds": 2.0, "size": 320, "center": lambda time: (110 + 50 * time, 150)}
    track = follow(gray_frames(write_talking_head(tmp_path / "a.mp4", **moving, hidden=(0.7, 1.3))))
    assert 0.5 < track.faces < 0.9
    np.testing.assert_allclose(track.centers[:, 0], 110 + 50 * (np.arange(50) + 0.5) / 25, atol=8)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"hidden": (0.3, 2)}, "no_face"), ({"hidden": (0, 2)}, "no_face"), ({"face_size": 0.2}, "small_face")],
)
def test_clips_whose_face_cannot_be_followed_are_refused(tmp_path, write_talking_head, options, reason):
    with pytest.raises(VideoError) as caught:
        extract_mouth(write_talking_head(tmp_path / "a.mp4", **options))
    assert caught.value.reason == reason and str(tmp_path / "a.mp4") in str(caught.value)


def test_a_corpus_of_videos_keeps_what_is_done_and_lists_what_is_of_no_use(tmp_path, write_talking_head):
    videos = {name: tmp_path / f"{name}.mp4" for name in ("good", "blank", "broken", "absent")}
    write_talking_head(videos["good"])
    write_talking_head(videos["blank"], hidden=(0, 9))
    videos["broken"].write_bytes(b"broken")
    found, lost = extract_all(videos, tmp_path / "mouth", size=48, num_jobs=2)
    assert list(found) == ["good"] and list(found["good"].shape) == [25, 48, 48] and found["good"].frame_shift == 0.04
    assert {row.id: row.reason for row in lost} == {
        "blank": "no_face", "broken": "unreadable_video", "absent": "missing_video",
    }  # fmt: skip
    stored = tmp_path / "mouth/48/good.npy"
    before = stored.stat().st_mtime_ns
    again, _ = extract_all(videos, tmp_path / "mouth", size=48, num_jobs=1)
    assert again == found and stored.stat().st_mtime_ns == before
    np.testing.assert_array_equal(found["good"].load(), np.load(stored))

    contact_sheet(tmp_path / "sheet.png", found, rows=3, columns=5)
    sheet = cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (14 + 48, 5 * 50)
    np.testing.assert_array_equal(sheet[14:, :48], np.load(stored)[0])


def test_real_faces(real_data):
    path = sorted((real_data / "grid/video/s1").iterdir())[0]
    track = follow(gray_frames(path))
    assert track.faces == 1.0 and track.mouths > 0.7
    assert np.all((track.sides > 55) & (track.sides < 85))
