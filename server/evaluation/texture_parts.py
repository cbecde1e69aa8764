# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a texture keep to the mesh's parts? ``python -m server.evaluation.texture_parts --output DIR``.

Paints procedural objects whose parts have known colours, with and without the bundled depth ControlNet, and compares
the colour of every face with that of its part. Jobs that DIR has already are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from msd_blender.protocol import JobRequest

from ..assets.mesh_asset import Placement
from ..bundled_prior import objects, shapes
from ..bundled_prior.captions import prompt
from ..bundled_prior.primitives import rotation
from ..geometry.colour import linear_to_srgb
from ..geometry.files import load
from ..geometry.marching import marching_tetrahedra
from ..geometry.mesh import Mesh
from ..optimize import generate
from ..optimize.output import appearance
from ..paths import expanded
from ..priors.additions.control_pictures import PICTURES
from ..rendering import rasterize
from ..rendering.cameras import Cameras, orbit
from ..rendering.render import TURNTABLE_VIEWS, depth_and_normals, turntable

# All things of which at least a quarter of the surface is not of the captioned colour, in colours that no trim has.
THINGS = {
    "mushroom": "red",
    "rocket": "orange",
    "car": "green",
    "house": "yellow",
    "snowman": "blue",
    "lamp": "cyan",
    "boat": "pink",
    "cactus": "green",
}
# All things with a front and trim of another colour. Turned by a quarter they do not show the side that the prompt of a
# view names, as a mesh that an artist has not turned to face the front.
FRONTS = {
    "car": "green",
    "house": "yellow",
    "robot": "blue",
    "bear": "orange",
    "duck": "yellow",
    "airplane": "red",
    "sofa": "purple",
}
TURN = 90.0  # degrees, counter-clockwise seen from above
ALIKE = 0.2  # distance in sRGB below which two colours of a palette count as one
EDGE = 40  # points along an edge of the grid that a mesh is extracted from
ARMS = {"without": [], "with": ["depth"]}  # name of a column -> control
SIZE = 96  # of a view in the picture, pixels
SHOWN = (1, 5)  # views of a turntable in it


@dataclass(frozen=True)
class Thing:
    """A procedural object as a grey mesh, with the truth about its colours.

    palette: (K, 3) sRGB, the captioned colour first. truth: (F,) each face's place in it. area: (F,) of the faces.
    """

    mesh: Mesh
    palette: np.ndarray
    truth: np.ndarray
    area: np.ndarray

    @classmethod
    def build(cls, noun: str, colour: str, seed: int, turn: float = 0.0) -> Thing:
        """With the proportions of a seed, turned by degrees about the vertical."""
        shape = shapes.Shape.build(noun, np.random.default_rng(seed))
        rows = shape.painted(np.array(shapes.COLOURS[colour]))
        axis = np.linspace(-1, 1, EDGE)
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)  # z slowest
        values = -objects.signed_distance(noun, points, seed).reshape(EDGE, EDGE, EDGE)
        positions, faces = (each.numpy() for each in marching_tetrahedra(torch.from_numpy(values)))
        corners = positions[faces]
        colours = linear_to_srgb(rows[:, 1:4])
        main = int(np.flatnonzero(shape.parts[:, 1] < 0)[0])
        kept = [colours[main]]
        for other in np.unique(colours.round(4), axis=0):
            if np.linalg.norm(np.array(kept) - other, axis=1).min() > ALIKE:
                kept.append(other)
        palette = np.array(kept)
        truth = np.abs(colours[:, None] - palette).sum(2).argmin(1)[objects.nearest_part(rows, corners.mean(1))]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        positions = positions @ rotation("z", turn).T
        mesh = Mesh(positions.astype(np.float32), faces.astype(np.int32))
        return cls(mesh, palette, truth, np.linalg.norm(cross, axis=1))

    def right(self, painted: Mesh) -> np.ndarray:
        """(F,) whether a face of the painted mesh, at its middle, is nearer to its part's colour than to the others."""
        assert painted.uvs is not None
        picture = painted.textures["texture.0"].astype(float) / 255
        column, row = (painted.uvs.mean(1) * picture.shape[1::-1]).astype(int).T
        shown = picture[row.clip(0, len(picture) - 1), column.clip(0, picture.shape[1] - 1)]
        nearest = np.linalg.norm(shown[:, None] - self.palette, axis=2).argmin(1)
        right: np.ndarray = nearest == self.truth
        return right


def measure(thing: Thing, folder: Path) -> dict[str, float]:
    """Shares of the surface with the right part's colour: of all of it, and of the parts of other colours."""
    right = thing.right(load(folder / "mesh.glb"))
    other = thing.truth > 0
    return {
        "all": float((right * thing.area).sum() / thing.area.sum()),
        "other parts": float((right * thing.area)[other].sum() / thing.area[other].sum()),
    }


