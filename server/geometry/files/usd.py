# SPDX-License-Identifier: GPL-3.0-or-later
"""USD by Pixar's own library, the optional extra "usd": a mesh with UsdPreviewSurface materials."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..mesh import Mesh, srgb_to_linear
from .common import ROUGHNESS, Part, Say, face_normals, join, png, vertex_normals, z_up
from .pictures import Picture, textured
from .polygons import triangulate

# Our kind of picture -> the surface's input, its type, the picture's output, and what it is if there is no picture.
INPUTS: dict[str, tuple[str, str, str, Any]] = {
    "texture": ("diffuseColor", "Color3f", "rgb", None),
    "roughness": ("roughness", "Float", "r", ROUGHNESS),
    "metallic": ("metallic", "Float", "r", 0.0),
    "normal": ("normal", "Normal3f", "rgb", None),
}


def _library() -> Any:
    try:
        import pxr.Sdf
        import pxr.Usd
        import pxr.UsdGeom
        import pxr.UsdShade
        import pxr.Vt
    except ImportError:
        raise ValueError("USD files need Pixar's library: install it with pip install usd-core.") from None
    return pxr


def save(mesh: Mesh, path: Path, flat: bool) -> list[Path]:
    """One mesh prim with the mesh's own vertices, UVs per corner, and a subset and material for each slot."""
    pxr = _library()
    Sdf, UsdGeom, UsdShade, Vt = pxr.Sdf, pxr.UsdGeom, pxr.UsdShade, pxr.Vt
    path.unlink(missing_ok=True)
    stage = pxr.Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    name = re.sub(r"\W", "_", path.stem)
    name = name if re.match(r"[A-Za-z_]", name) else "_" + name
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    stage.SetDefaultPrim(root.GetPrim())
    shape = UsdGeom.Mesh.Define(stage, f"/{name}/mesh")
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    shape.CreateDoubleSidedAttr(True)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.positions)))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces).reshape(-1)))
    if len(mesh.positions):
        box = np.stack([mesh.positions.min(axis=0), mesh.positions.max(axis=0)])
        shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(box))
    normals = face_normals(mesh) if flat else vertex_normals(mesh)
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.uniform if flat else UsdGeom.Tokens.vertex)
    primvars = UsdGeom.PrimvarsAPI(shape)
    if mesh.uvs is not None:
        primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying).Set(
            Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(mesh.uvs, np.float32).reshape(-1, 2)))
    if mesh.colours is not None:
        primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex).Set(
            Vt.Vec3fArray.FromNumpy(srgb_to_linear(mesh.colours / 255).astype(np.float32)))
    written = [path]
    slots = mesh.face_slots
    used = np.unique(slots).tolist()
    for slot in used:
        material = UsdShade.Material.Define(stage, f"/{name}/slot_{slot}")
        written += _material(pxr, stage, material, mesh, slot, path)
        prim = shape.GetPrim()
        if len(used) > 1:
            own = Vt.IntArray.FromNumpy(np.flatnonzero(slots == slot).astype(np.int32))
            subset = UsdShade.MaterialBindingAPI.Apply(prim).CreateMaterialBindSubset(f"slot_{slot}", own)
            prim = subset.GetPrim()
        UsdShade.MaterialBindingAPI.Apply(prim).Bind(material)
    stage.GetRootLayer().Save()
    return written


