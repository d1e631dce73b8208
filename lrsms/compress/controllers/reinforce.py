"""REINFORCE (Williams 1992) with an LSTM policy that walks over the layers, as ShrinkML does (arXiv 1907.03540).

The policy sees the layer before, what it chose there, and how much of the model that layer is; it gives a distribution
over the levels of the next. The reward is minus the error of the candidate, which has been brought to the budget, so
that reward and budget need no weighing; a moving baseline is taken off it, and the spread of
the errors seen scales it.
An entropy bonus keeps the policy from settling early. Size of the network and rates are our own choice: the paper's
are not public.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from optuna.trial import Trial
from torch import nn

from lrsms.compress.controllers.base import Context, Finished, Proposal

HIDDEN = 32
RATE = 0.02
ENTROPY = 0.02
BASELINE = 0.9  # share of the past in the moving mean


class Policy(nn.Module):
    """Distribution over the levels of each group, given those chosen before it.

    Args:
        levels: number of levels of each group.
        sizes: share of the model's cost that each group has, dense.
    """

    def __init__(self, levels: Sequence[int], sizes: Sequence[float]):
        super().__init__()
        self.levels, self.sizes = list(levels), list(sizes)
        self.cell = nn.LSTMCell(max(levels) + 2, HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, count) for count in levels)
        for head in self.heads:
            nn.init.zeros_(head.weight)  # at first every level is equally likely
            nn.init.zeros_(head.bias)

    def walk(self, choose) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Levels as ``choose(group, distribution)`` picks them, their log-probability and the mean entropy."""
        state, previous = None, None
        chosen, log_probability, entropy = [], torch.zeros(()), torch.zeros(())
        for group, head in enumerate(self.heads):
            seen = torch.zeros(1, self.cell.input_size)
            if previous is not None:
                seen[0, previous] = 1.0
            seen[0, -2:] = torch.tensor([self.sizes[group], group / len(self.levels)])
            state = self.cell(seen, state)
            distribution = torch.distributions.Categorical(logits=head(state[0])[0])
            previous = choose(group, distribution)
            chosen.append(previous)
            log_probability = log_probability + distribution.log_prob(torch.tensor(previous))
            entropy = entropy + distribution.entropy() / len(self.levels)
        return chosen, log_probability, entropy


class Reinforce:
    """See the module. Other workers' trials train the policy as well, in the order of their numbers."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.context = context
        space = context.space
        whole = space.cost(space.largest)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.policy = Policy(
                [len(group.ranks) for group in space.groups],
                [space.costs(index)[-1] / whole for index in range(len(space.groups))],
            )
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=RATE)
        self.told: set[int] = set()
        self.baseline: float | None = None
        self.spread = 0.0

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Learn from the trials that are new, then sample."""
        for finished in history:
            if finished.number not in self.told:
                self._learn(finished)
        generator = self.context.generator(trial.number)

        def sample(_, distribution) -> int:
            weights = distribution.probs.detach().double().numpy()
            return int(generator.choice(len(weights), p=weights / weights.sum()))

        with torch.no_grad():
            levels, _, _ = self.policy.walk(sample)
        return Proposal(tuple(map(float, levels)))

    def _learn(self, finished: Finished) -> None:
        self.told.add(finished.number)
        if self.baseline is None:
            self.baseline = finished.error
        difference = self.baseline - finished.error  # above zero: better than usual
        self.spread = BASELINE * self.spread + (1 - BASELINE) * abs(difference)
        self.baseline = BASELINE * self.baseline + (1 - BASELINE) * finished.error
        advantage = max(-3.0, min(3.0, difference / self.spread)) if self.spread else 0.0
        _, log_probability, entropy = self.policy.walk(lambda group, _: round(finished.levels[group]))
        self.optimizer.zero_grad()
        (-advantage * log_probability - ENTROPY * entropy).backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()


def make(context: Context) -> Reinforce:
    """Make the controller."""
    return Reinforce(context)
