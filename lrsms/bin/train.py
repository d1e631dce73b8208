"""Stage 3: train a model through ESPnet.

Usage: lrsms train --config conf/train_lrsms.yaml --output_dir exp/train_lrsms
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import TOKEN_TYPES, espnet_token_type


def main() -> None:
    """Parse options and train."""
    parser = CommandParser(description=__doc__, epilog="Options after -- go to espnet2.bin.asr_train as they are.")
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--train_split", default="train", help="split to train on")
    parser.add_argument("--valid_split", default="dev", help="split to validate on")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, default="char", help="token type of stage 2")
    parser.add_argument("--vocab_size", type=count, default=500, help="unigram, bpe: vocabulary size of stage 2")
    parser.add_argument("--seed", type=count_or_none, default=0, help="seed of weights and batches")
    parser.add_argument("--ngpu", type=count_or_none, default=0, help="number of GPUs of this machine")
    parser.add_argument("--num_nodes", type=count, default=1, help="number of machines that train together")
    parser.add_argument("--num_processes", type=count, default=1, help="number of CPU processes that train together")
    parser.add_argument(
        "--warmup_epochs",
        type=count_or_none,
        help="number of first epochs that are trained dense (default: the config's)",
    )
    parser.add_argument("--force", type=str2bool, default=False, help="start again in a folder that holds a training")
    parser.add_argument("espnet_options", nargs="*", help="options of espnet2.bin.asr_train, after --")
    args = parser.parse_args()

    from lrsms.data.tokens import lang_dir
    from lrsms.espnet.training.run import Training

    Training(
        config=args.config,
        output_dir=args.output_dir,
        train_cuts=args.data_dir / args.train_split / "cuts.jsonl.gz",
        valid_cuts=args.data_dir / args.valid_split / "cuts.jsonl.gz",
        lang_dir=lang_dir(args.data_dir, args.token_type, args.vocab_size),
        token_type=espnet_token_type(args.token_type),
        seed=args.seed,
        ngpu=args.ngpu,
        num_nodes=args.num_nodes,
        num_processes=args.num_processes,
        espnet_options=args.espnet_options,
        warmup_epochs=args.warmup_epochs,
    ).run(args.force)


if __name__ == "__main__":
    run_verb(main)
