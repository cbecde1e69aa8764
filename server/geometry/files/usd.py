# SPDX-License-Identifier: GPL-3.0-or-later
"""USD by Pixar's own library, the optional extra "usd": a mesh with UsdPreviewSurface materials."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..mesh import Mesh, srgb_to_linear
from .common import ROUGHNESS, Part, Say, beside, face_normals, fans, join, picture, png, vertex_normals, z_up

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
    UsdGeom = pxr.UsdGeom
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
    scale = UsdGeom.GetStageMetersPerUnit(stage)
    turned = UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.y
    cache = UsdGeom.XformCache()
    shapes = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    bindings = [_bindings(pxr, shape) for shape in shapes]
    # Slots go by the materials' order in the file, so that what `save` wrote comes back.
    used = {name for names in bindings for name in names}
    materials = [str(prim.GetPath()) for prim in stage.Traverse() if str(prim.GetPath()) in used] + [""]
    parts = []
    for shape, names in zip(shapes, bindings):
        slots = np.array([materials.index(name) for name in names], int)
        part = _part(pxr, shape, np.array(cache.GetLocalToWorldTransform(shape.GetPrim())), slots)
        part.positions = z_up(part.positions * scale) if turned else part.positions * scale
        parts.append(part)
    textures = {f"{kind}.{slot}": values for slot, material in enumerate(materials) if material
                for kind, values in _pictures(pxr, stage.GetPrimAtPath(material), path).items()}
    return replace(join(parts), textures=textures)


def _part(pxr: Any, shape: Any, matrix: np.ndarray, slots: np.ndarray) -> Part:
    """A mesh prim under its world matrix (rows are USD's vectors); slots of its polygons."""
    points = np.array(shape.GetPointsAttr().Get() or [], float).reshape(-1, 3)
    counts = np.array(shape.GetFaceVertexCountsAttr().Get() or [], int)
    index = np.array(shape.GetFaceVertexIndicesAttr().Get() or [], int)
    if counts.sum() != len(index):
        raise KeyError("faceVertexCounts")
    triangles = fans(counts)
    if (np.linalg.det(matrix[:3, :3]) < 0) != (shape.GetOrientationAttr().Get() == "leftHanded"):
        triangles = triangles[:, ::-1]
    primvars = pxr.UsdGeom.PrimvarsAPI(shape)

    def corners(name: str) -> np.ndarray | None:
        """(F, 3, C) of a primvar that has a value for each vertex or corner."""
        found = primvars.GetPrimvar(name)
        flat = found.ComputeFlattened() if found and found.HasValue() else None
        if flat is None:
            return None
        values, each = np.array(flat), found.GetInterpolation()
        if each == "faceVarying" and len(values) == len(index):
            return values[triangles]  # type: ignore[no-any-return]
        return values[index[triangles]] if each in ("vertex", "varying") and len(values) == len(points) else None

    uvs = next((uvs for name in ("st", "UVMap", "st0") if (uvs := corners(name)) is not None), None)
    faces, tinted, colours = index[triangles], corners("displayColor"), None
    if tinted is not None:
        colours = np.ones((len(points), 3))
        colours[faces] = tinted
    return Part(points @ matrix[:3, :3] + matrix[3, :3], faces, uvs, colours,
                np.repeat(slots, np.maximum(counts - 2, 0)))


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


def _pictures(pxr: Any, prim: Any, path: Path) -> dict[str, np.ndarray]:
    """The pictures straight behind a material's UsdPreviewSurface."""
    found = {}
    source = pxr.UsdShade.Material(prim).ComputeSurfaceSource("")
    surface = source[0] if source else None
    for kind, (name, _, _, _) in INPUTS.items():
        entry = surface.GetInput(name) if surface else None
        connected = entry.GetConnectedSource() if entry else None
        file = pxr.UsdShade.Shader(connected[0].GetPrim()).GetInput("file") if connected else None
        asset = file.Get() if file else None
        if asset is not None and asset.path:
            image = picture(beside(path, asset.path), "L" if kind in ("roughness", "metallic") else "RGB")
            found[kind] = image
    return found
