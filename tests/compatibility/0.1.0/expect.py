"""Write down what release 0.1.0 makes of its own files: expected.json, and the text parts of a decoding graph."""

import json
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask

import lrsms.espnet  # noqa: F401
from lrsms import Recognizer
from lrsms.data.tokens import Tokens, transcripts
from lrsms.fsa.graph import _write_texts
from lrsms.fsa.lexicon import make_lexicon
from lrsms.fsa.ngram import estimate

torch.set_num_threads(1)
AUDIO, CHECKPOINT = "data/audio/dev/digits-dev-000001.flac", "valid.acc.ave.pth"


def encoded(folder: str) -> list[float]:
    """The last frame that the encoder makes of half a second of a tone."""
    model, _ = ASRTask.build_model_from_file(f"{folder}/config.yaml", f"{folder}/{CHECKPOINT}")
    tone = torch.sin(torch.arange(4000) / 5.0)[None] / 2
    with torch.no_grad():
        output, _ = model.eval().encode(tone, torch.tensor([4000]))
    return [round(value, 5) for value in output[0, -1].tolist()]


def heard(model: str) -> dict:
    """Text, and words with their times."""
    transcript = Recognizer(model, decode="decode.yaml")(AUDIO)
    return {
        "text": transcript.text,
        "words": [[word.word, round(word.start, 3), round(word.end, 3)] for word in transcript.words],
    }


folders = ("exp/tiny", "exp/tiny_compressed/iter1")
expected = {folder: {**heard(folder), "encoded": encoded(folder)} for folder in folders}
expected["exp/tiny/export/pack/tiny.zip"] = heard("exp/tiny/export/pack/tiny.zip")
Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")

lang = Path("data/lang_char")
sentences = [text.split() for text in transcripts(Path("data/train/cuts.jsonl.gz"))]
counts = {}
for word in (word for words in sentences for word in words):
    counts[word] = counts.get(word, 0) + 1
graph = lang / "hlg_3gram"
graph.mkdir(exist_ok=True)
_write_texts(graph, estimate(sentences, 3), make_lexicon(counts, Tokens.load(lang)))
