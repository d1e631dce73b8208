"""What part of a face a configured model looks at."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping

from espnet2.tasks.asr import encoder_choices

from lrsms.espnet.models.av_conformer import AVConformerEncoder


def encoder_region(args: argparse.Namespace | Mapping) -> tuple[int, int] | None:
    """Height and width of the mouth region that the configured encoder takes; None for a model of audio."""
    options = args if isinstance(args, Mapping) else vars(args)
    encoder = encoder_choices.classes.get(options.get("encoder"))
    if encoder is None or not issubclass(encoder, AVConformerEncoder):
        return None
    default = inspect.signature(AVConformerEncoder).parameters["region"].default
    region = (options.get("encoder_conf") or {}).get("region", default)
    return (region, region) if isinstance(region, int) else tuple(region)
