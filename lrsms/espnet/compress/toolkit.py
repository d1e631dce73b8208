"""Stage 6: what the compressor's loop needs, done with ESPnet experiments."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from lrsms.compress.calibration import load_moments, save_moments
from lrsms.compress.config import CompressConfig
from lrsms.compress.factors import FactorCache, SlicedModel
from lrsms.compress.iterate import Errors, OutOfReach, refuse_if_reached
from lrsms.compress.rehearsal import parameters_saved
from lrsms.compress.search import Search
from lrsms.compress.search_set import SearchSet, choose
from lrsms.compress.space import Layer, SearchSpace
from lrsms.data.tokens import transcripts
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import relink
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compat import current_paths
from lrsms.espnet.compress.bands import Factors, states_before, tied_table, write_banded
from lrsms.espnet.compress.evaluator import Evaluator
from lrsms.espnet.compress.inputs import check_inputs
from lrsms.espnet.compress.model import Compressible, Utterance
from lrsms.espnet.config import read_yaml
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.models.ctc_rank import block_ranks
from lrsms.espnet.training.run import Training
from lrsms.espnet.training.untrained import summarize_untrained
from lrsms.files import write_json, write_text
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.moments import input_moments
from lrsms.lowrank.tied import tied_outputs
from lrsms.processes import helpers, one_thread
from lrsms.scoring.alignment import to_words
from lrsms.scoring.decoding import score_decoding

# What of an experiment's config.yaml says how to build and train the model again.
_MODEL_KEYS = (
    *("encoder", "encoder_conf", "decoder", "decoder_conf", "ctc_conf", "model", "model_conf", "input_size"),
    *("frontend", "frontend_conf", "specaug", "specaug_conf", "normalize", "normalize_conf"),
    *("preencoder", "preencoder_conf", "postencoder", "postencoder_conf", "joint_net_conf", "preprocessor_conf"),
)
_TRAINING_KEYS = (
    *("optim", "optim_conf", "grad_clip", "grad_clip_type", "accum_grad", "max_duration", "num_buckets", "num_workers"),
    *("best_model_criterion", "keep_nbest_models", "use_amp", "num_att_plot", "log_interval", "av_conf"),
)
_OPEN_SEARCH, _FINISHED = "search.json", "finished"  # what workers look for in the root
_POLL_SECONDS = 2


@dataclass
class EspnetToolkit:
    """A :class:`lrsms.compress.iterate.Toolkit`.

    Attributes:
        config: options.
        root: folder of the iterations.
        original: the experiment that is compressed: reference, and teacher.
        data_dir: holds ``<split>/cuts.jsonl.gz``.
        train_split, valid_split: to fine-tune on, and to search and accept on.
        test_splits: never looked at; named so that a config cannot.
        decode_config: of the full decoding.
        checkpoint: file name in every experiment.
        nj: decoding processes.
        ngpu: for fine-tuning and decoding.
        storage: URL of an Optuna storage; None for a journal in ``root``.
    """

    config: CompressConfig
    root: Path
    original: Path
    data_dir: Path
    train_split: str = "train"
    valid_split: str = "dev"
    test_splits: tuple[str, ...] = ("test",)
    decode_config: Path = Path("conf/decode.yaml")
    checkpoint: str = DEFAULT_CHECKPOINT
    nj: int = 1
    ngpu: int = 0
    storage: str | None = None

    def __post_init__(self):
        for key, split in (("calibration", self.config.calibration), ("search_set", self.config.search_set)):
            name = split.get("split", self.train_split if key == "calibration" else self.valid_split)
            if name in self.test_splits:
                raise LrsmsError(f"compress: {key}.split: {name!r} is test data, which compression must not see")
        self._loaded: tuple[Path, Compressible] | None = None
        self._seen: dict = {}  # moments of the experiment that is loaded

    def __getstate__(self) -> dict:
        """What another process is sent: options and paths, with which it opens the model itself."""
        return {**self.__dict__, "_loaded": None, "_seen": {}}

    def cost(self, experiment: Path) -> float:
        """Parameters, or MACs per second of audio, of the whole model."""
        compressible = self.open(experiment)
        return float(compressible.parameters if self.config.budget == "parameters" else compressible.macs)

    def start(self) -> Path:
        """What the first iteration makes smaller: the experiment, or the same with its vocabulary in bands.

        Raises:
            LrsmsError: bands that the model cannot have.
        """
        bounds = self.config.bands
        own = (Experiment(self.original, self.checkpoint).config.get("decoder_conf") or {}).get("bands")
        if not bounds or own:
            return self.original
        folder = self.root / "banded"
        if not Experiment(folder, self.checkpoint).weights.exists():
            source = self.open(self.original)
            path = tied_table(source)  # what is refused is, before minutes of calibration
            self._check_size(source.parameters, source.model.get_submodule(path), bounds)
            with states_before(source.model.get_submodule(tied_outputs(source.model)[path].output)) as states:
                self._seen = self._calibrate(source)
            ranks, factors = self.config.band_ranks, None
            if ranks is not None:
                factors = Factors(ranks, torch.cat(states), self.config.rehearsal, self.config.seed)
            texts = transcripts(self.cuts(self.train_split))
            write_banded(source, bounds, self._seen[path].rows, texts, folder, factors)
        return folder

    def _check_size(self, parameters: int, table: nn.Embedding, bounds: Sequence[int]) -> None:
        if self.config.band_ranks is None:
            with torch.device("meta"):
                BandedEmbedding(table.num_embeddings, table.embedding_dim, bounds)
            return
        saved = parameters_saved(table.num_embeddings, table.embedding_dim, bounds, self.config.band_ranks)
        if self.config.budget == "parameters":
            refuse_if_reached(
                str(self.original), parameters / (parameters - saved), self.config.target, "what band_ranks make of it"
            )

    def begin(self) -> None:
        """The loop begins: workers wait for its searches."""
        self.root.mkdir(parents=True, exist_ok=True)
        check_inputs(self.root, vars(self.config), self._inputs())
        (self.root / _FINISHED).unlink(missing_ok=True)

    def _inputs(self) -> list[Path]:
        """Files that the searches and their calibration depend on."""
        named = (self.config.calibration.get("split"), self.config.search_set.get("split"))
        splits = filter(None, (self.train_split, self.valid_split, *named))
        return [(self.original / self.checkpoint).resolve(), *(self.cuts(split) for split in dict.fromkeys(splits))]

    def end(self) -> None:
        """The loop has ended: workers go home."""
        (self.root / _OPEN_SEARCH).unlink(missing_ok=True)
        (self.root / _FINISHED).touch()

    def work(self) -> None:
        """Run trials of the searches that another process's loop opens, until that loop has ended."""
        while not (self.root / _FINISHED).exists():
            try:
                request = json.loads((self.root / _OPEN_SEARCH).read_text())
            except (OSError, ValueError):
                time.sleep(_POLL_SECONDS)
                continue
            self.help(Path(request["experiment"]), request["limit"], request["name"])
            while (self.root / _OPEN_SEARCH).exists() and not (self.root / _FINISHED).exists():
                if json.loads((self.root / _OPEN_SEARCH).read_text() or "{}") != request:
                    break
                time.sleep(_POLL_SECONDS)

    def full_ranks(self, experiment: Path) -> dict[str, int]:
        """Path -> full rank of every layer that can be factored."""
        return {layer.path: layer.entry.full_rank for layer in self.open(experiment).layers}

    def search(self, experiment: Path, limit: float, name: str) -> Mapping[str, int]:
        """The best ranks within ``limit``, by ``nj`` processes and whatever workers there are."""
        search = self.open_search(experiment, limit, name)
        save_moments(self._seen, self._moments_file)
        request = self.root / _OPEN_SEARCH
        write_json(request, {"experiment": str(experiment), "limit": limit, "name": name})
        try:
            with helpers(self.nj - 1, _help, self, experiment, limit, name), one_thread():
                best = search.run()
        finally:
            request.unlink(missing_ok=True)
        ranks = search.space.ranks(best.user_attrs["choice"])
        return self.open(experiment).with_own_ranks(ranks)

    def help(self, experiment: Path, limit: float, name: str) -> None:
        """Run trials of a search that another process has opened, with what that process's calibration has seen."""
        self.open(experiment)
        self._seen = load_moments(self._moments_file)
        self.open_search(experiment, limit, name).run_trials(progress=False)

    @property
    def _moments_file(self) -> Path:
        """For the helpers of a search: factors are kept by these numbers' last bits, which threads would change."""
        return self.root / "factors" / "moments.pt"

    def open_search(self, experiment: Path, limit: float, name: str) -> Search:
        """The search of one iteration, ready to run trials.

        Args:
            experiment: its model is searched.
            limit: budget.
            name: of the study in the storage.

        Raises:
            OutOfReach: no choice of ranks meets the budget.
        """
        compressible = self.open(experiment)
        config = self.config
        space = SearchSpace.make(
            self.searched(compressible),
            config.ratios,
            self.cost(experiment),
            tie=config.tie,
            budget=config.budget,
            multiple=config.multiple,
        )
        try:
            space.check(limit)
        except LrsmsError as error:
            raise OutOfReach(str(error)) from error
        sliced = self.sliced(compressible, config.truncation)
        evaluator = self.search_evaluator(compressible, sliced, space)

        def score(fidelity: str):
            def run(ranks: dict, partial) -> float:
                with sliced.at(ranks):
                    return evaluator.score(fidelity, partial)

            return run

        return Search(
            space=space,
            limit=limit,
            controller=config.controller,
            trials=config.trials,
            seed=config.seed,
            values={path: _importance(factors) for path, factors in sliced.factors.items()},
            cheap=score(config.fidelity),
            dear=None if config.survivor_fidelity is None else score(config.survivor_fidelity),
            survivors=config.survivors,
            storage=self.storage or self.root / "optuna.journal",
            name=f"{self.root.name}/{name}",
            prune=config.prune,
        )

    def searched(self, compressible: Compressible) -> list[Layer]:
        """The layers of the parts and roles that the config names."""
        parts, roles = self.config.parts, self.config.roles
        return [
            layer
            for layer in compressible.layers
            if (parts is None or layer.path.split(".")[0] in parts) and (roles is None or layer.entry.role in roles)
        ]

    def sliced(self, compressible: Compressible, method: str) -> SlicedModel:
        """The model with the factors of its layers that are searched or low-rank, from the cache if they are there."""
        moments = {} if method == "plain" else self._moments(compressible)
        cache = FactorCache(self.root / "factors")
        searched = {layer.path for layer in self.searched(compressible)}
        layers = [layer for layer in compressible.layers if layer.path in searched or layer.rank is not None]
        return SlicedModel(compressible.model, layers, cache, method, moments)

    def finetune(self, experiment: Path, ranks: Mapping[str, int], folder: Path) -> None:
        """Truncate and train; with ``epochs: 0``, truncate only. ``folder`` is ``iter1``, ``iter2``, ..."""
        options = self.config.finetuning(int(folder.name.removeprefix("iter")))
        epochs = options.pop("epochs")
        weight = options.pop("distill_weight", 0.0)
        truncated = Experiment(folder / "truncated", self.checkpoint)
        compressible = self.open(experiment)
        ranks = current_paths(compressible.model, ranks)
        config = with_ranks(compressible, ranks)
        if not truncated.weights.exists():
            model = self.sliced(compressible, self.config.truncation).snapshot(ranks)
            state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
            truncated.write(config, state)
            compressible.experiment.copy_tokens(truncated.folder)
        if not epochs:
            compressible.experiment.copy_tokens(folder)
            for name in (truncated.config_file.name, self.checkpoint):
                relink(folder / name, f"truncated/{name}")
            summarize_untrained(Experiment(folder, self.checkpoint))
            return
        training = {key: config[key] for key in (*_MODEL_KEYS, *_TRAINING_KEYS) if config.get(key) is not None}
        for key, value in options.items():
            merge = key.endswith("_conf") and isinstance(value, Mapping)
            training[key] = {**(training.get(key) or {}), **value} if merge else value
        training["max_epoch"] = epochs
        if weight:
            teacher = str((self.original / self.checkpoint).resolve())
            training |= {"distill_from": teacher, "distill_weight": weight}
        training = {key: value for key, value in training.items() if value is not None}
        training.setdefault("normalize", None)  # ESPnet's default is to normalize
        path = folder / "train.yaml"
        write_text(path, yaml.safe_dump(training, sort_keys=False))
        lang = folder / "lang"
        lang.mkdir(exist_ok=True)
        write_text(lang / "tokens.txt", "\n".join(compressible.experiment.token_list) + "\n")
        further = ["--init_param", str(truncated.weights)]
        if compressible.experiment.bpemodel is not None:
            further += ["--bpemodel", str(compressible.experiment.bpemodel)]
        Training(
            config=path,
            output_dir=folder,
            train_cuts=self.cuts(self.train_split),
            valid_cuts=self.cuts(self.valid_split),
            lang_dir=lang,
            token_type=cast(str, compressible.experiment.token_type),
            seed=self.config.seed,
            ngpu=self.ngpu,
            espnet_options=further,
        ).run()

    def dev_errors(self, experiment: Path) -> Errors:
        """Word errors of the full beam search on dev."""
        return self.errors(experiment, self.valid_split)

    def errors(self, experiment: Path, split: str) -> Errors:
        """Word errors of the full beam search on a split."""
        decoding = Decoding(experiment, self.cuts(split), self.decode_config, self.checkpoint, self.nj, self.ngpu)
        decoding.run()
        counts = score_decoding(decoding.output_dir, decoding.cuts).wer.counts
        return Errors([count.errors for count in counts.values()], [count.tokens for count in counts.values()])

    def cuts(self, split: str) -> Path:
        """Manifest of a split.

        Raises:
            LrsmsError: it is not found.
        """
        path = self.data_dir / split / "cuts.jsonl.gz"
        if not path.exists():
            raise LrsmsError(f"{path}: not found; compression needs the cuts of {split}: run stages 0 and 1")
        return path

    def open(self, experiment: Path) -> Compressible:
        """An experiment's model. The last that was opened is kept: search, truncation and cost ask for the same one."""
        if self._loaded is None or self._loaded[0] != experiment:
            self._loaded, self._seen = (experiment, Compressible(Experiment(experiment, self.checkpoint))), {}
        return self._loaded[1]

    def _moments(self, compressible: Compressible) -> dict:
        if not self._seen:
            self._seen = self._calibrate(compressible)
        return self._seen

    def _calibrate(self, compressible: Compressible) -> dict:
        options = self.config.calibration
        chosen = compressible.utterances(
            self.cuts(options.get("split", self.train_split)),
            lambda cuts: _some(cuts, options.get("utterances", 50), self.config.seed),
        )
        evaluator = Evaluator(compressible, chosen)

        def run() -> None:
            for utterance in tqdm(chosen, desc="calibration", unit="utt", leave=False, delay=2):
                evaluator.run(utterance)

        return input_moments(compressible.model, [layer.path for layer in compressible.layers], run)

    def search_evaluator(self, compressible: Compressible, sliced: SlicedModel, space: SearchSpace) -> Evaluator:
        """On the search set: chosen once for the original model, and kept in ``search_set.json``."""
        options = self.config.search_set
        dev = compressible.utterances(self.cuts(options.get("split", self.valid_split)))
        record = self.root / "search_set.json"
        if not record.exists():
            chosen = self._choose(compressible, sliced, space, dev)
            ids = [dev[index].id for index in chosen.indices]
            content = {"utterances": ids, "correlation": chosen.correlation, "candidates": chosen.candidates}
            record.parent.mkdir(parents=True, exist_ok=True)
            write_json(record, content)
        kept = set(json.loads(record.read_text())["utterances"])
        return self.evaluator(compressible, [utterance for utterance in dev if utterance.id in kept])

    def evaluator(self, compressible: Compressible, utterances: list[Utterance]) -> Evaluator:
        """Scores the model on these utterances, ``beam`` with the options of the decoding config."""
        return Evaluator(compressible, utterances, decode=read_yaml(self.decode_config))

    def _choose(
        self, compressible: Compressible, sliced: SlicedModel, space: SearchSpace, dev: list[Utterance]
    ) -> SearchSet:
        options = self.config.search_set
        size = options.get("utterances", 100)
        if size >= len(dev):
            return SearchSet(tuple(range(len(dev))), 1.0, 0)
        whole = self.evaluator(compressible, dev)
        fidelity = "ctc" if compressible.model.ctc is not None else "beam"
        generator = np.random.default_rng(self.config.seed)
        smallest, largest = space.cost([0] * len(space.groups)), space.cost(space.largest)
        candidates = []
        for _ in tqdm(range(options.get("candidates", 60)), desc="search set", unit="candidate", leave=False, delay=2):
            # Anything between hardly smaller and as small as can be.
            limit = largest * (smallest / largest) ** generator.uniform(0.05, 0.8)
            wishes = [generator.uniform(0, len(group.ranks) - 1) for group in space.groups]
            with sliced.at(space.ranks(space.fit(wishes, limit))):
                errors = whole.errors(fidelity)
            candidates.append([errors[utterance.id] for utterance in dev])
        original = whole.errors(fidelity)
        return choose(
            [utterance.seconds for utterance in dev],
            [original[utterance.id] for utterance in dev],
            candidates,
            [len(to_words(utterance.text)) for utterance in dev],
            size,
            seed=self.config.seed,
        )


def _help(toolkit: EspnetToolkit, experiment: Path, limit: float, name: str) -> None:
    """Trials of one search in a process of its own."""
    torch.set_num_threads(1)
    toolkit.help(experiment, limit, name)


def with_ranks(compressible: Compressible, ranks: Mapping[str, int]) -> dict:
    """The experiment's config with low-rank classes and these ranks by path in the whole model."""
    config = copy.deepcopy(compressible.experiment.config)
    for part, name in compressible.classes.items():
        config[part] = name
        low_rank = {"ranks": block_ranks(part, ranks)}
        config[f"{part}_conf"] = {**(config.get(f"{part}_conf") or {}), "low_rank": low_rank}
    return config


def _importance(factors) -> list[float]:
    """Falling values of a layer's components; of an LSTM, of its first layer."""
    return (factors[0] if isinstance(factors, list) else factors).values.tolist()


def _some(cuts: list, count: int, seed: int) -> list:
    """A fixed random choice, the same whatever order the manifest has."""

    def key(cut) -> str:
        return hashlib.sha256(f"{seed} {cut.id}".encode()).hexdigest()

    return sorted(cuts, key=key)[:count]
