"""Stage 4 with k2: CTC alone, CTC with lexicon and n-gram, and the lattice's hypotheses rescored by the decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from lrsms.data.tokens import lang_dir
from lrsms.defaults import recipe_token_types
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.fsa import import_k2
from lrsms.fsa.compile_hlg import make_graph
from lrsms.fsa.graph import GRAPH, Graph, check_tokens
from lrsms.fsa.lang import MODEL, graph_folder
from lrsms.fsa.lattice import LatticePath, LatticeSearch
from lrsms.fsa.ngram import NGram, read_arpa
from lrsms.fsa.options import K2_RESCORING, WITH_GRAPH, K2Options


@dataclass(frozen=True)
class LatticeDecoding:
    """What k2 decodes with.

    Attributes:
        method: one of ``k2_ctc``, ``k2_hlg``, ``k2_attention_rescoring``.
        options: beams and weights.
        experiment: of the model.
        data_dir: folder with stage 2's, of the model's tokens.
        train_splits: names in it; their text makes the lexicon and the language model.
    """

    method: str
    options: K2Options
    experiment: Experiment
    data_dir: Path
    train_splits: Sequence[str]

    def check(self) -> None:
        """Find what is missing before anything is computed.

        Raises:
            LrsmsError: k2 is missing, the model has no CTC or, for rescoring, no attention decoder, or stage 2 has made
                no or other tokens.
        """
        import_k2(f"--decode-method {self.method}")
        config_file, weight = self.experiment.config_file, self.experiment.ctc_weight
        decoder = self.experiment.config.get("decoder")
        if weight == 0:
            raise LrsmsError(
                f"{config_file}: model_conf.ctc_weight: {weight}: the model has no CTC, which --decode-method "
                f"{self.method} searches; decode it with ctc_attention"
            )
        if self.method == K2_RESCORING and (weight == 1 or decoder in (None, "transducer")):
            raise LrsmsError(
                f"{config_file}: model_conf.ctc_weight: {weight}, decoder: {decoder}: the model has no "
                f"attention decoder, which --decode-method {self.method} rescores with; decode it with k2_hlg"
            )
        if self.method in WITH_GRAPH:
            self.lang()

    def lang(self) -> Path:
        """Folder of stage 2 with the model's tokens.

        Raises:
            LrsmsError: there is none, or its tokens are others.
        """
        tokens, config_file = self.experiment.token_list, self.experiment.config_file
        kinds = recipe_token_types(str(self.experiment.token_type))
        folders = [lang_dir(self.data_dir, kind, len(tokens)) for kind in kinds]
        by_file = {path: _tokens(path) for folder in folders if (path := folder / "tokens.txt").exists()}
        if not by_file:
            absent = folders[0] / "tokens.txt"
            raise LrsmsError(f"{absent}: not found; run stage 2 with the token type of {config_file}")
        for path, of_graph in by_file.items():
            if of_graph == tokens:
                return path.parent
        path, of_graph = next(iter(by_file.items()))
        check_tokens(tokens, config_file, of_graph, path)
        raise AssertionError("unreachable: the lists differ")

    @property
    def train_cuts(self) -> list[Path]:
        """Manifests of the training splits."""
        return [self.data_dir / split / "cuts.jsonl.gz" for split in self.train_splits]

    @property
    def arpa(self) -> Path | None:
        """The language model that is given, if any."""
        return Path(self.options.arpa) if self.options.arpa else None

    @property
    def inputs(self) -> list[Path]:
        """Files that the hypotheses depend on beside model, cuts and config."""
        if self.method not in WITH_GRAPH:
            return []
        return [self.lang() / "tokens.txt", *self.train_cuts, *([self.arpa] if self.arpa else [])]

    @property
    def graph(self) -> Path | None:
        """Folder of the graph; None if the method has none."""
        return graph_folder(self.lang(), self.options.ngram_order, self.arpa) if self.method in WITH_GRAPH else None

    def prepare(self) -> None:
        """Make the graph, if the method has one and it is not made yet."""
        if self.method in WITH_GRAPH:
            make_graph(self.lang(), self.train_cuts, order=self.options.ngram_order, arpa=self.arpa)


def _tokens(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def outside_lexicon(folder: Path, experiment: Experiment, texts: Iterable[str]) -> Counter:
    """Words of ``texts`` that the graph in ``folder`` cannot say, with how often they occur."""
    graph = Graph.load(folder / GRAPH, experiment.token_list, experiment.config_file)
    counts = Counter(word for text in texts for word in text.split())
    return Counter({word: count for word, count in counts.items() if word not in graph.lexicon.spellings})


class Scored(NamedTuple):
    """A hypothesis as ESPnet's search returns it, as far as it is read."""

    score: float


