"""A search space and an error that the tests know everything about."""

from lrsms.compress.space import Layer, SearchSpace
from lrsms.lowrank.plan import PlanEntry


def space(layers: int = 5, ratios=(0.1, 0.25, "dense"), **options) -> SearchSpace:
    """``layers`` square layers of 40 x 40 beside 1000 weights that are not searched."""
    made = [
        Layer(
            f"encoder.encoders.{i}.feed_forward.w_1",
            PlanEntry(f"encoders.{i}.feed_forward.w_1", "feed_forward", i, 40, 40, None),
            None,
            10.0,
        )
        for i in range(layers)
    ]
    return SearchSpace.make(made, ratios, 1000 + layers * 1600, multiple=1, **options)


def additive_error(toy: SearchSpace, weights):
    """``ranks -> error``: each layer costs its weight times what it has lost of its rank."""

    def score(ranks: dict, partial=lambda step, error: None) -> float:
        return sum(
            weight * (0 if ranks[group.layers[0].path] is None else 1 - ranks[group.layers[0].path] / 40)
            for weight, group in zip(weights, toy.groups)
        )

    return score
