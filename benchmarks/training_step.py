"""Time a training step of several configs side by side, on made-up speech.

Usage: python benchmarks/training_step.py --configs "egs/lrs3/avsr1/conf/train_dense.yaml \
    egs/lrs3/avsr1/conf/train_lrsms.yaml" --batch 4 --seconds 8 --device cuda --amp true
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb, str2bool


def main() -> None:
    """Parse options, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configs", required=True, help="training YAMLs, separated by spaces; the first is compared to"
    )
    parser.add_argument("--batch", type=int, default=1, help="utterances in a batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each utterance")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each config; the median counts")
    parser.add_argument("--vocab_size", type=int, default=5000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", type=str2bool, default=False, help="bfloat16 where torch allows it")
    parser.add_argument("--update", type=str2bool, default=True, help="whether the optimiser takes part")
    parser.add_argument("--threads", type=int, help="of torch on a CPU (default: torch's own)")
    args = parser.parse_args()

    import torch

    from lrsms.espnet.step_time import table, time_steps

    if args.threads:
        torch.set_num_threads(args.threads)
    names = ("batch", "seconds", "steps", "vocab_size", "device", "amp", "update")
    options = {name: getattr(args, name) for name in names}
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; {', '.join(f'{key} {value}' for key, value in options.items() if key != 'device')}\n")
    print(table(time_steps([Path(path) for path in args.configs.split()], **options)))


if __name__ == "__main__":
    run_verb(main)
