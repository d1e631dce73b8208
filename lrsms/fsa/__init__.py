"""Decoding with finite-state acceptors: n-gram language model, lexicon, their graph and its lattices.

k2 (https://github.com/k2-fsa/k2) is optional and imported by :func:`import_k2` alone.
"""

from types import ModuleType

from lrsms.errors import LrsmsError


def import_k2(wanted_by: str) -> ModuleType:
    """The package k2.

    Args:
        wanted_by: what needs it, as the user wrote it.

    Raises:
        LrsmsError: it is not installed, or was built for another Python or PyTorch.
    """
    try:
        import k2
    except ModuleNotFoundError as error:
        if error.name != "k2":
            raise LrsmsError(f"{wanted_by} needs k2, which is installed without its {error.name}: {_REMEDY}") from None
        raise LrsmsError(f"{wanted_by} needs k2, which is not installed: {_REMEDY}") from None
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LrsmsError(f"{wanted_by} needs k2, which cannot be imported here ({reason}): {_REMEDY}") from None
    return k2


_REMEDY = "docs/k2.md says how to build it"
