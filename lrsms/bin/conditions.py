"""Decode splits with one audio-visual checkpoint over noise and with either stream missing.

Usage: lrsms conditions --asr_exp exp/train_lrsms --splits test --nj 2
Then lrsms score adds the table and the picture of WER over SNR to exp/RESULTS.md.
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT


def main() -> None:
    """Parse options and decode each split under every condition."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--splits", default="test", help="splits to decode, separated by spaces")
    parser.add_argument("--train_split", default="train", help="split whose utterances make the babble noise")
    parser.add_argument(
        "--config", type=Path, default=Path("conf/decode.yaml"), help="decoding YAML: options of ESPnet's Speech2Text"
    )
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument(
        "--snrs", default="clean 20 15 10 5 0 -5", help="SNRs of the babble in dB, separated by spaces; clean for none"
    )
    parser.add_argument(
        "--modalities",
        help="any of audio, video, audiovisual, separated by spaces (default: all that the encoder takes)",
    )
    parser.add_argument("--voices", type=count, default=4, help="number of voices in the babble")
    parser.add_argument("--seed", type=count_or_none, default=0, help="seed of the babble")
    parser.add_argument("--nj", type=count, default=1, help="number of processes, each with one thread")
    parser.add_argument("--ngpu", type=count_or_none, default=0, help="number of GPUs to spread the processes over")
    parser.add_argument("--force", type=str2bool, default=False, help="decode again even if nothing has changed")
    args = parser.parse_args()

    from lrsms.avsr.conditions import grid, parse_snrs
    from lrsms.espnet.checkpoints.experiment import Experiment
    from lrsms.espnet.inference.av_conditions import ConditionsDecoding, modalities_of
    from lrsms.espnet.inference.decode_split import Decoding

    modalities = modalities_of(Experiment(args.asr_exp)) if args.modalities is None else args.modalities.split()
    conditions = grid(modalities, parse_snrs(args.snrs))
    train_cuts = args.data_dir / args.train_split / "cuts.jsonl.gz"
    for split in args.splits.split():
        cuts = args.data_dir / split / "cuts.jsonl.gz"
        decoding = Decoding(args.asr_exp, cuts, args.config, args.checkpoint, args.nj, args.ngpu)
        ConditionsDecoding(decoding, conditions, train_cuts, args.voices, args.seed).run(args.force)


if __name__ == "__main__":
    run_verb(main)
