"""Benchmarks; each prints its table and leaves it in output_dir, with JSON and picture.

Usage: lrsms bench truncation --asr_exp exp/X          plain, whitened, activation_pca without fine-tuning
       lrsms bench controllers --asr_exp exp/X         all controllers at equal trials and equal time
       lrsms bench trials --asr_exp exp/X              trials per minute against the naive way
       lrsms bench loop --asr_exp exp/X                single shots against the iterative loop
       lrsms bench decode --asr_exp exp/X exp/Y        real-time factors, fp32, bf16 and int8
       lrsms bench decode --size base                  the same with random weights
       lrsms bench export --asr_exp exp/X exp/Y        ONNX, int8 and sherpa-onnx beside the checkpoints
       lrsms bench train --size paper                  training steps on made-up speech
       lrsms bench train --configs conf/X.yaml conf/Y.yaml    the same of your own configurations
       lrsms bench layer --size paper                  what of a factored layer's fewer FLOPs is time
       lrsms bench data --data_dir data                batches against ESPnet's dump; 1 h to 1,000 h
       lrsms bench scale --size tiny                   step time over width, depth, length, processes
       lrsms bench spectrum --asr_exp exp/X exp/Y      effective rank of trained layers, epoch by epoch
       lrsms bench start --asr_exp exp/X --against DIR    start of each verb beside another checkout's

Sizes and what is compared in them (--arms) are YAML files of the package, in lrsms/bench/configs; --sizes_dir names
another folder.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from lrsms.bench import CONFIGS
from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT

SEARCHES = ("truncation", "controllers", "trials", "loop")
SPEEDS = ("layer", "train", "decode", "export", "data", "scale", "start")


def main() -> None:
    """Parse options, run one benchmark."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("what", choices=(*SEARCHES, *SPEEDS, "spectrum"))
    parser.add_argument(
        "--asr_exp",
        type=Path,
        nargs="+",
        default=[],
        help="trained experiment; decode, export and spectrum take several, decode also a YAML for random weights",
    )
    parser.add_argument("--config", type=Path, default=Path("conf/compress.yaml"), help="compression YAML")
    parser.add_argument("--decode_config", type=Path, default=Path("conf/decode.yaml"), help="decoding YAML")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--split", default="test", help="split that is scored at the end; nothing is chosen on it")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument(
        "--work_dir", type=Path, help="folder for factors, trials and experiments (default: <asr_exp>_bench)"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("benchmarks"), help="folder for tables, JSON and pictures"
    )
    parser.add_argument(
        "--times", type=float, nargs="+", help="compression factors: how many times smaller the single shots are"
    )
    parser.add_argument("--roles", nargs="+", help="roles of the layers to factor, in place of the config's")
    parser.add_argument(
        "--fidelities", nargs="+", default=["loss", "ctc", "beam"], help="truncation: scores to compute"
    )
    parser.add_argument("--controllers", nargs="+", help="controllers to compare (default: all)")
    parser.add_argument("--seeds", type=count_or_none, nargs="+", default=[0, 1, 2], help="seeds of the searches")
    parser.add_argument("--rounds", type=count, default=5, help="trials, start: number of timed rounds")
    parser.add_argument("--utterances", type=count, help="decode, export: use only the first N utterances of the split")
    parser.add_argument(
        "--precisions",
        nargs="+",
        help="decode, export: any of fp32, bf16, int8 (default: fp32, int8); train: fp32, tf32, bf16 (default: fp32)",
    )
    parser.add_argument(
        "--searches",
        nargs="+",
        default=["ctc", "beam"],
        help="export, decode: ctc (best path), beam; decode: also espnet or fast, one beam search for all models",
    )
    parser.add_argument(
        "--merges", nargs="+", default=["faster", "all", "none"], help="export: which layers are made dense"
    )
    parser.add_argument("--weights", nargs="+", default=["stored"], help="decode: any of stored, merged, faster")
    parser.add_argument(
        "--threads", type=count, nargs="+", default=[1], help="threads of torch; decode takes several numbers"
    )
    parser.add_argument("--size", help="model size, <size>_dense.yaml in sizes_dir: tiny, base or paper")
    parser.add_argument("--arms", nargs="+", default=["stock", "dense", "lrsms"], help="arms of arms.yaml in sizes_dir")
    parser.add_argument(
        "--sizes_dir", type=Path, default=CONFIGS, help="folder of sizes and arms (default: the package's)"
    )
    parser.add_argument("--configs", type=Path, nargs="+", help="train: training YAMLs; the first is the baseline")
    parser.add_argument(
        "--batch",
        type=count,
        nargs="+",
        help="train, decode, scale: utterances in a batch (default: 4, decode: 1); train and decode take several",
    )
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="train, scale: length of the longest utterance in seconds"
    )
    parser.add_argument(
        "--spread", type=float, default=0.2, help="train: how much shorter the shortest utterance is, from 0 to 1"
    )
    parser.add_argument("--steps", type=count, default=5, help="train, scale: number of timed steps of each config")
    parser.add_argument("--vocab_size", type=count, default=5000, help="train, scale: number of output tokens")
    parser.add_argument("--shapes", nargs="+", help="layer: shapes such as 768x3072 (default: those of --size)")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.125, 0.25, 0.5], help="layer: rank ratios")
    parser.add_argument("--frames", type=count, default=4000, help="layer: number of rows of the input")
    parser.add_argument(
        "--hours", type=float, nargs="+", default=[1, 10, 100, 1000], help="data: hours of audio in the dummy manifests"
    )
    parser.add_argument("--max_duration", type=float, default=60.0, help="data: seconds of audio in a batch")
    parser.add_argument("--widths", type=count, nargs="*", default=[128, 256, 512], help="scale: widths of the model")
    parser.add_argument("--depths", type=count, nargs="*", default=[6, 12], help="scale: numbers of encoder blocks")
    parser.add_argument(
        "--lengths", type=float, nargs="*", default=[4, 8, 16], help="scale: lengths of the utterances in seconds"
    )
    parser.add_argument(
        "--worlds", type=count, nargs="*", default=[1, 2], help="scale: numbers of processes that train together"
    )
    parser.add_argument(
        "--against", type=Path, help="start: root of another checkout that is run in turns with this one"
    )
    parser.add_argument("--verbs", nargs="+", help="start: any of transcribe, decode, train, import, torch, help")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="train, layer, decode: device of the models"
    )
    parser.add_argument("--amp", type=str2bool, default=False, help="layer: use bfloat16 if torch allows it")
    parser.add_argument("--update", type=str2bool, default=True, help="train: let the optimizer take part in a step")
    parser.add_argument("--nj", type=count, default=1, help="loop: number of processes that run trials and decode")
    args = parser.parse_args()

    if args.what in SPEEDS:
        print(_speed(args, parser.error))
        return
    if not args.asr_exp:
        parser.error(f"{args.what} needs --asr_exp")
    if args.what == "spectrum":
        from lrsms.bench.spectrum import spectra_over_training

        print(spectra_over_training(args.asr_exp, args.output_dir))
        return

    from lrsms.compress.controllers import CONTROLLERS
    from lrsms.errors import LrsmsError

    if len(args.asr_exp) > 1:
        raise LrsmsError(f"--asr_exp: {args.what} takes one experiment, not {len(args.asr_exp)}")
    (original,) = args.asr_exp
    for name in args.controllers or ():
        if name not in CONTROLLERS:
            raise LrsmsError(f"--controllers: {name!r} is unknown; any of {', '.join(CONTROLLERS)}")

    from lrsms.bench import looping, searching
    from lrsms.compress.config import CompressConfig
    from lrsms.espnet.compress.toolkit import EspnetToolkit
    from lrsms.training_yaml import read_training_yaml

    content = read_training_yaml(args.config) | ({"roles": args.roles} if args.roles else {})
    toolkit = EspnetToolkit(
        config=CompressConfig.parse(content, str(args.config)),
        root=args.work_dir or original.with_name(f"{original.name}_bench"),
        original=original,
        data_dir=args.data_dir,
        test_splits=(args.split,),
        decode_config=args.decode_config,
        checkpoint=args.checkpoint,
        nj=args.nj,
    )
    folder = args.output_dir
    if args.what == "truncation":
        print(searching.truncations(toolkit, args.split, args.times or [2, 3, 5], args.fidelities, folder))
    elif args.what == "controllers":
        names = args.controllers or list(CONTROLLERS)
        times = (args.times or [3.0])[0]
        print(searching.controllers(toolkit, times, names, args.seeds, args.split, folder))
    elif args.what == "trials":
        print(searching.trials_per_minute(toolkit, (args.times or [3.0])[0], args.rounds, folder))
    else:
        print(looping.single_shot_and_loop(toolkit, args.times or [2, 3, 5, 8], args.split, folder))


