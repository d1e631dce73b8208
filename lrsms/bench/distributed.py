"""Training steps of processes that train together: DistributedDataParallel over gloo, as in ESPnet's trainer."""

from __future__ import annotations

import socket
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from lrsms.espnet.bench.dummy import DummyTraining


class TogetherTraining(DummyTraining):
    """One of several processes; in a world of one, plain training.

    Args:
        config: training YAML.
        rank, world: this process among them.
        port: on this machine, where they meet.
        **options: of :class:`lrsms.espnet.bench.dummy.DummyTraining`.
    """

    def __init__(self, config: Path, rank: int, world: int, port: int, **options):
        super().__init__(config, **options)
        self._meeting = None if world == 1 else (rank, world, port)

    def dummy_step(self, *args, **kwargs):
        if self._meeting is not None:  # not while it is made: the others are made after it
            rank, world, port = self._meeting
            torch.distributed.init_process_group(
                "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
            )
            self.model, self._meeting = DistributedDataParallel(self.model), None
        return super().dummy_step(*args, **kwargs)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
