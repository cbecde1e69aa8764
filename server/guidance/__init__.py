# SPDX-License-Identifier: GPL-3.0-or-later
"""Guidances: gradients that pull latents toward a prior's density. See README.md."""

from dataclasses import fields
from importlib import import_module
from typing import Any

from .bandwidth import Adaptive, Constant, Geometric, Linear
from .base import Guidance, GuidanceStep

__all__ = ["GUIDANCES", "Adaptive", "Constant", "Geometric", "Guidance", "GuidanceStep", "Linear", "create"]

GUIDANCES = {  # module of this package: its dataclass, whose fields are the settings
    "msd": "MSD",
    "sds": "SDS",
    "sdi": "SDI",
    "vsd": "VSD",
}


def create(name: str, **settings: Any) -> Guidance:
    """The named guidance with these settings; every setting has a default.

    Raises ValueError that lists what there is, for an unknown name or setting or a value out of range.
    """
    if name not in GUIDANCES:
        raise ValueError(f"There is no guidance {name!r}: choose {', '.join(GUIDANCES)}.")
    kind = getattr(import_module(f".{name}", __package__), GUIDANCES[name])
    known = [field.name for field in fields(kind)]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"Guidance {name!r} has no setting {setting!r}: it has {', '.join(known)}.")
    return kind(**settings)
