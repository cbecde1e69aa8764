# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m server.experiments NAME --output DIR: tables (table.md, table.json) and pictures (PNG)."""

from __future__ import annotations

import argparse
import time
from importlib import import_module

from ..paths import expanded, expanded_text
from ..priors.base import PriorError

NAMES = {
    "estimators": "bias, variance and cost of the mean shift's estimators, and where to stop",
    "convergence": "the end points of each guidance, at equal calls and at equal iterations",
    "diversity": "modes found, by the bandwidth that MSD starts with",
    "landscapes": "the losses that SDS and MSD descend, and the effect of the bandwidth",
    "ideal-views": "what texture and generate keep of a true object whose views the prior knows",
    "text-to-2d": "pictures by each guidance on a text-to-image prior, compared with its own samples",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.experiments",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        epilog="\n".join(f"{name:12}  {text}" for name, text in NAMES.items()),
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="one of those below")
    parser.add_argument(
        "--output",
        type=expanded,
        required=True,
        metavar="DIR",
        help="folder to write; denoisers trained there earlier are reused",
    )
    parser.add_argument("--quick", action="store_true", help="a short run as a test, without meaningful numbers")
    parser.add_argument(
        "--model",
        type=expanded_text,
        default="",
        metavar="DIR",
        help="a diffusers folder for diversity and text-to-2d, instead of the bundled prior",
    )
    parser.add_argument(
        "--clip",
        type=expanded_text,
        default="",
        metavar="DIR",
        help="a CLIP model on this disk, for a second Fréchet distance in text-to-2d",
    )
    ideal = parser.add_argument_group("ideal-views")
    ideal.add_argument("--mesh", type=expanded_text, default="", metavar="FILE", help="the true object; a ball without")
    ideal.add_argument("--mode", choices=("texture", "generate"), default="texture")
    ideal.add_argument("--resolution", type=int, default=256, metavar="PIXELS", help="of the prior; %(default)s")
    ideal.add_argument("--texture-size", type=int, default=1024, metavar="PIXELS", help="%(default)s")
    ideal.add_argument("--iterations", type=int, metavar="N", help="of a job, its default without")
    ideal.add_argument("--by-word", action="store_true", help="the prior knows pictures by their views' words only")
    ideal.add_argument("--new-uvs", action="store_true", help="unwrap the mesh, whatever UVs it has")
    ideal.add_argument("--grating", type=float, default=0.0, metavar="PIXELS", help="a sheet with lines of that period")
    options = parser.parse_args(arguments)
    settings: dict[str, object] = {"quick": options.quick}
    if options.name == "ideal-views":
        names = ("mesh", "mode", "resolution", "texture_size", "iterations", "by_word", "new_uvs", "grating")
        settings |= {name: getattr(options, name) for name in names}
    if options.name in ("diversity", "text-to-2d"):
        settings["model"] = options.model
    elif options.model:
        parser.error(f"{options.name} works on densities in closed form and takes no --model.")
    if options.name == "text-to-2d":
        settings["clip"] = options.clip
    elif options.clip:
        parser.error(f"Only text-to-2d takes --clip, not {options.name}.")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write to {options.output}: {error.strerror}.")
    start = time.perf_counter()
    try:
        import_module(f".{options.name.replace('-', '_')}", __package__).run(options.output, **settings)
    except PriorError as error:
        parser.exit(1, f"{error}\n")
    print(f"{options.output / 'table.md'} and pictures beside it, in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
