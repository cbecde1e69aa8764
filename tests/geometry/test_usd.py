# SPDX-License-Identifier: GPL-3.0-or-later
"""USD files as other programs and people leave them: what is read, and what is warned of."""

from pathlib import Path

import numpy as np
import pytest

from server.geometry.files import MeshFileError, load
from tests.geometry.foreign import BLUE, BOUND, GREEN, QUAD, SQUARE_UVS, picture, read, textured_quad, usd, usd_mesh


@pytest.mark.parametrize(
    "name, value",
    [("metersPerUnit", 0.0), ("metersPerUnit", float("nan")), ("metersPerUnit", -1.0), ("upAxis", "X"), ("upAxis", "")],
)
def test_usd_stages_that_say_what_cannot_be(tmp_path, pxr, name, value):
    from pxr import Sdf

    usd(tmp_path / "a.usda", usd_mesh(*QUAD))
    layer = Sdf.Layer.OpenAsAnonymous(str(tmp_path / "a.usda"))
    layer.pseudoRoot.SetInfo(name, value)
    layer.Export(str(tmp_path / "b.usdc"))
    with pytest.raises(ValueError, match=f"says that its {name} is .*: export it again"):
        load(tmp_path / "b.usdc")


def test_metadata_of_another_type_is_a_sentence(tmp_path, pxr):
    """In a binary file a value's type is a byte beside it."""
    from pxr import Sdf

    usd(tmp_path / "a.usda", usd_mesh(*QUAD))
    Sdf.Layer.OpenAsAnonymous(str(tmp_path / "a.usda")).Export(str(tmp_path / "a.usdc"))
    content = (tmp_path / "a.usdc").read_bytes()
    place = content.index(b"\x80\x3f\0\0\x09\x40") + 4  # 1.0, a double
    for kind in (1, 3, 10, 12, 15):  # a truth value, an int, a string, an asset, a matrix
        (tmp_path / f"{kind}.usdc").write_bytes(content[:place] + bytes([kind]) + content[place + 1 :])
        with pytest.raises(ValueError, match="says that its metersPerUnit is [^\n]*, which cannot be: export it again"):
            load(tmp_path / f"{kind}.usdc")


