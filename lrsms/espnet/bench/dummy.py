"""Models of a given size with random weights and made-up speech: what can be timed where nothing has been trained."""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.tasks import asr
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import check_training_config, sampling_rate
from lrsms.espnet.models.cost import speech_for, trainable_parameters
from lrsms.espnet.training.task import ASRTask
from lrsms.lowrank import skip_initialization
from lrsms.quiet import nothing_printed

PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        LrsmsError: none of :data:`PRECISIONS`, or TF32 without a GPU.
    """
    if precision not in PRECISIONS:
        raise LrsmsError(f"--precisions: {precision!r} is unknown; any of {', '.join(PRECISIONS)}")
    if precision == "tf32" and device != "cuda":
        raise LrsmsError("--precisions: tf32 is a GPU's; it needs --device cuda")


def dummy_model(config: Path, vocab_size: int, ngpu: int = 0) -> tuple[argparse.Namespace, nn.Module]:
    """The model of a training YAML with a token list of so many words.

    Args:
        config: training YAML.
        vocab_size: length of the token list.
        ngpu: as ESPnet's option.

    Returns:
        Every option of ESPnet's task, and the ``ESPnetASRModel`` on the CPU.

    Raises:
        LrsmsError: a config that training would refuse.
    """
    options = check_training_config(config, ASRTask)
    tokens = ["<blank>", "<unk>", *(f"w{number}" for number in range(vocab_size - 3)), "<sos/eos>"]
    defaults = vars(ASRTask.get_parser().parse_args([]))
    fixed = {"token_list": tokens, "token_type": "word", "init": None, "ngpu": ngpu}
    args = argparse.Namespace(**(defaults | options | fixed))
    torch.manual_seed(0)
    with nothing_printed(), skip_initialization():  # SVDs of weights that mean nothing
        return args, asr.ASRTask.build_model(args)


def write_dummy_model(config: Path, folder: Path, checkpoint: str, vocab_size: int = 1000) -> None:
    """Leave an experiment as if it had been trained.

    Args:
        config: training YAML.
        folder: of the experiment.
        checkpoint: file name in it.
        vocab_size: length of the token list.

    Raises:
        LrsmsError: a config that training would refuse.
    """
    args, model = dummy_model(config, vocab_size)
    known = {key: value for key, value in vars(args).items() if key not in asr.ASRTask.exclude_opts()}
    Experiment(folder, checkpoint).write(known, model.state_dict())


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes:
        forward: seconds of model and loss.
        backward: of the gradients.
        update: of the optimizer that the config names; 0 where it was left out.
        audio: seconds of speech in the batch, padding not counted.
        cpu: seconds of processor time of the whole step, of the program and of the system for it: what a busy machine
            changes least.
    """

    forward: float
    backward: float
    update: float
    audio: float
    cpu: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.forward + self.backward + self.update


class DummyTraining:
    """A model with its optimizer, and steps of it on noise.

    Args:
        config: training YAML.
        vocab_size: tokens of the output.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        update: whether the optimizer takes part, with its memory of two more numbers a weight.

    Raises:
        LrsmsError: a config that training would refuse.
    """

    def __init__(
        self,
        config: Path,
        *,
        vocab_size: int = 5000,
        device: str = "cpu",
        threads: int = 1,
        update: bool = True,
    ):
        torch.set_num_threads(threads)
        args, model = dummy_model(config, vocab_size, int(device == "cuda"))
        self.model: nn.Module = model.to(device).train()
        self.optimizer = asr.ASRTask.build_optimizers(args, self.model)[0] if update else None
        self.fs, self.device, self.vocab_size = sampling_rate(args.frontend_conf), device, vocab_size
        self.use_precision("fp32")

    def use_precision(self, precision: str) -> None:
        """``bf16``: autocast; ``tf32``: products and convolutions of float32 in TF32; ``fp32``: none of both.

        Raises:
            LrsmsError: of :func:`check_precision`.
        """
        check_precision(precision, self.device)
        self.amp = precision == "bf16"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def parameters(self) -> int:
        """Trainable ones."""
        return trainable_parameters(self.model)

    def gradient_bytes(self) -> int:
        """What processes that train together exchange for one update."""
        return sum(
            parameter.numel() * parameter.element_size()
            for parameter in self.model.parameters()
            if parameter.requires_grad
        )

    def dummy_step(
        self, batch: int, seconds: float, spread: float = 0.0, tokens_per_second: float = 4.0, seed: int = 0
    ) -> Step:
        """A step on noise.

        Args:
            batch: utterances.
            seconds: of the longest.
            spread: the shortest is so much shorter, as a share of the longest.
            tokens_per_second: of the transcripts.
            seed: of noise and transcripts, and of what the model draws: dropout, the stream that is dropped.
        """
        torch.manual_seed(seed)  # arms of a comparison drop the same streams
        generator = torch.Generator().manual_seed(seed)
        durations = [seconds * (1 - spread * row / max(1, batch - 1)) for row in range(batch)]
        speech = torch.randn(batch, round(seconds * self.fs), generator=generator) * 0.1
        counts = [max(1, round(duration * tokens_per_second)) for duration in durations]
        text = torch.randint(2, self.vocab_size - 1, (batch, max(counts)), generator=generator)
        for row, count in enumerate(counts):
            text[row, count:] = -1
        speech = speech_for(getattr(self.model, "module", self.model), speech)  # of DistributedDataParallel
        lengths = torch.tensor([max(1, round(duration / seconds * speech.shape[1])) for duration in durations])
        return self.step(speech, lengths, text, torch.tensor(counts), sum(durations))

    def step(self, speech, speech_lengths, text, text_lengths, audio: float) -> Step:
        """A step on a batch as ESPnet's model takes it; ``audio`` is its seconds of speech."""
        inputs = [tensor.to(self.device) for tensor in (speech, speech_lengths, text, text_lengths)]
        moments, worked = [self._now()], time.process_time()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            loss = self.model(*inputs)[0]
        moments.append(self._now())
        loss.backward()
        moments.append(self._now())
        if self.optimizer is not None:
            self.optimizer.step()
            moments.append(self._now())
        else:
            moments.append(moments[-1])
        self.model.zero_grad(set_to_none=True)
        forward, backward, update = (after - before for before, after in itertools.pairwise(moments))
        return Step(forward, backward, update, audio, time.process_time() - worked)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def forget_peak_memory(self) -> None:
        """Begin :meth:`peak_memory` anew; on a CPU it cannot be."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def release_memory(self) -> None:
        """Give freed memory of the GPU back, for others to use."""
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def peak_memory(self) -> int:
        """Bytes: on a GPU the most that torch has held, on a CPU the most that this whole process has."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_memory()


def peak_memory() -> int:
    """Most bytes of memory that this process has had to itself at a time."""
    try:
        # Not ru_maxrss alone: that of a new process begins with what its parent had.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