def _speed(args: argparse.Namespace, refuse: Callable[[str], None]) -> str:
    """The table of a benchmark of speed."""

    def options(*names: str) -> dict:
        return {name: getattr(args, name) for name in names}

    if args.what == "layer":
        from lrsms.bench.layer import layer_speed, shapes_of

        shapes = shapes_of(args.shapes, args.sizes_dir, args.size or "paper")
        extra = options("frames", "rounds", "device", "amp")
        return layer_speed(shapes, args.ratios, args.output_dir, threads=args.threads[0], **extra)
    if args.what == "scale":
        from lrsms.bench.scale import step_time_over_scale

        if len(args.batch or [4]) > 1:
            refuse("scale takes one --batch")
        extra = {
            "batch": (args.batch or [4])[0],
            **options("widths", "depths", "lengths", "worlds", "seconds", "steps", "vocab_size"),
        }
        return step_time_over_scale(args.sizes_dir, args.size or "tiny", args.arms, args.output_dir, **extra)
    cuts = args.data_dir / args.split / "cuts.jsonl.gz"
    if args.what == "start":
        from lrsms.bench.start import VERBS, start_speed

        if len(args.asr_exp) != 1:
            refuse("start needs one --asr_exp")
        given = (args.asr_exp[0], cuts, (args.configs or [Path("conf/train_lrsms.yaml")])[0], args.decode_config)
        with tempfile.TemporaryDirectory() as scratch:
            places = (args.output_dir, args.work_dir or Path(scratch) / "start")
            extra = {"verbs": args.verbs or VERBS, **options("against", "rounds")}
            return start_speed(*given, args.checkpoint, *places, threads=args.threads[0], **extra)
    if args.what == "export":
        from lrsms.bench.exporting import compare_exports

        if not args.asr_exp:
            refuse("export needs --asr_exp")
        first = args.asr_exp[0]
        places = (args.output_dir, args.work_dir or first.with_name(f"{first.name}_bench") / "exported")
        extra = options("merges", "searches", "utterances")
        extra["precisions"] = args.precisions or ["fp32", "int8"]
        from_files = (args.asr_exp, cuts, args.decode_config, args.checkpoint)
        return compare_exports(*from_files, *places, threads=args.threads[0], **extra)
    with tempfile.TemporaryDirectory() as scratch:
        configs = args.configs or []
        if args.size:
            from lrsms.bench.sizes import write_arms

            configs = [*configs, *write_arms(args.sizes_dir, args.size, args.arms, Path(scratch))]
        if args.what == "train":
            from lrsms.bench.training import train_speed

            if not configs:
                refuse("train needs --size or --configs")
            if args.amp:
                refuse("train: --amp is for layer; write --precisions bf16")
            extra = options("seconds", "spread", "steps", "vocab_size", "device", "update")
            extra |= {
                "batches": args.batch or [4],
                "precisions": args.precisions or ["fp32"],
                "threads": args.threads[0],
            }
            return train_speed(configs, args.output_dir, **extra)
        if args.what == "data":
            from lrsms.bench.data import data_speed

            if not configs:
                from lrsms.bench.sizes import write_arms

                configs = write_arms(args.sizes_dir, "base", ["lrsms"], Path(scratch))
            extra = options("hours", "max_duration", "steps")
            return data_speed(cuts, configs[-1], args.output_dir, threads=args.threads[0], **extra)
        from lrsms.bench.decoding import decode_speed

        if not args.asr_exp + configs:
            refuse("decode needs --asr_exp or --size")
        extra = options("utterances", "weights", "threads", "searches", "device") | {"batches": args.batch or [1]}
        extra["precisions"] = args.precisions or ["fp32", "int8"]
        return decode_speed(args.asr_exp + configs, cuts, args.decode_config, args.checkpoint, args.output_dir, **extra)


if __name__ == "__main__":
    run_verb(main)