def test_usd_pictures_are_found_like_those_of_others(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    picture(tmp_path / "packed.png", (10, 20, 30))
    path = textured_quad(
        tmp_path,
        diffuseColor=("C:/textures/Wood.png", "rgb"),
        roughness=("./packed.png", "g"),
        metallic=("gone.png", "b"),
    )
    mesh, said = read(path)
    assert {name: values[0, 0].tolist() for name, values in mesh.textures.items()} == {
        "texture.0": list(BLUE),
        "roughness.0": 20,
    }
    assert len(said) == 2 and "'wood.png' beside it is taken" in said[0] and "'gone.png', which is not there" in said[1]


def test_usd_tiles_have_their_pictures(tmp_path, pxr):
    picture(tmp_path / "wood.1001.png", BLUE)
    picture(tmp_path / "wood.1002.png", GREEN)
    path = textured_quad(tmp_path, diffuseColor=("./wood.<UDIM>.png", "rgb"))
    uvs = [*SQUARE_UVS[:3], (1.0, 0.0), (2.0, 0.0), (2.0, 1.0)]
    path.write_text(
        path.read_text()
        .replace(str(SQUARE_UVS), str(uvs))
        .replace("[4]", "[3, 3]")
        .replace("[0, 1, 2, 3]", "[0, 1, 2, 0, 2, 3]")
    )
    mesh, said = read(path)
    assert [tuple(mesh.textures[f"texture.{slot}"][0, 0]) for slot in mesh.slots] == [BLUE, GREEN] and not said


def test_usd_uvs_by_any_name(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    mesh, said = read(textured_quad(tmp_path, "map1", diffuseColor=("wood.png", "rgb")))
    assert mesh.uvs[0].tolist() == [[0, 0], [1, 0], [1, 1]] and not said
    path = textured_quad(tmp_path, diffuseColor=("wood.png", "rgb"))
    other = BOUND.format("light", [(0.5, 0.5)] * 4).partition("\n")[2]
    path.write_text(path.read_text().replace("  texCoord2f[]", other + "  texCoord2f[]", 1))
    mesh, said = read(path)
    assert mesh.uvs[0].tolist() == [[0, 0], [1, 0], [1, 1]] and mesh.more_uvs[0][0, 0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "kind, values", [("constant", [(1, 0, 0)]), ("uniform", [(1, 0, 0)]), ("vertex", [(1, 0, 0)] * 4)]
)
def test_usd_colours_of_any_interpolation(tmp_path, pxr, kind, values):
    more = f'  color3f[] primvars:displayColor = {values} (\n interpolation = "{kind}"\n )\n'
    mesh, said = read(usd(tmp_path / "a.usda", usd_mesh(*QUAD, more)))
    assert mesh.colours.tolist() == [[255, 0, 0]] * 4 and not said


def test_usd_instances_are_read_and_what_is_no_mesh_is_said(tmp_path, pxr):
    text = (
        'class "c" {\n' + usd_mesh(*QUAD) + '}\ndef Xform "one" (\n instanceable = true\n inherits = </c>\n) {}\n'
        'def Xform "two" (\n instanceable = true\n inherits = </c>\n) {\n double3 xformOp:translate = (5, 0, 0)\n'
        ' uniform token[] xformOpOrder = ["xformOp:translate"]\n}\n'
        'def Sphere "ball" {}\ndef BasisCurves "hair" {}\n'
        + usd_mesh(*QUAD, ' token visibility = "invisible"')
        + usd_mesh(*QUAD, ' uniform token purpose = "guide"').replace('"m"', '"g"')
    )
    mesh, said = read(usd(tmp_path / "a.usda", text))
    assert mesh.positions[:, 0].max() == 6 and len(mesh.faces) == 4
    assert len(said) == 3 and "(2), which are left out" in said[0] and "BasisCurves, Sphere prims" in said[2]
    assert "its 2 objects become one mesh" in said[1]


def test_usd_subdivision_and_holes(tmp_path, pxr):
    mesh, said = read(
        usd(
            tmp_path / "a.usda",
            usd_mesh(
                [*QUAD[0], (2, 0, 0)],
                [4, 3],
                [0, 1, 2, 3, 1, 4, 2],
                '  uniform token subdivisionScheme = "catmullClark"\n  int[] holeIndices = [1]',
            ),
        )
    )
    assert len(mesh.faces) == 2 and len(said) == 1 and "subdivision" in said[0]


@pytest.mark.parametrize(
    "kind, values",
    [
        ("vertex", [(0, 0, 2)] * 4),
        ("faceVarying", [(0, 0, 1)] * 4),
        ("uniform", [(0, 0, 1)]),
        ("constant", [(0, 0, 1)]),
    ],
)
def test_normals_of_usd_turn_with_their_mesh(tmp_path, pxr, kind, values):
    path = textured_quad(tmp_path, diffuseColor=("wood.png", "rgb"))
    picture(tmp_path / "wood.png", BLUE)
    stage = pxr.Usd.Stage.Open(str(path))
    shape = next(pxr.UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(pxr.UsdGeom.Mesh))
    shape.CreateNormalsAttr(values)
    shape.SetNormalsInterpolation(kind)
    pxr.UsdGeom.Xformable(shape).AddRotateXOp().Set(90.0)
    pxr.UsdGeom.Xformable(shape).AddScaleOp().Set((1, 1, -3))
    stage.GetRootLayer().Save()
    mesh, said = read(path)
    a, b, c = mesh.positions[mesh.faces[0]].astype(float)
    turned = np.cross(b - a, c - a)  # a mirrored face looks the other way, and so do its normals
    np.testing.assert_allclose(np.abs(mesh.normals[0]), [np.abs(turned / np.linalg.norm(turned))] * 3, atol=1e-6)
    assert not said


def test_usd_materials_keep_names_and_numbers(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    path = textured_quad(tmp_path, roughness=("wood.png", "r"))
    stage = pxr.Usd.Stage.Open(str(path))
    prim = next(prim for prim in stage.Traverse() if prim.IsA(pxr.UsdShade.Material))
    prim.SetDisplayName("Möbel aus Holz")
    surface = pxr.UsdShade.Material(prim).ComputeSurfaceSource("")[0]
    for name, kind, value in (
        ("diffuseColor", "Color3f", (1, 0, 0)),
        ("opacity", "Float", 0.5),
        ("opacityThreshold", "Float", 0.25),
        ("metallic", "Float", 1.0),
    ):
        surface.CreateInput(name, getattr(pxr.Sdf.ValueTypeNames, kind)).Set(value)
    stage.GetRootLayer().Save()
    mesh, said = read(path)
    material = mesh.materials[0]
    assert material.name == "Möbel aus Holz" and not said
    assert (
        material.metallic_roughness["baseColorFactor"] == [1, 0, 0, 0.5]
        and material.metallic_roughness["metallicFactor"] == 1
    )
    assert material.gltf["alphaMode"] == "MASK" and material.gltf["alphaCutoff"] == 0.25


def test_a_file_that_ends_the_librarys_process_is_only_damaged(pxr):
    with pytest.raises(MeshFileError, match="damaged.usdc is damaged: export it again"):
        load(Path(__file__).parents[1] / "data" / "damaged.usdc")
