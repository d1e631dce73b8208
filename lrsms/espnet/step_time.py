"""Seconds of a training step, of several configs side by side, on made-up speech: no corpus is needed."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.tasks import asr
from torch import nn
from tqdm import tqdm

from lrsms.espnet.compat import nothing_printed
from lrsms.espnet.config_check import check_training_config
from lrsms.espnet.measure import sampling_rate, speech_for, trainable_parameters
from lrsms.espnet.task import ASRTask


@dataclass(frozen=True)
class StepTime:
    """What one training step takes: medians over the steps that were timed, in seconds.

    Attributes:
        config: the training YAML.
        parameters: trainable ones.
        forward: model and loss.
        backward: gradients.
        update: of the optimiser that the config names; 0 where it was left out.
        memory: largest memory on the GPU in bytes, 0 on a CPU.
    """

    config: str
    parameters: int
    forward: float
    backward: float
    update: float
    memory: int = 0

    @property
    def step(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def time_steps(
    configs: Sequence[Path],
    *,
    batch: int,
    seconds: float,
    steps: int = 5,
    vocab_size: int = 5000,
    tokens_per_second: float = 4.0,
    device: str = "cpu",
    amp: bool = False,
    update: bool = True,
) -> list[StepTime]:
    """Time training steps of each config, in turns, so that what else the machine does hits them alike.

    Args:
        configs: training YAMLs.
        batch: utterances in a batch.
        seconds: length of each.
        steps: timed steps of each config; one more before them warms up.
        vocab_size: tokens of the output.
        tokens_per_second: of the made-up transcripts.
        device: ``cpu`` or ``cuda``.
        amp: mixed precision (bfloat16).
        update: whether the optimiser takes part, with its memory of two more numbers a weight.

    Returns:
        One :class:`StepTime` for each config, in their order.

    Raises:
        LrsmsError: a config that training would refuse.
    """
    trained = [_Trained(path, vocab_size, device, update) for path in configs]
    times: list[list[tuple[float, float, float]]] = [[] for _ in trained]
    with tqdm(total=(steps + 1) * len(trained), desc="training steps", unit="step", delay=2) as bar:
        for turn in range(steps + 1):
            for one, measured in zip(trained, times):
                found = one.step(batch, seconds, tokens_per_second, amp)
                if turn:
                    measured.append(found)
                bar.update()
    return [
        StepTime(
            str(path),
            trainable_parameters(one.model),
            *(statistics.median(part) for part in zip(*measured)),
            one.memory,
        )
        for path, one, measured in zip(configs, trained, times)
    ]


class _Trained:
    """A model with its optimiser."""

    def __init__(self, config: Path, vocab_size: int, device: str, update: bool = True):
        options = check_training_config(config, ASRTask)
        tokens = ["<blank>", "<unk>", *(f"t{number}" for number in range(vocab_size - 3)), "<sos/eos>"]
        defaults = vars(ASRTask.get_parser().parse_args([]))
        args = argparse.Namespace(**(defaults | options | {"token_list": tokens, "ngpu": int(device == "cuda")}))
        torch.manual_seed(0)
        with nothing_printed():
            self.model: nn.Module = asr.ASRTask.build_model(args).to(device).train()
        self.optimizer = asr.ASRTask.build_optimizers(args, self.model)[0] if update else None
        self.fs, self.device, self.vocab_size, self.memory = sampling_rate(args.frontend_conf), device, vocab_size, 0

    def step(self, batch: int, seconds: float, rate: float, amp: bool) -> tuple[float, float, float]:
        """Seconds of forward, backward and update."""
        speech = speech_for(self.model, torch.randn(batch, round(seconds * self.fs)) * 0.1).to(self.device)
        lengths = torch.full((batch,), speech.shape[1], device=self.device)
        text = torch.randint(2, self.vocab_size - 1, (batch, max(1, round(seconds * rate)))).to(self.device)
        text_lengths = torch.full((batch,), text.shape[1], device=self.device)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        moments = [self._now()]
        with torch.autocast(self.device, torch.bfloat16, enabled=amp):
            loss = self.model(speech, lengths, text, text_lengths)[0]
        moments.append(self._now())
        loss.backward()
        moments.append(self._now())
        if self.optimizer is not None:
            self.optimizer.step()
            moments.append(self._now())
        else:
            moments.append(moments[-1])
        self.model.zero_grad(set_to_none=True)
        if self.device == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_allocated())
        return tuple(after - before for before, after in zip(moments, moments[1:]))

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
