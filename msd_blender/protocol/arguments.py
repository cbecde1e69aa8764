# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's arguments for the options of a job, on both command lines the same."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection
from typing import Any

from .options import Option
from .request import OPTIONS

_METAVARS = {str: "TEXT", int: "N", float: "X"}


def add_options(
    command: argparse.ArgumentParser, mode: str, folder: Callable[[str], str] = str, without: Collection[str] = ()
) -> None:
    """Add the prompt and a flag for each option that applies to a mode.

    The parsed namespace has the options that were given, by their names in `JobRequest`, and no others but
    `image_prompt`, the picture's file or "".

    Args:
        mode: of `MODES`; the command stands for it, so that it has no flag.
        folder: makes a path of what was typed, for options that name a folder.
        without: options that have no meaning on this command line.
    """
    command._negative_number_matcher = re.compile(r"-[\d.]")  # -30,10 is a value, as -30 is
    for option in OPTIONS.values():
        if not option.internal and mode in option.modes and option.name not in ("mode", *without):
            name = option.name if option.required else option.flag
            command.add_argument(name, default=argparse.SUPPRESS, help=_help(option), **_kind(option, folder))
    command.add_argument(
        "--image-prompt",
        default="",
        type=folder,
        metavar="FILE",
        help="a PNG, JPEG or WebP picture that the model follows beside the prompt; needs --ip-adapter",
    )


def _kind(option: Option, folder: Callable[[str], str]) -> dict[str, Any]:
    """The arguments of `add_argument` that follow from an option's type."""
    if option.type is bool:
        return {"action": "store_true"}
    if option.choices:
        return {"choices": option.choices} | ({"nargs": "+"} if option.many else {})
    if option.required:
        return {"metavar": option.name.upper()}
    if option.texts:
        return {
            "action": "append",
            "dest": option.name,
            "type": folder if option.folder else str,
            "metavar": option.syntax,
        }
    if option.folder:
        return {"type": folder, "metavar": "DIR"}
    if option.many:
        return {"type": option.type, "nargs": 2, "metavar": tuple(option.syntax.split()) or ("LOW", "HIGH")}
    return {"type": option.type, "metavar": _METAVARS[option.type]}


def _help(option: Option) -> str:
    notes = []
    if option.type in (int, float) and not (option.type is int and option.low == 0):
        notes.append(f"{option.low:,} to {option.high:,}")
    if option.default is None:
        notes.append(f"default: {option.none}")
    elif option.texts:
        notes.append("may be given again")
    elif option.default and not option.required:
        notes.append(f"default: {option.default}")
    return option.text + (f" ({'; '.join(notes)})" if notes else "")
