"""Stage 6: compress a trained model: search ranks, truncate, fine-tune, accept or not, and again.

Usage: lrsms compress --asr_exp exp/tag --config conf/compress.yaml
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT


def main() -> None:
    """Parse options, run the loop, report."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="trained experiment of ESPnet or of this package")
    parser.add_argument("--config", type=Path, default=Path("conf/compress.yaml"), help="compression YAML")
    parser.add_argument("--output_dir", type=Path, help="folder of the iterations (default: <asr_exp>_compressed)")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--train_split", default="train", help="split for calibration and fine-tuning")
    parser.add_argument("--valid_split", default="dev", help="split for searching and for accepting an iteration")
    parser.add_argument("--test_splits", default="test", help="splits that the config must not name")
    parser.add_argument("--decode_config", type=Path, default=Path("conf/decode.yaml"), help="decoding YAML")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument("--nj", type=count, default=1, help="number of processes that run trials and decode")
    parser.add_argument("--ngpu", type=count_or_none, default=0, help="number of GPUs for fine-tuning and decoding")
    parser.add_argument("--storage", help="URL of an Optuna storage (default: a file in output_dir)")
    parser.add_argument(
        "--worker", type=str2bool, default=False, help="true: only run trials for the searches of another such command"
    )
    parser.add_argument(
        "--force", type=str2bool, default=False, help="remove the contents of output_dir and start again"
    )
    args = parser.parse_args()

    import shutil

    from lrsms.compress import iterate
    from lrsms.compress.config import CompressConfig
    from lrsms.compress.report import write_report
    from lrsms.espnet.compress.toolkit import EspnetToolkit
    from lrsms.training_yaml import read_training_yaml

    root = args.output_dir or args.asr_exp.with_name(f"{args.asr_exp.name}_compressed")
    if args.force and not args.worker:
        shutil.rmtree(root, ignore_errors=True)
    config = CompressConfig.parse(read_training_yaml(args.config), str(args.config))
    toolkit = EspnetToolkit(
        config=config,
        root=root,
        original=args.asr_exp,
        data_dir=args.data_dir,
        train_split=args.train_split,
        valid_split=args.valid_split,
        test_splits=tuple(args.test_splits.split()),
        decode_config=args.decode_config,
        checkpoint=args.checkpoint,
        nj=args.nj,
        ngpu=args.ngpu,
        storage=args.storage,
    )
    if args.worker:
        toolkit.work()
        return
    toolkit.begin()
    try:
        start = toolkit.start()
        iterations = iterate.run(toolkit, args.asr_exp, root, config.loop, start)
    finally:
        toolkit.end()
    full_ranks = toolkit.full_ranks(start)
    storage = args.storage or root / "optuna.journal"
    print(
        write_report(
            root, iterations, storage=storage, fidelity=config.fidelity, full_ranks=full_ranks, budget=config.budget
        )
    )


if __name__ == "__main__":
    run_verb(main)
