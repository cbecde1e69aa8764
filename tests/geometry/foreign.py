# SPDX-License-Identifier: GPL-3.0-or-later
"""OBJ, PLY and USD files that tests make, as other programs and people leave them."""

import numpy as np
from PIL import Image

from server.geometry.files import load

SQUARE = """mtllib my lib.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl Wood
f 1/1 2/2 3/3 4/4
"""
BLUE, GREEN, GRAY = (10, 20, 200), (10, 200, 20), (128, 128, 128)
U = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
FRAME = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]  # a hole, by a bridge


def read(path):
    """(the mesh, what was said)."""
    said = []
    mesh = load(path, said.append)
    assert all(note.endswith(".") and "\n" not in note for note in said), said
    return mesh, said


def picture(path, colour):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (2, 2), colour).save(path)


def areas(positions, faces):
    a, b, c = (np.asarray(positions, float)[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def area(mesh):
    return np.linalg.norm(areas(mesh.positions, mesh.faces), axis=1).sum()


def strip(count, first=0, row=0):
    """An OBJ of `count` quads in tiles side by side."""
    lines = []
    for i in range(count):
        lines += [f"v {i + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines += [f"vt {first + i + x} {row + y}" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines.append("f " + " ".join(f"{4 * i + k}/{4 * i + k}" for k in (1, 2, 3, 4)))
    return "\n".join(lines) + "\n"


def usd(path, text):
    path.write_text('#usda 1.0\n(\n    metersPerUnit = 1\n    upAxis = "Z"\n)\n' + text)
    return path


def usd_mesh(points, counts, index, more=""):
    return (
        f'def Mesh "m" {{\n  point3f[] points = {[tuple(map(float, point)) for point in points]}\n'
        f"  int[] faceVertexCounts = {counts}\n  int[] faceVertexIndices = {index}\n{more}\n}}\n"
    )


XYZ = ("property float x", "property float y", "property float z")
CORNERS = "property list uchar int vertex_indices"
TRIANGLE = b"0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def ply(*lines, form="ascii", end="\n"):
    return end.join(["ply", f"format {form} 1.0", *lines, "end_header", ""]).encode()


def plain(*more, end="\n", form="ascii"):
    return ply(*more, "element vertex 3", *XYZ, "element face 1", CORNERS, form=form, end=end)


QUAD = ([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], [4], [0, 1, 2, 3])


def material(**inputs):
    """A material "a": the surface's input -> (file, the picture's output)."""
    lines = [
        'def Material "a" {',
        "  token outputs:surface.connect = </a/s.outputs:surface>",
        '  def Shader "s" {',
        '    uniform token info:id = "UsdPreviewSurface"',
        "    token outputs:surface",
    ]
    lines += [
        f"    {'color3f' if name == 'diffuseColor' else 'float'} inputs:{name}.connect = </a/{name}.outputs:{output}>"
        for name, (_, output) in inputs.items()
    ] + ["  }"]
    for name, (file, output) in inputs.items():
        lines += [
            f'  def Shader "{name}" {{',
            '    uniform token info:id = "UsdUVTexture"',
            f"    asset inputs:file = @{file}@",
            f"    {'float3' if output == 'rgb' else 'float'} outputs:{output}",
            "  }",
        ]
    return "\n".join([*lines, "}\n"])


BOUND = '  rel material:binding = </a>\n  texCoord2f[] primvars:{} = {} (\n interpolation = "faceVarying"\n )\n'
SQUARE_UVS = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


def bound(name="st", uvs=SQUARE_UVS):
    return 'prepend apiSchemas = ["MaterialBindingAPI"]', BOUND.format(name, uvs)


def textured_quad(tmp_path, name="st", **inputs):
    head, more = bound(name)
    text = usd_mesh(*QUAD, more).replace('"m" {', f'"m" (\n  {head}\n) {{')
    return usd(tmp_path / "a.usda", text + material(**inputs))


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)
