"""Score decoded splits and write RESULTS.md, results.json and the pictures.

Usage: lrsms score --data_dir data --exp_dir exp
       lrsms score --decoded exp/asr_X/inference_Y/test --references dump/raw/test

The second scores what ESPnet's own asr.sh has decoded, without sclite: it writes score_wer/result.txt and
score_cer/result.txt in sclite's layout, which ESPnet's scripts/utils/show_asr_result.sh reads.
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser


def main() -> None:
    """Parse options and score."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds <split>/cuts.jsonl.gz")
    parser.add_argument(
        "--exp_dir", type=Path, default=Path("exp"), help="folder that holds the experiments and receives the results"
    )
    parser.add_argument("--results_dir", type=Path, help="second folder for the results, such as the recipe's")
    parser.add_argument("--force", type=str2bool, default=False, help="score again even if nothing has changed")
    parser.add_argument("--decoded", type=Path, help="folder of one decoded split, with the file text: score it alone")
    parser.add_argument(
        "--references", type=Path, help="with --decoded: Kaldi folder or manifest of cuts that holds the references"
    )
    args = parser.parse_args()
    if (args.decoded is None) != (args.references is None):
        parser.error("--decoded and --references go together")
    if args.decoded is not None:
        score_one(args.decoded, args.references)
        return

    from lrsms.scoring.results import write_results
    from lrsms.sweep.tables import add_to_results

    print(write_results(args.data_dir, args.exp_dir, args.results_dir, args.force))
    if args.results_dir is not None:
        add_to_results(args.results_dir)


def score_one(decoded: Path, references: Path) -> None:
    """Score ``decoded/text`` and print word and character error rates in percent with their 95 % intervals."""
    from lrsms.scoring.decoding import score_decoding

    scores = score_decoding(decoded, references)
    for name, score in (("WER", scores.wer), ("CER", scores.cer)):
        counts = score.total
        print(
            f"{decoded}: {name} {score.rate:.2f} % [{score.low:.2f}, {score.high:.2f}], "
            f"{counts.errors} errors in {counts.tokens}, {counts.sentences} utterances"
        )
    if scores.missing:
        print(f"{decoded}: {scores.missing} utterances have no hypothesis and count as all deletions")


if __name__ == "__main__":
    run_verb(main)
