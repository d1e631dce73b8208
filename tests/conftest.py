"""Fixtures of the whole suite."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Recipes first: with a process on each core, the longest file must not be what all others wait for at the end."""
    items.sort(key=lambda item: "recipes" not in item.path.parts)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def run_module() -> Callable:
    """``run_module(name, *options, cwd=...)``: what ``python -m name options`` gives, run by this process.

    For a verb that trains nothing: it imports nothing anew. What the operating system shows of a process (signals,
    children, what is imported) needs one of its own.
    """

    def run(name: str, *options, cwd: Path) -> subprocess.CompletedProcess:
        command, status, out, err = [name, *map(str, options)], 0, io.StringIO(), io.StringIO()
        with mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:  # a verb may set variables
            patch.chdir(cwd)
            patch.setattr(sys, "argv", command)
            patch.delitem(sys.modules, name, raising=False)  # runpy warns of a module that has been imported
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    runpy.run_module(name, run_name="__main__")
                except SystemExit as stop:
                    status = stop.code or 0
        return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``waves_yesno``, ``speechocean762`` and ``grid`` beside the repository; skips where it is not."""
    folder = Path(os.environ.get("LRSMS_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "waves_yesno").is_dir():
        pytest.skip(
            f"no real speech at {folder}; set LRSMS_REAL_DATA to a folder with waves_yesno, speechocean762, grid"
        )
    return folder


@pytest.fixture(scope="session")
def k2():
    """The package; skips where it is not installed."""
    return pytest.importorskip("k2", reason="k2 is not installed; docs/k2.md says how to build it")


@pytest.fixture(scope="session")
def write_talking_head():
    """``write(path, ...)``: an MP4 of a drawn face that the cascades find, its mouth opening four times a second.

    Args of ``write``: ``seconds``, ``rate`` (frames per second), ``size`` (pixels of a square frame), ``center`` (of
    the face, as a function of time in seconds), ``hidden`` (seconds without a face), ``sound`` (a track of
    16 kHz), ``face_size`` (1 for 116 pixels of width).
    """
    import av
    import cv2
    import numpy as np

    def face(size, center, opening, scale):
        picture = np.full((size, size), 70, np.float32)

        def ellipse(x, y, wide, high, gray):
            place = (int(center[0] + x * scale), int(center[1] + y * scale))
            axes = (max(1, int(wide * scale)), max(1, int(high * scale)))
            cv2.ellipse(picture, place, axes, 0, 0, 360, float(gray), -1, cv2.LINE_AA)

        ellipse(0, 0, 58, 76, 185)
        ellipse(0, -66, 56, 26, 40)  # hair
        for side in (-1, 1):
            ellipse(side * 25, -22, 17, 5, 110)
            ellipse(side * 25, -12, 15, 8, 90)
            ellipse(side * 25, -12, 5, 5, 20)
        ellipse(0, 0, 6, 22, 205)  # nose
        for side in (-1, 1):
            ellipse(side * 7, 20, 4, 3, 110)
        ellipse(0, 42, 24, 6 + 10 * opening, 90)  # lips
        ellipse(0, 42, 17, 1 + 12 * opening, 30)
        return cv2.GaussianBlur(picture, (0, 0), 1.5 * scale).astype(np.uint8)

    def write(
        path,
        *,
        seconds=1.0,
        rate=25,
        size=240,
        center=lambda time: (120, 110),
        hidden=(0, 0),
        sound=True,
        face_size=1.0,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            video = container.add_stream("mpeg4", rate=rate)
            video.width = video.height = size
            video.pix_fmt, video.bit_rate = "yuv420p", 2_000_000
            audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
            for index in range(round(seconds * rate)):
                time = (index + 0.5) / rate
                opening = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time)
                picture = face(size, center(time), opening, face_size)
                if hidden[0] <= time < hidden[1]:
                    picture[:] = 70
                frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if audio is not None:
                tone = 0.3 * np.sin(np.arange(round(seconds * 16000)) * 2 * np.pi * 440 / 16000)
                samples = (tone * 32767).astype(np.int16)
                for begin in range(0, len(samples), 1024):
                    frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + 1024], format="s16", layout="mono")
                    frame.sample_rate, frame.pts = 16000, begin
                    container.mux(audio.encode(frame))
                container.mux(audio.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory) -> Path:
    """Folder of a Whisper model of random weights that knows bytes, English and German, in transformers' layout."""
    return _random_whisper(tmp_path_factory.mktemp("tiny_whisper"), [])


@pytest.fixture(scope="session")
def whisper_of_words(tmp_path_factory) -> Path:
    """The same with tokens for `` cat``, `` dog``, `` do`` and their parts."""
    merges = [(SPACE, "c"), (SPACE, "d"), (f"{SPACE}d", "o"), (f"{SPACE}do", "g"), ("a", "t"), (f"{SPACE}c", "at")]
    return _random_whisper(tmp_path_factory.mktemp("whisper_of_words"), merges)


SPACE = "\u0120"  # as GPT-2's tokenizers write it


def _random_whisper(folder: Path, merges: list[tuple[str, str]]) -> Path:
    pytest.importorskip("safetensors")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    from lrsms.whisper.dimensions import Dimensions
    from lrsms.whisper.model import AudioEncoder, TextDecoder
    from lrsms.whisper.write import write_transformers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [(SPACE, "-"), (SPACE, "'"), *merges]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = "endoftext startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps"
    tokenizer.add_special_tokens([f"<|{name}|>" for name in special.split()])
    tokenizer.save(str(folder / "saved.json"))
    sizes = Dimensions(16, 600, 16, 2, 2, tokenizer.get_vocab_size() + 1501, 160, 16, 2, 2)
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"encoder": AudioEncoder(sizes), "decoder": TextDecoder(sizes)})
    write_transformers(folder, sizes, model.state_dict(), folder / "saved.json")
    return folder
