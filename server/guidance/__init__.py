# SPDX-License-Identifier: GPL-3.0-or-later
"""Guidances: gradients that pull latents toward a prior's density. See README.md."""

import inspect
import pkgutil
from collections.abc import Callable

from .bandwidth import Adaptive, Constant, Geometric, Linear
from .base import Guidance, GuidanceStep

__all__ = ["GUIDANCES", "Adaptive", "Constant", "Geometric", "Guidance", "GuidanceStep", "Linear", "create"]

GUIDANCES = {  # name -> "module:Class" of a class whose arguments are the settings
    "msd": f"{__name__}.msd:MSD",
    "sds": f"{__name__}.sds:SDS",
    "sdi": f"{__name__}.sdi:SDI",
    "vsd": f"{__name__}.vsd:VSD",
}


def create(name: str, **settings: object) -> Guidance:
    """The named guidance with these settings; every setting has a default.

    Raises ValueError that lists what there is, for an unknown name or setting or a value out of range.
    """
    if name not in GUIDANCES:
        raise ValueError(f"There is no guidance {name!r}: choose {', '.join(GUIDANCES)}.")
    kind: Callable[..., Guidance] = pkgutil.resolve_name(GUIDANCES[name])
    known = list(inspect.signature(kind).parameters)
    for setting in settings:
        if setting not in known:
            raise ValueError(f"Guidance {name!r} has no setting {setting!r}: it has {', '.join(known)}.")
    return kind(**settings)
