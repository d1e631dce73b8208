"""Stage 8: one file to share: ESPnet's pack of an experiment, with a model card in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from espnet2.main_funcs.pack_funcs import pack
from torch import nn

from lrsms.espnet.checkpoints.checkpoint import read_checkpoint
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import named_file
from lrsms.espnet.models.cost import trainable_parameters
from lrsms.files import scratch_folder, write_text
from lrsms.lowrank import LowRankLSTMCell, low_rank_layers
from lrsms.provenance import versions
from lrsms.scoring.report import markdown_table

# Of config.yaml: where things were on the machine that trained, of no use and no business to others.
_LOCAL = ("config", "output_dir", "train_cuts", "valid_cuts", "init_param", "distill_from", "dist_init_method")
_LICENSE_TO_FILL_IN = "FILL IN: such as apache-2.0, cc-by-4.0; mind the license of the training data"


@dataclass(frozen=True)
class Packed:
    """What :func:`pack_experiment` made.

    Attributes:
        archive: the zip file.
        card: the model card, also in the archive.
        scores: results found for it.
    """

    archive: Path
    card: Path
    scores: int

    @property
    def summary(self) -> str:
        """What a user is told."""
        results = f"{self.scores} results in it" if self.scores else "no results of it found: run stages 4 and 5 first"
        return (
            f"{self.archive}: {self.archive.stat().st_size / 1e6:.2f} MB\n"
            f"{self.card}: the model card, {results}; fill in its license, and pack again with --license"
        )


def pack_experiment(experiment: Experiment, output_dir: Path, *, license_name: str = "") -> Packed:
    """Write ``<experiment>.zip`` and ``README.md``, its model card.

    The archive is ESPnet's: ``espnet2.main_funcs.pack_funcs.unpack`` opens it, and so does ESPnet's model zoo. It holds
    weights that are data only, ``config.yaml`` without the paths of this machine, the sentencepiece model if
    there is one, and the card. Nothing is half-written.

    Args:
        experiment: trained; dense, low-rank, merged or compressed.
        output_dir: folder to write, created if missing.
        license_name: for the card; empty for a line to fill in.

    Raises:
        LrsmsError: files are missing, or the checkpoint holds more than weights.
    """
    experiment.check()
    read_checkpoint(experiment.weights)
    model = experiment.load()[0]
    scores = _scores(experiment)
    name = experiment.folder.resolve().name
    card = model_card(name, experiment, model, scores, license_name)
    output_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(output_dir) as scratch:
        packed = _pack(scratch, name, experiment, card)
        os.replace(packed, output_dir / f"{name}.zip")
    write_text(output_dir / "README.md", card)
    return Packed(output_dir / f"{name}.zip", output_dir / "README.md", len(scores))


def _pack(scratch: Path, name: str, experiment: Experiment, card: str) -> Path:
    """The archive, of files laid out as they will be unpacked."""
    inside = Path("exp") / name
    packed = Experiment(scratch / inside, experiment.weights.name)
    packed.folder.mkdir(parents=True)
    config = {key: value for key, value in experiment.config.items() if key not in _LOCAL}
    option = ["README.md"]
    (scratch / "README.md").write_text(card, encoding="utf-8")
    config["normalize_conf"] = dict(config.get("normalize_conf") or {})
    for options, key in (
        (config, "bpemodel"),
        (config, "non_linguistic_symbols"),
        (config["normalize_conf"], "stats_file"),
    ):
        if options.get(key):
            source = named_file(key, options[key], experiment.folder)
            shutil.copyfile(source, packed.folder / source.name)
            options[key] = str(inside / source.name)  # unpacking makes the path right
            option.append(options[key])
    if (experiment.folder / "rank_plan.yaml").exists():
        shutil.copyfile(experiment.folder / "rank_plan.yaml", packed.folder / "rank_plan.yaml")
        option.append(str(inside / "rank_plan.yaml"))
    shutil.copyfile(experiment.weights, packed.weights)
    packed.write_config(config)
    with _working_in(scratch), contextlib.redirect_stdout(io.StringIO()):
        pack(
            files={"asr_model_file": str(inside / packed.checkpoint)},
            yaml_files={"asr_train_config": str(inside / packed.config_file.name)},
            option=option,
            outpath=f"{name}.zip",
        )
    return scratch / f"{name}.zip"


@contextlib.contextmanager
def _working_in(folder: Path):
    """ESPnet names what it packs relative to the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _scores(experiment: Experiment) -> list[dict]:
    """The experiment's entries of ``results.json`` beside it, of this checkpoint."""
    name, above = experiment.folder.name, experiment.folder.resolve().parent
    for folder in (above, above.parent):
        results = folder / "results.json"
        if results.exists():
            entries = json.loads(results.read_text(encoding="utf-8"))
            stem = experiment.checkpoint.removesuffix(".pth")
            return [
                entry
                for entry in entries
                if entry.get("experiment") in (name, f"{above.name}/{name}")
                and str(entry.get("decode", "")).endswith(stem)
            ]
    return []