def paint(thing: Thing, folder: Path, text: str, seed: int, control: list[str], iterations: int) -> None:
    """Run the job of one picture, unless it has finished in its folder."""
    request = JobRequest(
        text, seed=seed, mode="texture", mesh="x", iterations=iterations, texture_size=512, control=control
    )
    if not (folder / "job.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        generate(request, folder, lambda _: None, lambda: False, mesh=thing.mesh)


def views(mesh: Mesh, colours: np.ndarray | None = None) -> np.ndarray:
    """The mesh from the front right and the back left, (SIZE, 2 SIZE, 3) uint8."""
    device = torch.device("cpu")
    shown: Any = colours if colours is not None else appearance(mesh, device)
    picture = turntable(
        rasterize.create("cpu", device), mesh.positions, mesh.faces, shown, device, TURNTABLE_VIEWS, SIZE
    )
    return np.concatenate([picture[:, i * SIZE : (i + 1) * SIZE] for i in SHOWN], axis=1)


def seen_by_control(mesh: Mesh) -> np.ndarray:
    """The pictures of all kinds that ControlNets get of the first of `views`, (SIZE, 3 SIZE, 3) uint8."""
    device = torch.device("cpu")
    asset = Placement.of(mesh).apply(mesh.positions)
    around = orbit(TURNTABLE_VIEWS)
    one = slice(SHOWN[0], SHOWN[0] + 1)
    camera = Cameras(around.azimuth[one], around.elevation[one], around.distance[one], around.fov[one])
    depth, normals = depth_and_normals(
        rasterize.create("cpu", device), torch.from_numpy(asset), torch.from_numpy(mesh.faces), camera, SIZE
    )
    pictures = [draw(depth.flip(1), normals.flip(1))[0] for draw in PICTURES.values()]
    return (255 * torch.cat(pictures, dim=2)).round().byte().movedim(0, -1).numpy()


def true_views(thing: Thing) -> np.ndarray:
    """As `views`, of the true colours."""
    corners = thing.mesh.positions[thing.mesh.faces].reshape(-1, 3)
    split = Mesh(corners, np.arange(len(corners), dtype=np.int32).reshape(-1, 3))
    return views(split, (255 * thing.palette[thing.truth]).round().astype(np.uint8).repeat(3, 0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m server.evaluation.texture_parts", description=__doc__)
    parser.add_argument("--output", type=expanded, required=True, metavar="DIR", help="gets the table and a picture")
    parser.add_argument("--work", type=expanded, default=Path("out/texture-parts"), metavar="DIR", help="of the jobs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("--standing", nargs="*", choices=THINGS, default=list(THINGS), help="as they stand")
    parser.add_argument("--turned", nargs="*", choices=FRONTS, default=list(FRONTS), help="turned by a quarter")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for title, names, things, turn in (
        ("as they stand", options.standing, THINGS, 0.0),
        ("turned by a quarter", options.turned, FRONTS, TURN),
    ):
        if names:
            _table(title, {name: things[name] for name in names}, turn, options)


def _table(title: str, things: Mapping[str, str], turn: float, options: argparse.Namespace) -> None:
    """One table and its picture."""
    name = title.replace(" ", "-")
    lines = [
        f"| thing, {title} | seed | of the captioned colour | "
        + " | ".join(f"right, {arm}" for arm in ARMS)
        + " | "
        + " | ".join(f"right on other parts, {arm}" for arm in ARMS)
        + " |",
        "|---" * (3 + 2 * len(ARMS)) + "|",
    ]
    scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    mains, bands = [], []
    for noun, colour in things.items():
        text = prompt(colour, noun)
        for seed in range(options.seeds):
            thing = Thing.build(noun, colour, seed, turn)
            mains.append(float(thing.area[thing.truth == 0].sum() / thing.area.sum()))
            pictures = [seen_by_control(thing.mesh), true_views(thing)]
            for arm, control in ARMS.items():
                folder = options.work / f"{noun}-{turn:g}-{seed}-{arm}"
                paint(thing, folder, text, seed, control, options.iterations)
                scores[arm].append(measure(thing, folder))
                pictures.append(views(load(folder / "mesh.glb")))
            if not seed:
                bands.append(np.concatenate(pictures, axis=1))
            lines.append(_line(f"{text} | {seed}", mains[-1], [scores[arm][-1] for arm in ARMS]))
            print(lines[-1], flush=True)
    means = [
        {name: float(np.mean([row[name] for row in scores[arm]])) for name in ("all", "other parts")} for arm in ARMS
    ]
    lines.append(_line("**mean** | ", float(np.mean(mains)), means))
    (options.output / f"{name}.md").write_text("\n".join(lines) + "\n")
    titles = [*PICTURES, "true colours", "", *(cell for arm in ARMS for cell in (arm, ""))]
    _save(np.concatenate(bands), titles, options.output / f"{name}.png")


def _line(name: str, main: float, rows: Sequence[dict[str, float]]) -> str:
    cells = [f"{row[key]:.1%}".replace("%", " %") for key in ("all", "other parts") for row in rows]
    return f"| {name} | {main:.1%}".replace("%", " %") + " | " + " | ".join(cells) + " |"


def _save(picture: np.ndarray, titles: Sequence[str], path: Path) -> None:
    image = Image.new("RGB", (picture.shape[1], picture.shape[0] + 16), "white")
    image.paste(Image.fromarray(picture), (0, 16))
    for i, title in enumerate(titles):
        ImageDraw.Draw(image).text((i * SIZE + 4, 2), title, fill="black")
    image.save(path)


if __name__ == "__main__":
    main()
