# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a mesh with the true shape of a procedural object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from ..bundled_prior import objects, scenes
from ..bundled_prior.descriptions import Description
from ..geometry.marching import marching_tetrahedra
from ..rendering.cameras import OBJECT_RADIUS

POINTS, EDGE = 4000, 48  # samples on either surface; edge of the grid for the volumes
ANGLES = 24  # yaws that the alignment starts from
THRESHOLD = 0.05  # of the true shape's diameter, for the F-score


@dataclass(frozen=True)
class ShapeScores:
    """Similarity of a mesh and a true shape.

    iou: intersection over union of the volumes, in [0, 1].
    f_score: harmonic mean of the shares of either surface within `THRESHOLD` of the other (Tatarchenko et al. 2019).
    chamfer: mean of the two surfaces' mean distances to each other, in diameters of the true shape.
    """

    iou: float
    f_score: float
    chamfer: float


def ground_truth(what: str | Description, edge: int = 96) -> trimesh.Trimesh:
    """The surface of a noun or a description with middle proportions, metres, Z up, front towards -Y.

    edge: points along an edge of the grid that it is extracted from.
    """
    axis = np.linspace(-1, 1, edge)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)  # z slowest
    values = -_signed_distance(what, points).reshape(edge, edge, edge)
    positions, faces = marching_tetrahedra(torch.from_numpy(values))
    return trimesh.Trimesh(positions.numpy(), faces.numpy())


def _signed_distance(what: str | Description, points: np.ndarray) -> np.ndarray:
    if isinstance(what, str):
        return objects.signed_distance(what, points)
    return scenes.signed_distance(what, points)


def load_glb(path: Path) -> trimesh.Trimesh:
    """The triangles of a GLB file, turned from its Y up to Z up."""
    mesh = trimesh.load_mesh(path, process=False)
    return trimesh.Trimesh(mesh.vertices @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float), mesh.faces)


def align(source: np.ndarray, target: np.ndarray, rounds: int = 12) -> np.ndarray:
    """The (4, 4) similarity that takes points (N, 3) onto others (M, 3): yaw, uniform scale and offset.

    Iterative closest points, each round with the least-squares similarity in closed form (Umeyama 1991), started from
    `ANGLES` yaws, of which the best result counts.
    """
    tree = cKDTree(target)
    best, least = np.eye(4), np.inf
    for angle in 2 * np.pi * np.arange(ANGLES) / ANGLES:
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        scale = np.ptp(target, axis=0).max() / np.ptp(source @ turn.T, axis=0).max()
        offset = _middle(target) - scale * turn @ _middle(source)
        for _ in range(rounds):
            moved = scale * source @ turn.T + offset
            there = target[tree.query(moved)[1]]
            back = cKDTree(moved).query(target)[1]
            a, b = np.concatenate([source, source[back]]), np.concatenate([there, target])
            turn, scale, offset = _similarity(a, b)
        moved = scale * source @ turn.T + offset
        error = tree.query(moved)[0].mean() + cKDTree(moved).query(target)[0].mean()
        if error < least:
            least, best = error, np.eye(4)
            best[:3, :3], best[:3, 3] = scale * turn, offset
    return best


def _middle(points: np.ndarray) -> np.ndarray:
    return (points.max(0) + points.min(0)) / 2


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Yaw (3, 3), scale and offset that take points a (N, 3) to b (N, 3) with the least squared error."""
    centre, goal = a.mean(0), b.mean(0)
    p, q = a - centre, b - goal
    angle = np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p[:, :2] * q[:, :2]).sum())
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    scale = float((q * (p @ turn.T)).sum() / np.square(p).sum())
    return turn, scale, goal - scale * turn @ centre


def compare_shapes(mesh: trimesh.Trimesh, what: str | Description, seed: int = 0) -> ShapeScores:
    """Scores of a mesh against a noun or a description with middle proportions, after `align`.

    seed: of the surface samples.

    Raises ValueError for a mesh without faces.
    """
    if not len(mesh.faces):
        raise ValueError("The mesh has no faces: there is nothing to compare.")
    real = ground_truth(what)
    diameter = 2 * np.linalg.norm(real.vertices - _middle(real.vertices), axis=1).max()
    ours, faces = trimesh.sample.sample_surface(mesh, POINTS, seed=seed)
    theirs, _ = trimesh.sample.sample_surface(real, POINTS, seed=seed)
    place = align(ours[::4], theirs[::4])
    moved = ours @ place[:3, :3].T + place[:3, 3]
    there, back = cKDTree(theirs).query(moved)[0] / diameter, cKDTree(moved).query(theirs)[0] / diameter
    precision, recall = (there < THRESHOLD).mean(), (back < THRESHOLD).mean()
    axis = np.linspace(-1.1, 1.1, EDGE) * OBJECT_RADIUS
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    inside = _signed_distance(what, grid) < 0
    filled = _inside(mesh.copy().apply_transform(place), grid)
    return ShapeScores(
        iou=float((inside & filled).sum() / max(1, (inside | filled).sum())),
        f_score=float(2 * precision * recall / max(precision + recall, 1e-9)),
        chamfer=float((there.mean() + back.mean()) / 2),
    )


def _inside(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """Which points lie inside: behind the nearest of many surface samples, by its normal."""
    places, faces = trimesh.sample.sample_surface(mesh, 10 * POINTS, seed=0)
    nearest = cKDTree(places).query(points)[1]
    return ((points - places[nearest]) * mesh.face_normals[faces[nearest]]).sum(axis=1) < 0
