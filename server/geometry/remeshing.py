# SPDX-License-Identifier: GPL-3.0-or-later
"""Isotropic remeshing to a number of faces, without floaters."""

from __future__ import annotations

from dataclasses import replace

import igl
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from .mesh import InvalidMeshError, Mesh, degenerate_faces
from .normals import area_normals

TARGET_FACES = 6000  # enough for the bundled prior's objects
FLOATER_VOLUME = 0.02  # of the largest component's
ITERATIONS = 5  # of split, collapse, flip and smooth
COUNT_TOLERANCE = 0.05  # of the target face count


def remesh(mesh: Mesh, target_faces: int | None = None) -> Mesh:
    """The mesh without floaters, remeshed to `target_faces` near-equilateral triangles, None for `TARGET_FACES`.

    The count is met within a tenth, unless the mesh has more holes and handles than that many faces can have.
    Components are dropped as in `remove_small_components`. The rest is remeshed isotropically (Botsch and Kobbelt,
    "A Remeshing Approach to Multiresolution Modeling", 2004), each vertex projected back to the surface. A watertight
    manifold stays one, open borders stay as they are, locked vertices and the faces between them keep their bits.
    Vertex colours are interpolated; UVs, slots, normals, materials and textures are dropped, because their faces no
    longer exist. The same mesh gives the same bytes.

    Raises `InvalidMeshError` for a mesh that is not manifold.
    """
    import gpytoolbox  # a second to import

    mesh = remove_small_components(mesh)
    positions, faces = mesh.positions.astype(np.float64), mesh.faces.astype(np.int32)
    if not len(faces):
        return mesh
    if not igl.is_edge_manifold(faces)[0] or not igl.is_vertex_manifold(faces)[0]:
        raise InvalidMeshError(
            "The mesh has edges or vertices where more than one surface meets: mend them (in Blender, "
            "Select Non Manifold finds them) or keep its topology."
        )
    locked = np.flatnonzero(mesh.locked) if mesh.locked is not None else np.zeros(0, np.int64)
    target = target_faces or TARGET_FACES
    length = np.sqrt(_area(positions, faces) / target * 4 / np.sqrt(3))  # of equilateral triangles
    made, best = None, (np.inf, np.inf)
    for _ in range(6):
        points, triangles = gpytoolbox.remesh_botsch(positions, faces, ITERATIONS, length, True, feature=locked)
        fresh = points.astype(np.float32)
        dirty = int(degenerate_faces(fresh, triangles).sum()) + len(fresh) - len(np.unique(fresh, axis=0))
        found = dirty, abs(len(triangles) / target - 1)
        if found < best:
            made, best = (points, fresh, triangles.astype(np.int32)), found
        if found[0] == 0 and found[1] < COUNT_TOLERANCE:
            break
        # Edges longer than a handle is thick make duplicate vertices.
        length *= 0.7 if dirty else np.sqrt(len(triangles) / target)
    assert made is not None
    points, fresh, triangles = made
    marks = (
        None
        if mesh.locked is None
        else np.concatenate([mesh.locked[locked], np.zeros(len(fresh) - len(locked), np.uint8)])
    )
    return replace(
        mesh,
        positions=fresh,
        faces=triangles,
        colours=_colours_at(mesh, points),
        uvs=None,
        slots=None,
        locked=marks,
        textures={},
        normals=None,
        more_uvs=(),
        materials={},
    )


def remove_small_components(mesh: Mesh, share: float = FLOATER_VOLUME) -> Mesh:
    """The mesh without floaters: watertight components with less than `share` of the largest one's volume.

    Cavities, whose volume is negative, are among them. Open components and those with a locked vertex stay. Unused
    vertices are dropped, too; UVs, slots and normals stay with their faces. Returns the mesh itself where nothing goes.
    """
    faces = mesh.faces
    if not len(faces):
        return mesh
    count, of_vertex = connected_components(faces, len(mesh.positions))
    owner = of_vertex[faces[:, 0]]
    a, b, c = (mesh.positions[faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.bincount(owner, (a * np.cross(b, c)).sum(axis=1) / 6, count)
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, first, uses = np.unique(edges, axis=0, return_index=True, return_counts=True)
    opened = np.bincount(owner[first // 3], uses != 2, count) > 0
    kept = (volume >= share * volume.max()) | opened
    if mesh.locked is not None:
        kept[of_vertex[mesh.locked > 0]] = True
    stays = kept[owner]
    used = np.zeros(len(mesh.positions), bool)
    used[faces[stays]] = True
    if used.all() and stays.all():
        return mesh
    number = np.cumsum(used) - 1
    return replace(
        mesh,
        positions=mesh.positions[used],
        faces=number[faces[stays]].astype(np.int32),
        colours=_rows(mesh.colours, used),
        locked=_rows(mesh.locked, used),
        uvs=_rows(mesh.uvs, stays),
        slots=_rows(mesh.slots, stays),
        normals=_rows(mesh.normals, stays),
        more_uvs=tuple(each[stays] for each in mesh.more_uvs),
    )


def _rows(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[rows]


def connected_components(faces: np.ndarray, vertices: int) -> tuple[int, np.ndarray]:
    """(the number of components that share vertices, the component of each vertex (V,)).

    faces: (F, 3) with corners below `vertices`. A vertex without a face is a component of its own.
    """
    a, b = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = sparse.coo_matrix((np.ones(len(a), bool), (a, b)), (vertices, vertices))
    return csgraph.connected_components(graph, directed=False)  # type: ignore[no-any-return]


def _area(positions: np.ndarray, faces: np.ndarray) -> float:
    return float(np.linalg.norm(area_normals(positions, faces), axis=1).sum() / 2)


def _colours_at(mesh: Mesh, points: np.ndarray) -> np.ndarray | None:
    """(N, 3) uint8: the vertex colours, interpolated at the nearest points of the surface."""
    if mesh.colours is None:
        return None
    positions, faces = mesh.positions.astype(np.float64), mesh.faces.astype(np.int64)
    _, face, place = igl.point_mesh_squared_distance(points, positions, faces)
    corners = np.ascontiguousarray(positions[faces[face]].transpose(1, 0, 2))
    weights = np.nan_to_num(igl.barycentric_coordinates(place, *corners)).clip(0, 1)
    colours = (mesh.colours[faces[face]] * weights[..., None]).sum(axis=1)
    return np.round(colours / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)).astype(np.uint8)
