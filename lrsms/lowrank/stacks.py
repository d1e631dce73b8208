"""Many small matrices as a few batches: a GPU waits longer for the start of a product this small than it computes."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence

import torch

_SIDE = 64  # shorter sides are filled up to multiples of this, and longer ones to powers of two, at most


class Stacks:
    """Where each of some matrices lies in batches ``(count, rows, columns)``, and its way back.

    Matrices lie on their longer side, ``rows <= columns``; behind their own rows and columns there are zeros. The way
    is an index of 32 bits for each weight, there and back.

    Args:
        shapes: of the tensors; what is behind the first dimension counts as one.
        device: of the tensors.

    Attributes:
        members: numbers of the tensors in each batch.
        sides: their shorter and longer sides, ``(count, 2)`` for each batch.
    """

    def __init__(self, shapes: Sequence[torch.Size], device: torch.device):
        self.shapes = tuple(shapes)
        self._sizes = sizes = [shape.numel() for shape in shapes]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]  # the last is that of a zero
        matrices = [(shape[0], shape.numel() // shape[0]) for shape in shapes]
        alike = defaultdict(list)
        for number, matrix in enumerate(matrices):
            alike[-(-min(matrix) // _SIDE), (max(matrix) - 1).bit_length()].append(number)
        self.members = list(alike.values())
        self.sides: list[torch.Tensor] = []
        self._there: list[torch.Tensor] = []
        back, offset = [torch.empty(0)] * len(sizes), 0
        for batch in self.members:
            sides = [sorted(matrices[number]) for number in batch]
            rows, columns = (max(lengths) for lengths in zip(*sides, strict=True))
            index = torch.full((len(batch), rows, columns), starts[-1], dtype=torch.int32, device=device)
            places = torch.arange(index.numel(), dtype=torch.int32, device=device).view(index.shape) + offset
            for place, number in enumerate(batch):
                height, width = matrices[number]
                own = torch.arange(starts[number], starts[number + 1], dtype=torch.int32, device=device)
                own = own.view(height, width)
                if height <= width:
                    index[place, :height, :width] = own
                    back[number] = places[place, :height, :width].flatten()
                else:
                    index[place, :width, :height] = own.T
                    back[number] = places[place, :width, :height].T.flatten()
            self._there.append(index)
            self.sides.append(torch.tensor(sides, device=device))
            offset += index.numel()
        self._back = torch.cat(back)

    def pack(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The batches, float32."""
        flat = torch.cat([*(tensor.reshape(-1) for tensor in tensors), tensors[0].new_zeros(1)]).float()
        return [flat.index_select(0, index.view(-1)).view(index.shape) for index in self._there]

    def unpack(self, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors in the shapes that the batches were made of, in their order, contiguous."""
        flat = torch.cat([batch.reshape(-1) for batch in batches]).index_select(0, self._back)
        return [part.view(shape) for part, shape in zip(flat.split(self._sizes), self.shapes, strict=True)]


def stacks_on_gpu(tensors: Sequence[torch.Tensor]) -> Stacks | None:
    """Stacks of tensors of these shapes, remembered for the next step, if all are on one GPU; None on a CPU."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or not tensors[0].is_cuda:
        return None
    return _stacks(tuple(tensor.shape for tensor in tensors), devices.pop())


_stacks = functools.lru_cache(maxsize=8)(Stacks)
