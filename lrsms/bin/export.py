"""Stage 8: write a trained model in other forms.

Usage: lrsms export --asr_exp exp/tag --format onnx

espnet   the factors folded into dense weights: an ordinary ESPnet experiment, equal within rounding
onnx     encoder + CTC and the attention decoder, in float32 and int8; needs pip install 'lrsms[export]'
sherpa   a CTC model, in float32 and int8, with tokens.txt: sherpa-onnx opens it as zipformer_ctc
pack     one zip file with a model card, to share: it opens with ESPnet and `import lrsms.espnet`

Of a Whisper model:
openai        model.pt, dense: whisper.load_model opens it
transformers  model.safetensors and what belongs to it, dense: WhisperForConditionalGeneration.from_pretrained
sherpa        encoder and decoder in float32 and int8, with tokens.txt: sherpa-onnx opens them as whisper

--check test recognizes data/test with what was written and with the checkpoint: same text, WER, size, speed.
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count
from lrsms.defaults import CONFIG, DEFAULT_CHECKPOINT

_FORMATS = ("espnet", "onnx", "sherpa", "pack", "openai", "transformers")


def main() -> None:
    """Parse options and export."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--format", choices=_FORMATS, nargs="+", default=["espnet"], help="formats to write")
    parser.add_argument(
        "--output_dir", type=Path, help="folder of the export (default: export/<format> in the experiment's folder)"
    )
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument(
        "--merge",
        choices=("all", "faster", "none"),
        help="layers to make dense: faster (timed here; default of onnx and sherpa), all (default of espnet) or none",
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], help="onnx, sherpa: precisions to write")
    parser.add_argument(
        "--check",
        default="",
        help="onnx, sherpa: split under data_dir that the export and the checkpoint both recognize",
    )
    parser.add_argument("--utterances", type=count, help="with --check: use only the first N utterances (default: all)")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--config", type=Path, default=Path("conf/decode.yaml"), help="with --check: decoding YAML")
    parser.add_argument("--license", default="", help="pack: license that the model card names")
    parser.add_argument("--force", type=str2bool, default=False, help="export again even if nothing has changed")
    args = parser.parse_args()
    if args.output_dir is not None and len(args.format) > 1:
        parser.error("--output_dir goes with one --format")

    from lrsms import stamp

    for form in args.format:
        folder = args.output_dir or args.asr_exp / "export" / form
        state = (folder / "inputs.json", *_inputs(args, form))
        if not args.force and stamp.is_current(*state):
            print(f"stage 8: {folder} is written and its inputs have not changed; skipped")
            continue
        _export(args, form, folder)
        stamp.write(*state)


def _cuts(args: argparse.Namespace) -> Path:
    return args.data_dir / args.check / "cuts.jsonl.gz"


def _inputs(args: argparse.Namespace, form: str) -> tuple[dict, list[Path]]:
    """Arguments and files that an export depends on."""
    files = [args.asr_exp / CONFIG, (args.asr_exp / args.checkpoint).resolve()]
    arguments = {"checkpoint": args.checkpoint}
    if form == "pack":
        return arguments | {"license": args.license}, [*files, args.asr_exp.resolve().parent / "results.json"]
    arguments |= {"merge": args.merge}
    if form in ("onnx", "sherpa"):
        arguments |= {"precisions": args.precisions, "check": args.check, "utterances": args.utterances}
        files += [_cuts(args), args.config] if args.check else []
    return arguments, files


def _export(args: argparse.Namespace, form: str, folder: Path) -> None:
    from lrsms.espnet.checkpoints.experiment import Experiment

    experiment = Experiment(args.asr_exp, args.checkpoint)
    if form == "espnet":
        _merge(args, experiment, folder)
    elif form == "pack":
        from lrsms.espnet.export.pack import pack_experiment

        print(pack_experiment(experiment, folder, license_name=args.license).summary)
    elif experiment.is_whisper or form in ("openai", "transformers"):
        _write_whisper(args, experiment, form, folder)
    else:
        _write_onnx(args, experiment, form, folder)


def _write_whisper(args: argparse.Namespace, experiment, form: str, folder: Path) -> None:
    from lrsms.espnet.export.whisper import export_whisper

    options = {"merge": args.merge or "none", "precisions": args.precisions}
    print(export_whisper(experiment, folder, form=form, **options).summary)


def _merge(args: argparse.Namespace, experiment, folder: Path) -> None:
    from lrsms.espnet.export.merge_to_dense import merge_experiment

    done = merge_experiment(experiment, folder, args.merge or "all")
    print(f"{done.folder}: {done.merged} layers merged, {done.factored} kept factored, {done.parameters:,} parameters")
    print(f"largest change of the encoder's output: {done.difference:.1e}")
    print(f"opens with `import lrsms.espnet` ({done.foreign})" if done.foreign else "opens with ESPnet alone")


def _write_onnx(args: argparse.Namespace, experiment, form: str, folder: Path) -> None:
    from lrsms.espnet.export.onnx import export_onnx

    merge = args.merge or "faster"
    done = export_onnx(experiment, folder, form=form, merge=merge, precisions=args.precisions)
    print(done.summary)
    if args.check:
        from lrsms.bench.exporting import check_export

        options = {"merge": merge, "precisions": args.precisions, "utterances": args.utterances}
        print(check_export(done, experiment, _cuts(args), args.config, **options))


if __name__ == "__main__":
    run_verb(main)