class LatticeRecognizer:
    """Called as ESPnet's ``Speech2Text``, and searching with k2.

    Args:
        recognizer: ESPnet's, whose model is used.
        experiment: of the model.
        method: one of ``k2_ctc``, ``k2_hlg``, ``k2_attention_rescoring``.
        options: beams and weights.
        graph: folder of :func:`lrsms.fsa.compile_hlg.make_graph`; None for ``k2_ctc``.

    Raises:
        LrsmsError: k2 or the graph is missing, or the graph is one of other tokens.
    """

    def __init__(
        self, recognizer: Speech2Text, experiment: Experiment, method: str, options: K2Options, graph: Path | None
    ) -> None:
        self.recognizer, self.model, self.options = recognizer, recognizer.asr_model, options
        self.rescores = method == K2_RESCORING
        self.tokenizer = experiment.tokenizer
        loaded = Graph.load(graph / GRAPH, experiment.token_list, experiment.config_file) if graph else None
        self.language: NGram | None = read_arpa(graph / MODEL) if graph and self.rescores else None
        self.search = LatticeSearch(loaded, len(experiment.token_list), options=options, device=recognizer.device)

    @torch.inference_mode(False)  # k2 has autograd functions of its own
    @torch.no_grad()
    def __call__(self, speech: np.ndarray) -> list[tuple[str, list[str], list[int], Scored]]:
        """Text, tokens, their numbers and score of the best hypothesis.

        Args:
            speech: ``(samples,)``, or what an audio-visual model takes.

        Returns:
            One entry; its text is empty if the beams leave no path through the graph.
        """
        speech = torch.as_tensor(speech, dtype=torch.float32, device=self.recognizer.device)[None]
        encoded, lengths = self.model.encode(speech, torch.tensor([speech.shape[1]], device=speech.device))
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded  # intermediate CTC's outputs beside it
        scores = self.model.ctc.log_softmax(encoded)[0].float()
        if self.rescores:
            path, score = self._rescored(self.search.nbest(scores), encoded, lengths, scores)
        else:
            path = self.search.best(scores)
            score = path.score if path else 0.0
        if path is None:
            return [("", [], [], Scored(0.0))]
        tokens = [self.tokenizer.token_list[number] for number in path.token_ids]
        text = " ".join(path.words) if self.search.has_words else self.tokenizer.decode(path.token_ids)
        return [(text, tokens, path.token_ids, Scored(score))]

    def _rescored(
        self, paths: list[LatticePath], encoded: torch.Tensor, lengths: torch.Tensor, scores: torch.Tensor
    ) -> tuple[LatticePath | None, float]:
        """The best of ``paths`` by the weighted sum of CTC, attention decoder and language model."""
        if not paths:
            return None, 0.0
        option = self.options
        spelled = [torch.tensor(path.token_ids, device=encoded.device, dtype=torch.long) for path in paths]
        total = option.ctc_weight * ctc_scores(scores, spelled)
        total = total + option.attention_weight * self._attention_scores(encoded, lengths, spelled)
        assert self.language is not None
        said = torch.tensor([self.language.score(path.words) for path in paths], device=total.device)
        total = total + option.lm_weight * said
        best = int(total.argmax())
        return paths[best], float(total[best])

    def _attention_scores(
        self, encoded: torch.Tensor, lengths: torch.Tensor, hypotheses: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """``(hypotheses,)`` log-probabilities by the decoder, ends of sentences included."""
        padded = pad_sequence(list(hypotheses), batch_first=True, padding_value=self.model.ignore_id)
        sizes = torch.tensor([len(ids) for ids in hypotheses], device=encoded.device)
        scores = []
        for part in range(0, len(hypotheses), self.options.batch_size):
            rows = slice(part, part + self.options.batch_size)
            count = len(sizes[rows])
            widest = int(sizes[rows].max())
            scores.append(
                -self.model.nll(
                    encoded.expand(count, -1, -1), lengths.expand(count), padded[rows, :widest], sizes[rows]
                )
            )
        return torch.cat(scores)


def ctc_scores(scores: torch.Tensor, hypotheses: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of token sequences by CTC, summed over all alignments.

    Args:
        scores: ``(frames, tokens)`` log-probabilities, blank first.
        hypotheses: token ids of each.

    Returns:
        ``(hypotheses,)``; -inf for one that has no alignment.
    """
    count, frames = len(hypotheses), len(scores)
    sizes = torch.tensor([len(ids) for ids in hypotheses])
    return -ctc_loss(
        scores[:, None].expand(-1, count, -1), torch.cat(list(hypotheses)), torch.full((count,), frames), sizes,
        blank=0, reduction="none",
    )  # fmt: skip


def about(method: str, options: Mapping) -> dict:
    """Entries of ``decode.json`` on a decoding with k2."""
    import_k2(method)
    return {"decode_method": method, "k2": dict(options), "k2_version": import_module("k2.version").__version__}