def model_card(name: str, experiment: Experiment, model: nn.Module, scores: list[dict], license_name: str) -> str:
    """The model card: what it is, how large, how well, how to use it.

    Args:
        name: of the model.
        experiment: of the model.
        model: the ``ESPnetASRModel``.
        scores: entries of ``results.json``.
        license_name: empty for a line to fill in.
    """
    header = {
        "tags": ["espnet", "automatic-speech-recognition", "low-rank", "lrsms"],
        "library_name": "espnet",
        "license": license_name or _LICENSE_TO_FILL_IN,
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        _what(experiment, model),
        "## Results\n\n" + _results_table(scores),
        "## Use\n\n" + _usage(name, experiment),
        "## Made with\n\n" + ", ".join(f"{package} {version}" for package, version in versions().items()) + ".",
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _what(experiment: Experiment, model: nn.Module) -> str:
    config = experiment.config
    layers = dict(low_rank_layers(model))
    parameters = trainable_parameters(model)
    dense = parameters + sum(layer.parameters_saved for layer in layers.values())
    dense += sum(cell.biases_saved for cell in model.modules() if isinstance(cell, LowRankLSTMCell))
    lines = [
        "A speech recognizer in [ESPnet](https://github.com/espnet/espnet)'s format, made with LR-SMS (`lrsms`).",
        "",
        f"- encoder `{config.get('encoder')}`, decoder `{config.get('decoder')}`, CTC weight "
        f"{experiment.ctc_weight:g} in training",
        f"- {parameters:,} parameters"
        + (f", {dense / parameters:.2f} times fewer than dense ({dense:,})" if layers else ", all layers dense"),
        f"- input: sound at {experiment.sampling_rate} Hz, front-end `{config.get('frontend')}`; "
        f"output: {len(experiment.token_list)} tokens of type {experiment.token_type}",
    ]
    if layers:
        ranks = sorted(layer.rank for layer in layers.values())
        lines.append(f"- {len(layers)} factored layers, ranks {ranks[0]} to {ranks[-1]}: see `rank_plan.yaml`")
    return "\n".join(lines)


def _results_table(scores: list[dict]) -> str:
    if not scores:
        return "None recorded: run stages 4 and 5 of the recipe, then pack again."
    rows = [
        (
            *(score["split"], Path(score["decode_config"]).name, str(score["utterances"])),
            f"{score['wer']:.2f} [{score['wer_low']:.2f}, {score['wer_high']:.2f}]",
        )
        for score in scores
    ]
    return markdown_table(("split", "decoding", "utterances", "WER % [95 %]"), rows)


def _usage(name: str, experiment: Experiment) -> str:
    ours = [str(experiment.config.get(key)) for key in ("encoder", "decoder", "frontend")]
    needed = [value for value in ours if value.startswith("lowrank_") or value in ("kaldi_fbank", "av_conformer")]
    names = ", ".join(f"`{value}`" for value in needed)
    note = f"`import lrsms.espnet` makes {names} known to ESPnet." if names else ""
    beam_size = min(10, len(experiment.token_list) - 1)  # with more, CTC's blank stays in the beam
    return f"""```bash
pip install lrsms
```

```python
import lrsms.espnet
import soundfile
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

recognize = Speech2Text(**unpack("{name}.zip", "{name}"), ctc_weight=0.5, beam_size={beam_size})
speech, rate = soundfile.read("speech.wav")  # mono, {experiment.sampling_rate} Hz
print(recognize(speech)[0][0])
```

{note}"""
