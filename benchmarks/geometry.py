# SPDX-License-Identifier: GPL-3.0-or-later
"""Remeshing and unwrapping of objects of known shape, and the cost of both and of a preconditioned step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import igl
import numpy as np
import torch
import trimesh
from scipy import sparse
from scipy.sparse.linalg import splu

from server.bundled_prior import shapes
from server.evaluation.compare import ground_truth
from server.geometry.mesh import Mesh
from server.geometry.mesh_quality import quality_report
from server.geometry.precondition import Preconditioner
from server.geometry.remeshing import remesh
from server.geometry.uvs import unwrap

EDGE = 49  # points along an edge of the grid, as in generate
POINTS = 8000
NEAR = 0.01  # of the diameter: five times as strict as `server.evaluation.compare`


def distances(source: trimesh.Trimesh, target: trimesh.Trimesh) -> np.ndarray:
    """From points all over one surface to the other, in diameters of the latter."""
    points, _ = trimesh.sample.sample_surface(source, POINTS, seed=0)
    squared, _, _ = igl.point_mesh_squared_distance(
        np.array(points), np.array(target.vertices), np.array(target.faces, np.int64)
    )
    return np.sqrt(squared) / np.linalg.norm(np.ptp(target.vertices, axis=0))


def f_score(mesh: trimesh.Trimesh, real: trimesh.Trimesh) -> float:
    precision, recall = (distances(mesh, real) < NEAR).mean(), (distances(real, mesh) < NEAR).mean()
    return float(2 * precision * recall / (precision + recall))


def roundness(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Of each triangle: 1 equilateral, 0 degenerate."""
    corners = positions[faces].astype(float)
    edges = corners - corners[:, [1, 2, 0]]
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    return 2 * np.sqrt(3) * doubled / np.square(edges).sum(axis=(1, 2))


def quality() -> None:
    print(
        f"Cleaned to 6,000 triangles; F at {NEAR:.0%} of the diameter, before and after; farthest: the largest "
        "distance between the two surfaces, in diameters; thin: triangles with under half of an equilateral's "
        "area to edges, before and after.\n"
    )
    print("| | triangles | F | farthest | thin | crossing | UV overlap | UV angle stretch |")
    print("|---" * 8 + "|")
    for noun in shapes.NOUNS:
        real, shape = ground_truth(noun), ground_truth(noun, EDGE)
        mesh = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
        made = remesh(mesh)
        _, split, uvs = unwrap(made.positions, made.faces)
        found = quality_report(Mesh(made.positions, made.faces, uvs=uvs[split]))
        after = trimesh.Trimesh(made.positions, made.faces, process=False)
        far = max(distances(shape, after).max(), distances(after, shape).max())
        thin = [(roundness(each.positions, each.faces) < 0.5).mean() for each in (mesh, made)]
        print(
            f"| {noun} | {len(mesh.faces):,} to {len(made.faces):,} | {f_score(shape, real):.3f} to "
            f"{f_score(after, real):.3f} | {far:.2%} | {thin[0]:.0%} to {thin[1]:.1%} | "
            f"{found['self_intersecting_share']:.1%} | {found['uv_overlap_share']:.1%} | "
            f"{found['uv_angle_stretch']:.3f} |",
            flush=True,
        )


def seconds(work: Callable[[], Any], times: int) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def costs() -> None:
    print("\nMilliseconds, medians, of spheres; a preconditioned step is a solve forward and one backward.\n")
    print(
        "| triangles | remesh | unwrap | report | factor | step | SuperLU's factor | SuperLU's step | "
        "our step to SuperLU's |"
    )
    print("|---" * 9 + "|")
    for subdivisions in (3, 4, 5):
        ball = trimesh.creation.icosphere(subdivisions)
        mesh = Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))
        faces, x = torch.from_numpy(mesh.faces), torch.from_numpy(mesh.positions)
        ours = Preconditioner(faces, len(x))
        u = ours.from_positions(x).requires_grad_()
        row, column, value = (each.numpy() for each in ours.matrix)
        matrix = sparse.coo_matrix((value, (row, column)), (len(x),) * 2).tocsc()
        theirs, right = splu(matrix), u.detach().double().numpy()
        row = [
            seconds(lambda: remesh(mesh, len(mesh.faces)), 3),
            seconds(lambda: unwrap(mesh.positions, mesh.faces), 3),
            seconds(lambda: quality_report(mesh), 3),
            seconds(lambda: Preconditioner(faces, len(x)), 5),
            seconds(lambda: ours.to_positions(u).sum().backward(), 30),
            seconds(lambda: splu(matrix), 5),
            seconds(lambda: (theirs.solve(right), theirs.solve(right)), 30),
        ]
        print(
            f"| {len(mesh.faces):,} | "
            + " | ".join(f"{1000 * value:.1f}" for value in row)
            + f" | {row[4] / row[6]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    quality()
    costs()
