"""Benchmarks; each prints its table and leaves it in output_dir, with JSON and picture.

Usage: python -m lrsms.bin.bench truncation --asr_exp exp/X          plain, whitened, activation_pca without fine-tuning
       python -m lrsms.bin.bench controllers --asr_exp exp/X         all controllers at equal trials and equal time
       python -m lrsms.bin.bench trials --asr_exp exp/X              trials per minute against the naive way
       python -m lrsms.bin.bench loop --asr_exp exp/X                single shots against the iterative loop
       python -m lrsms.bin.bench decode --asr_exp exp/X exp/Y        real-time factors, fp32 and int8
       python -m lrsms.bin.bench export --asr_exp exp/X exp/Y        ONNX, int8 and sherpa-onnx beside the checkpoints
       python -m lrsms.bin.bench train --configs conf/X.yaml conf/Y.yaml    training steps on made-up speech
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb, str2bool


def main() -> None:
    """Parse options, run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truncation", "controllers", "trials", "loop", "decode", "export", "train"))
    parser.add_argument(
        "--asr_exp",
        type=Path,
        nargs="+",
        required=True,
        help="trained experiment; decode and export take several, decode also YAML: random weights",
    )
    parser.add_argument("--config", type=Path, default=Path("conf/compress.yaml"))
    parser.add_argument("--decode_config", type=Path, default=Path("conf/decode.yaml"))
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--split", default="test", help="scored at the end; nothing is chosen on it")
    parser.add_argument("--checkpoint", default="valid.acc.ave.pth", help="file name in asr_exp")
    parser.add_argument("--work_dir", type=Path, help="factors, trials, experiments; default: <asr_exp>_bench")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks"), help="tables, JSON and pictures")
    parser.add_argument("--times", type=float, nargs="+", help="how many times smaller; levels of the single shots")
    parser.add_argument("--roles", nargs="+", help="of the layers to factor, in place of the config's")
    parser.add_argument("--fidelities", nargs="+", default=["loss", "ctc", "beam"], help="truncation: scores to take")
    parser.add_argument("--controllers", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="trials: how often each is timed")
    parser.add_argument("--utterances", type=int, help="decode, export: the first so many of the split")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--searches", nargs="+", default=["ctc", "beam"], help="export: best path, ESPnet's search")
    parser.add_argument("--merges", nargs="+", default=["faster", "all", "none"], help="export: layers made dense")
    parser.add_argument("--threads", type=int, default=1, help="decode, export, train: of torch")
    parser.add_argument("--configs", type=Path, nargs="+", help="train: training YAMLs; the first is compared with")
    parser.add_argument("--batch", type=int, default=4, help="train: utterances in a batch")
    parser.add_argument("--seconds", type=float, default=8.0, help="train: length of each utterance")
    parser.add_argument("--steps", type=int, default=5, help="train: timed steps of each config")
    parser.add_argument("--vocab_size", type=int, default=5000, help="train: output tokens")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="train: where")
    parser.add_argument("--amp", type=str2bool, default=False, help="train: bfloat16 where torch allows it")
    parser.add_argument("--update", type=str2bool, default=True, help="train: whether the optimiser takes part")
    parser.add_argument("--nj", type=int, default=1, help="loop: processes that run trials and decode")
    args = parser.parse_args()

    needed = "configs" if args.what == "train" else "asr_exp"
    if not getattr(args, needed):
        parser.error(f"{args.what} needs --{needed}")
    if args.what == "train":
        from lrsms.bench.training import train_speed

        names = ("batch", "seconds", "steps", "vocab_size", "device", "amp", "update", "threads")
        print(train_speed(args.configs, args.output_dir, **{name: getattr(args, name) for name in names}))
        return
    if args.what == "decode":
        from lrsms.bench.decoding import decode_speed

        options = {"utterances": args.utterances, "precisions": args.precisions, "threads": args.threads}
        cuts = args.data_dir / args.split / "cuts.jsonl.gz"
        print(decode_speed(args.asr_exp, cuts, args.decode_config, args.checkpoint, args.output_dir, **options))
        return
    if args.what == "export":
        from lrsms.bench.exporting import compare_exports

        names = ("merges", "precisions", "searches", "utterances", "threads")
        options = {name: getattr(args, name) for name in names}
        first = args.asr_exp[0]
        work_dir = args.work_dir or first.with_name(f"{first.name}_bench") / "exported"
        cuts = args.data_dir / args.split / "cuts.jsonl.gz"
        places = (args.output_dir, work_dir)
        print(compare_exports(args.asr_exp, cuts, args.decode_config, args.checkpoint, *places, **options))
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
    from lrsms.espnet.compression import EspnetToolkit
    from lrsms.espnet.config_check import read_yaml

    content = read_yaml(args.config) | ({"roles": args.roles} if args.roles else {})
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


if __name__ == "__main__":
    run_verb(main)
