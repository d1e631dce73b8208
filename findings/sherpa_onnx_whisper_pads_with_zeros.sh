#!/usr/bin/env bash
# sherpa-onnx 2.0.1: what it puts behind a recording for Whisper is zeros, and these are no silence.
#
# Whisper hears 30 s: openai-whisper pads the waveform with silence and takes the log-Mel frames of all of it, where the
# lowest value is 8 decades below the loudest, before (x + 4) / 4. sherpa-onnx takes the frames of the recording,
# normalizes them so, and then adds tail_paddings frames of 0.0, by default (-1) 1,000. A frame of zeros is a sound: 4
# decades below full scale in every band. Silence within the recording is at the floor, not zero. A model that has not
# been fine-tuned to it says other words on some recordings than openai-whisper, with the same weights; a graph can tell
# the padding by its zeros, and replace it.
#
# Here the encoder hands its input on, and the decoder's one word is how many of the frames are nothing but zeros.
#
# Prints:
#   noise, tail_paddings=-1: 1000 frames of zeros
#   noise, tail_paddings=300: 300 frames of zeros
#   noise, tail_paddings=1200: 1200 frames of zeros
#   noise with 2 s of silence, tail_paddings=-1: 1000 frames of zeros
#   noise with 2 s of silence, tail_paddings=300: 300 frames of zeros
#   noise with 2 s of silence, tail_paddings=1200: 1200 frames of zeros
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"

"${folder}/venv/bin/pip" install -q sherpa-onnx==2.0.1 onnx==1.23.2 numpy==2.4.6
cat > "${folder}/padding.py" <<'PYTHON'
"""A Whisper that says what it is given: how many frames are nothing but zeros, and whether silence is among them."""
import base64
import sys
from pathlib import Path

import numpy as np
import onnx
import sherpa_onnx
from onnx import TensorProto, helper

MELS, VOCABULARY, CONTEXT = 80, 40, 16
EOT, SOT, NO_TIMESTAMPS = 30, 31, 32
WORDS = [f" {100 * number}" for number in range(20)] + [" one-level"]  # tokens 0 to 19, and 20


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def constant(name, value, dtype):
    return helper.make_tensor(name, dtype, np.shape(value), np.ravel(value).tolist())


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path, nodes, inputs, outputs, constants, metadata=()):
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, content in dict(metadata).items():
        model.metadata_props.add(key=key, value=str(content))
    onnx.save(model, path)


def write(folder):
    """The encoder hands the frames on; the decoder's first token is how many hundreds of them are zeros."""
    about = {
        "model_type": "whisper-tiny.en", "version": "1", "maintainer": "k2-fsa", "n_mels": MELS, "n_audio_ctx": 1500,
        "n_audio_state": MELS, "n_audio_head": 1, "n_audio_layer": 1, "n_vocab": VOCABULARY, "n_text_ctx": CONTEXT,
        "n_text_state": MELS, "n_text_head": 1, "n_text_layer": 1, "sot_sequence": str(SOT), "sot": SOT, "sot_index": 0,
        "eot": EOT, "blank_id": 21, "is_multilingual": 0, "no_speech": 33, "non_speech_tokens": "22", "transcribe": 34,
        "translate": 35, "sot_prev": 36, "sot_lm": 37, "no_timestamps": NO_TIMESTAMPS, "all_language_tokens": "38",
        "all_language_codes": "en",
    }
    save(
        folder / "encoder.onnx",
        [
            node("Transpose", "mel", "frames", perm=[0, 2, 1]),
            node("Unsqueeze", "frames zero", "n_layer_cross_k"),
            node("Identity", "n_layer_cross_k", "n_layer_cross_v"),
        ],
        [value("mel", [1, MELS, "T"])],
        [value(f"n_layer_cross_{name}", [1, 1, "T", MELS]) for name in "kv"],
        [constant("zero", [0], TensorProto.INT64)],
        about,
    )
    caches = ["in_n_layer_self_k_cache", "in_n_layer_self_v_cache"]
    save(
        folder / "decoder.onnx",
        [
            node("Abs", "n_layer_cross_k", "size"),
            node("ReduceMax", "size", "loudest", axes=[3], keepdims=0),
            node("Cast", "loudest", "sounds", to=TensorProto.BOOL),
            node("Not", "sounds", "zeros"),
            node("Cast", "zeros", "numbers", to=TensorProto.INT64),
            node("ReduceSum", "numbers", "count", keepdims=0),
            node("Div", "count hundred", "hundreds"),
            node("Greater", "offset zero", "later"),  # behind the prompt, the text is done
            node("Where", "later eot hundreds", "chosen"),
            node("OneHot", "chosen vocabulary onoff", "hot"),
            node("Shape", "tokens", "shape"),
            node("Concat", "shape vocabulary", "wanted", axis=0),
            node("Expand", "hot wanted", "logits"),
            *(node("Identity", name, name.replace("in_", "out_", 1)) for name in caches),
        ],
        [
            value("tokens", [1, "L"], TensorProto.INT64),
            *(value(name, [1, 1, CONTEXT, MELS]) for name in caches),
            *(value(f"n_layer_cross_{name}", [1, 1, "T", MELS]) for name in "kv"),
            value("offset", [1], TensorProto.INT64),
        ],
        [
            value("logits", [1, "L", VOCABULARY]),
            *(value(name.replace("in_", "out_", 1), [1, 1, CONTEXT, MELS]) for name in caches),
        ],
        [
            constant("hundred", [100], TensorProto.INT64), constant("zero", [0], TensorProto.INT64),
            constant("eot", [EOT], TensorProto.INT64), constant("vocabulary", [VOCABULARY], TensorProto.INT64),
            constant("onoff", [0.0, 1.0], TensorProto.FLOAT),
        ],
    )
    lines = [f"{base64.b64encode(word.encode()).decode()} {number}\n" for number, word in enumerate(WORDS)]
    (folder / "tokens.txt").write_text("".join(lines))


def zero_frames(folder, speech, padding):
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
        *(str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "tokens.txt")), tail_paddings=padding
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, speech)
    recognizer.decode_stream(stream)
    return stream.result.text.strip()


folder = Path(sys.argv[1])
write(folder)
noise = np.random.default_rng(0).standard_normal(4 * 16000).astype(np.float32) * 0.1
quiet = noise.copy()
quiet[16000 : 3 * 16000] = 0  # two seconds of silence in the middle
for name, speech in (("noise", noise), ("noise with 2 s of silence", quiet)):
    for padding in (-1, 300, 1200):
        print(f"{name}, tail_paddings={padding}: {zero_frames(folder, speech, padding)} frames of zeros", flush=True)
PYTHON
"${folder}/venv/bin/python" "${folder}/padding.py" "${folder}" 2> "${folder}/errors" > "${folder}/found" ||
  { cat "${folder}/errors" && exit 1; }
sed -n 's/^#   //p' "$0" | diff - "${folder}/found"
cat "${folder}/found"
