"""The search of all our decoding with exported networks in it: what is compared is the networks, not two searches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from torch import nn

from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.export.onnx import OnnxModel
from lrsms.espnet.inference.open import open_recognizer
from lrsms.onnx.files import open_session


def open_onnx_recognizer(
    experiment: Experiment, options: Mapping, model: OnnxModel, precision: str, threads: int = 1
) -> Speech2Text:
    """ESPnet's ``Speech2Text`` whose encoder, CTC and decoder are onnxruntime's.

    Its front-end stays torch's. If the decoder is not exported, only the best CTC path is without torch.

    Args:
        experiment, options: as in :func:`lrsms.espnet.inference.open.open_recognizer`.
        model: the exported files, of form ``onnx``.
        precision: of its files.
        threads: of onnxruntime.
    """
    recognizer = open_recognizer(experiment, options)
    assert isinstance(recognizer, Speech2Text)
    asr_model = recognizer.asr_model
    asr_model.ctc = ctc = _OnnxCtc()
    session = open_session(model.encoder_file(precision), threads)

    def encode(self, speech: torch.Tensor, speech_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, lengths = self._extract_feats(speech, speech_lengths)
        inputs = {"x": features.numpy(), "x_lens": lengths.long().numpy()}
        log_probs, counts, encoded = map(torch.from_numpy, session.run(None, inputs))
        ctc.log_probs = log_probs[:, : int(counts.max())]
        return encoded[:, : int(counts.max())], counts

    asr_model.encode = MethodType(encode, asr_model)
    search = recognizer.beam_search
    if "ctc" in search.part_scorers:
        search.part_scorers["ctc"].ctc = ctc
    if model.decoder and "decoder" in search.full_scorers:
        decoder = _OnnxDecoder(open_session(model.decoder_file(precision), threads))
        search.scorers["decoder"] = search.full_scorers["decoder"] = decoder
    return recognizer


class _OnnxCtc(nn.Module):
    """CTC's output of the utterance that was encoded last."""

    log_probs: torch.Tensor

    def log_softmax(self, _) -> torch.Tensor:
        return self.log_probs

    def argmax(self, _) -> torch.Tensor:
        return self.log_probs.argmax(dim=-1)


class _OnnxDecoder:
    """A scorer of ESPnet's batched beam search; a state is what a hypothesis has in the graph's cache."""

    def __init__(self, session):
        self.session = session
        shape = next(value for value in session.get_inputs() if value.name == "cache").shape
        self.layers, self.size = shape[0], shape[3]

    def init_state(self, x: torch.Tensor) -> None:
        return None

    def batch_init_state(self, x: torch.Tensor) -> None:
        return None

    def select_state(self, state, i: int, new_id: int | None = None):
        return None if state is None else state[i]

    def final_score(self, state) -> float:
        return 0.0

    def score(self, y: torch.Tensor, state, x: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        scores, states = self.batch_score(y[None], [state], x[None])
        return scores[0], states[0]

    def batch_score(self, ys: torch.Tensor, states: list, xs: torch.Tensor) -> tuple[torch.Tensor, list]:
        if states[0] is None:
            cache = np.zeros((self.layers, len(ys), 0, self.size), np.float32)
        else:
            cache = np.stack(states, axis=1)
        inputs = {"tokens": ys.numpy(), "cache": cache, "encoder_out": xs[:1].numpy()}
        log_probs, following = self.session.run(None, inputs)
        return torch.from_numpy(log_probs), [following[:, number] for number in range(len(ys))]