def _material(pxr: Any, stage: Any, material: Any, mesh: Mesh, slot: int, path: Path) -> list[Path]:
    """Fill a material; the pictures written beside the file."""
    Sdf, Types = pxr.Sdf, pxr.Sdf.ValueTypeNames

    def shader(name: str, kind: str) -> Any:
        made = pxr.UsdShade.Shader.Define(stage, material.GetPath().AppendChild(name))
        made.CreateIdAttr(kind)
        return made

    written = []
    surface = shader("surface", "UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Types.Token))
    reader = None
    for kind, (name, type_name, output, default) in INPUTS.items():
        values = mesh.textures.get(f"{kind}.{slot}")
        if values is None and default is None:
            continue
        entry = surface.CreateInput(name, getattr(Types, type_name))
        if values is None:
            entry.Set(default)
            continue
        file = path.with_name(f"{path.stem}_{kind}_{slot}.png")
        file.write_bytes(png(values))
        written.append(file)
        if reader is None:
            reader = shader("st", "UsdPrimvarReader_float2")
            reader.CreateInput("varname", Types.String).Set("st")
            reader.CreateOutput("result", Types.Float2)
        image = shader(kind, "UsdUVTexture")
        image.CreateInput("file", Types.Asset).Set(Sdf.AssetPath(f"./{file.name}"))
        image.CreateInput("sourceColorSpace", Types.Token).Set("sRGB" if kind == "texture" else "raw")
        for wrap in ("wrapS", "wrapT"):
            image.CreateInput(wrap, Types.Token).Set("repeat")
        if kind == "normal":
            image.CreateInput("scale", Types.Float4).Set((2, 2, 2, 1))
            image.CreateInput("bias", Types.Float4).Set((-1, -1, -1, 0))
        image.CreateInput("st", Types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
        entry.ConnectToSource(image.CreateOutput(output, Types.Float3 if output == "rgb" else Types.Float))
    return written


def load(path: Path, say: Say) -> Mesh:
    """All meshes of a file that stands alone, at its first moment, in metres and Z up."""
    pxr = _library()
    if not path.is_file():
        raise ValueError(f"{path.name} is not there: name a file that is.")
    try:
        layer = pxr.Sdf.Layer.FindOrOpen(str(path))
        if layer is None:
            raise ValueError(f"{path.name} is damaged: export it again.")
        # What it refers to could be any file of this machine.
        if layer.GetCompositionAssetDependencies():
            raise ValueError(f"{path.name} refers to other USD files: export it as one file.")
        stage = pxr.Usd.Stage.Open(layer)
    except pxr.Tf.ErrorException:
        raise ValueError(f"{path.name} is damaged: export it again.") from None
    try:
        return _scene(pxr, stage, path, say)
    except pxr.Tf.ErrorException:
        raise ValueError(f"{path.name} is damaged: export it again.") from None


def _scene(pxr: Any, stage: Any, path: Path, say: Say) -> Mesh:
    UsdGeom = pxr.UsdGeom
    scale = _metadata(stage, "metersPerUnit", lambda value: isinstance(value, float) and 0 < value < np.inf, path)
    turned = _metadata(stage, "upAxis", lambda value: value in ("Y", "Z"), path) == "Y"
    cache = UsdGeom.XformCache()
    prims = list(stage.Traverse(pxr.Usd.TraverseInstanceProxies()))
    shapes = [UsdGeom.Mesh(prim) for prim in prims if prim.IsA(UsdGeom.Mesh)]
    shown = [shape for shape in shapes if shape.ComputeVisibility() != UsdGeom.Tokens.invisible
             and shape.ComputePurpose() not in (UsdGeom.Tokens.guide, UsdGeom.Tokens.proxy)]
    if hidden := len(shapes) - len(shown):
        say(f"{path.name} has hidden, guide or proxy meshes ({hidden:,}), which are left out.")
    if others := {prim.GetTypeName() for prim in prims if not prim.IsA(UsdGeom.Mesh)
                  and (prim.IsA(UsdGeom.Gprim) or prim.IsA(UsdGeom.PointInstancer))}:
        say(f"{path.name} has {', '.join(sorted(others))} prims, which are left out: convert them to meshes.")
    bindings = [_bindings(pxr, shape) for shape in shown]
    # Slots go by the materials' order in the file, so that what `save` wrote comes back.
    used = {name for names in bindings for name in names}
    materials = [str(prim.GetPath()) for prim in prims if str(prim.GetPath()) in used] + [""]
    parts = []
    for shape, names in zip(shown, bindings):
        slots = np.array([materials.index(name) for name in names], int)
        part = _part(pxr, shape, np.array(cache.GetLocalToWorldTransform(shape.GetPrim())), slots, path, say)
        part.positions = z_up(part.positions * scale) if turned else part.positions * scale
        parts.append(part)
    mesh = join(parts)
    slots, textures = textured(mesh.face_slots, mesh.uvs, [
        _pictures(pxr, stage.GetPrimAtPath(material), path, say) if material else {} for material in materials],
                               path.name, say)
    return replace(mesh, slots=slots if slots.any() else None, textures=textures)


def _metadata(stage: Any, name: str, fits: Callable[[Any], bool], path: Path) -> Any:
    """A value of the stage as a whole. Raises ValueError where it is of another type or makes no sense."""
    try:
        value = stage.GetMetadata(name)
    except TypeError:                           # of a type that Python does not get to see
        value = "nothing readable"
    if not fits(value):
        shown = " ".join(repr(value).split())
        raise ValueError(f"{path.name} says that its {name} is {shown}, which cannot be: export it again.")
    return value


def _part(pxr: Any, shape: Any, matrix: np.ndarray, slots: np.ndarray, path: Path, say: Say) -> Part:
    """A mesh prim under its world matrix (rows are USD's vectors); slots of its polygons."""
    points = np.array(shape.GetPointsAttr().Get() or [], float).reshape(-1, 3)
    counts = np.array(shape.GetFaceVertexCountsAttr().Get() or [], int)
    index = np.array(shape.GetFaceVertexIndicesAttr().Get() or [], int)
    if (counts < 0).any() or counts.sum() != len(index) or ((index < 0) | (index >= len(points))).any():
        raise ValueError(f"{path.name} has faces with corners that are not there: export it again.")
    if shape.GetSubdivisionSchemeAttr().HasAuthoredValue() and shape.GetSubdivisionSchemeAttr().Get() != "none":
        say(f"{path.name} has subdivision surfaces, whose cages are read: apply the subdivision to keep it.")
    if shape.GetPrim().HasRelationship("skel:skeleton"):
        say(f"{path.name} has a skeleton, which is left out: its meshes are read at rest.")
    triangles, polygons = triangulate(points[index], counts, path.name, say)
    if holes := list(shape.GetHoleIndicesAttr().Get() or []):
        kept = ~np.isin(polygons, holes)
        triangles, polygons = triangles[kept], polygons[kept]
    if (np.linalg.det(matrix[:3, :3]) < 0) != (shape.GetOrientationAttr().Get() == "leftHanded"):
        triangles = triangles[:, ::-1]
    primvars = pxr.UsdGeom.PrimvarsAPI(shape)

    def corners(found: Any) -> np.ndarray | None:
        """(F, 3, C) of a primvar."""
        flat = found.ComputeFlattened() if found and found.HasValue() else None
        if flat is None:
            return None
        values, each = np.array(flat), found.GetInterpolation()
        where = {"faceVarying": triangles, "vertex": index[triangles], "varying": index[triangles],
                 "uniform": polygons[:, None].repeat(3, 1), "constant": np.zeros_like(triangles)}.get(each)
        length = {"faceVarying": len(index), "uniform": len(counts), "constant": 1}.get(each, len(points))
        return values[where] if where is not None and len(values) == length else None

    flat = [found for found in primvars.GetPrimvarsWithValues()
            if found.GetTypeName().type.typeName == "VtArray<GfVec2f>"]
    flat.sort(key=lambda found: _order(found.GetPrimvarName()))
    sets = {found.GetPrimvarName(): uvs for found in flat if (uvs := corners(found)) is not None}
    if len(sets) > 1:
        say(f"{path.name} has several UV maps; {next(iter(sets))!r} is read, and "
            f"{', '.join(map(repr, list(sets)[1:]))} left out.")
    faces, tinted, colours = index[triangles], corners(primvars.GetPrimvar("displayColor")), None
    if tinted is not None:
        colours = np.ones((len(points), 3))
        colours[faces] = tinted
        if (colours[faces] != tinted).any():
            say(f"{path.name} has colours of faces or corners, of which each vertex keeps one.")
    return Part(points @ matrix[:3, :3] + matrix[3, :3], faces, next(iter(sets.values()), None), colours,
                slots[polygons])


def _order(name: str) -> int:
    """The names that exporters give the main UV map come first."""
    names = ("st", "UVMap", "st0")
    return names.index(name) if name in names else len(names)


def _bindings(pxr: Any, shape: Any) -> list[str]:
    """The path of each polygon's material, "" for none."""
    polygons = len(shape.GetFaceVertexCountsAttr().Get() or [])

    def bound(prim: Any) -> str:
        material, _ = pxr.UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
        return str(material.GetPath()) if material else ""

    found = [bound(shape.GetPrim())] * polygons
    for subset in pxr.UsdShade.MaterialBindingAPI(shape.GetPrim()).GetMaterialBindSubsets():
        for polygon in subset.GetIndicesAttr().Get() or []:
            found[polygon] = bound(subset.GetPrim())
    return found


def _pictures(pxr: Any, prim: Any, path: Path, say: Say) -> dict[str, Picture]:
    """The pictures straight behind a material's UsdPreviewSurface."""
    found = {}
    source = pxr.UsdShade.Material(prim).ComputeSurfaceSource("")
    surface = source[0] if source else None
    if not surface or surface.GetIdAttr().Get() != "UsdPreviewSurface":
        say(f"{path.name}: the material {prim.GetName()!r} has no UsdPreviewSurface, and is read without pictures.")
        return {}
    for kind, (name, _, _, _) in INPUTS.items():
        entry = surface.GetInput(name)
        connected = entry.GetConnectedSource() if entry else None
        if not connected:
            continue
        shader = pxr.UsdShade.Shader(connected[0].GetPrim())
        file = shader.GetInput("file") if shader else None
        asset = file.Get() if file else None
        if asset is None or not asset.path:
            say(f"{path.name}: the {name} of the material {prim.GetName()!r} is no picture, and is left out: bake it.")
            continue
        lies = shader.GetInput("st").GetConnectedSource() if shader.GetInput("st") else None
        if lies and pxr.UsdShade.Shader(lies[0].GetPrim()).GetIdAttr().Get() == "UsdTransform2d":
            say(f"{path.name} moves or scales the picture {asset.path!r}, which is not followed: change the UVs "
                "instead.")
        gray = kind in ("roughness", "metallic")
        channel = "rgb".find(connected[1]) if gray and len(connected[1]) == 1 else -1
        found[kind] = Picture(asset.path, path, "L" if gray else "RGB", channel=channel if channel >= 0 else None)
    return found
