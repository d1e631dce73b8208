"""Make a trained experiment of a local Whisper model, and stage 2's folder of its tokens.

Usage: lrsms import_whisper --model DIR --asr_exp exp/original
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser


def main() -> None:
    """Parse options and write the experiment, unless it is there."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="PATH",
                        help="*.pt, model.safetensors with config.json, model.bin of CTranslate2, or their folder; "
                        "tokenizer.json beside it")  # fmt: skip
    parser.add_argument("--asr_exp", type=Path, required=True, help="the experiment's folder")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="receives lang_whisper_*")
    parser.add_argument("--audio_context", default="full", choices=("full", "condensed", "clip"),
                        help="30 s as trained, the same with condensed silence, or each clip's own length")  # fmt: skip
    parser.add_argument("--language", default="en", help="of the texts, for a multilingual model")
    parser.add_argument("--vocabulary", type=int, metavar="N",
                        help="keep N tokens of text; what rarer ones spelled is spelled by these, for which the model "
                        "has to be trained (default: all)")  # fmt: skip
    parser.add_argument("--texts", type=Path, metavar="FILE",
                        help="for --vocabulary: one text in a line, which say what tokens are frequent")  # fmt: skip
    parser.add_argument("--force", type=str2bool, default=False, help="write it again")
    args = parser.parse_args()

    if (args.vocabulary is None) != (args.texts is None):
        parser.error("--vocabulary and --texts belong together")

    from lrsms import stamp
    from lrsms.data.tokens import lang_dir
    from lrsms.espnet.checkpoints.experiment import Experiment
    from lrsms.espnet.checkpoints.whisper_experiment import import_whisper
    from lrsms.espnet.training.untrained import SUMMARY, summarize_untrained
    from lrsms.text_files import read_lines
    from lrsms.whisper.files import find, find_tokenizer

    experiment = Experiment(args.asr_exp)
    inputs = [find(args.model), find_tokenizer(args.model)]
    arguments = {"audio_context": args.audio_context, "language": args.language}
    texts: list[str] = []
    if args.texts is not None:
        inputs.append(args.texts)
        arguments["vocabulary"] = args.vocabulary
        texts = read_lines(args.texts)
    mark = args.asr_exp / "inputs.json"
    if (
        not args.force
        and experiment.weights.exists()
        and (args.asr_exp / SUMMARY).exists()
        and stamp.is_current(mark, arguments, inputs)
    ):
        print(f"import_whisper: {args.asr_exp} is up to date, skipped (--force true writes it again)")
    else:
        import_whisper(args.model, experiment, args.audio_context, args.language, args.vocabulary, texts)
        summarize_untrained(experiment)
        stamp.write(mark, arguments, inputs)
    lang = lang_dir(args.data_dir, str(experiment.token_type))
    lang.mkdir(parents=True, exist_ok=True)
    experiment.copy_tokens(lang)
    print(f"{args.asr_exp}: Whisper of {len(experiment.token_list):,} tokens, which are also in {lang}")


if __name__ == "__main__":
    run_verb(main)
