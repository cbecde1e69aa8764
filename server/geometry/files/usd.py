# SPDX-License-Identifier: GPL-3.0-or-later
"""USD by Pixar's own library (the optional extra "usd"): a mesh with UsdPreviewSurface materials."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ..colour import srgb_to_linear
from ..mesh import Mesh
from ..normals import face_normals, vertex_normals
from .common import MeshFileError, Submesh, Warn, corner_normals, merge, to_z_up, transform_normals
from .features import warn_unsupported
from .images import encode_png
from .polygons import triangulate
from .simple_materials import SimpleMaterial, slot_material, unique_names, with_materials
from .texture_files import TextureFile, load_textures

if TYPE_CHECKING:
    from pxr import Usd, UsdGeom, UsdShade

# A kind of map -> the input of UsdPreviewSurface, its type, the output of the texture reader.
INPUTS: dict[str, tuple[str, str, str]] = {
    "texture": ("diffuseColor", "Color3f", "rgb"),
    "roughness": ("roughness", "Float", "r"),
    "metallic": ("metallic", "Float", "r"),
    "normal": ("normal", "Normal3f", "rgb"),
    "alpha": ("opacity", "Float", "r"),
    "emission": ("emissiveColor", "Color3f", "rgb"),
    "occlusion": ("occlusion", "Float", "r"),
}
# Kinds of maps with a constant -> its name in `SimpleMaterial`.
CONSTANTS = {
    "texture": "base",
    "roughness": "roughness",
    "metallic": "metallic",
    "alpha": "alpha",
    "emission": "emission",
}
UNSUPPORTED = (  # of `features.FEATURES`
    "pictures on further UV maps",
    "the clamping or mirroring of pictures",
    "vertex colours over pictures",
    "different sides of different materials",
    "extensions of materials",
    "extras",
)


def _library() -> ModuleType:
    try:
        import pxr.Sdf
        import pxr.Usd
        import pxr.UsdGeom
        import pxr.UsdShade
        import pxr.Vt
    except ImportError:
        raise MeshFileError("USD files need Pixar's library: install it with pip install usd-core.") from None
    return pxr


def save(mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
    """One mesh prim with the mesh's own vertices, UVs by corner, and a subset and material for each slot."""
    pxr = _library()
    warn_unsupported(mesh, UNSUPPORTED, path, warn)
    Sdf, UsdGeom, UsdShade, Vt = pxr.Sdf, pxr.UsdGeom, pxr.UsdShade, pxr.Vt
    path.unlink(missing_ok=True)
    stage = pxr.Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    name = _identifier(path.stem)
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    stage.SetDefaultPrim(root.GetPrim())
    shape = UsdGeom.Mesh.Define(stage, f"/{name}/mesh")
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.positions)))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces).reshape(-1)))
    if len(mesh.positions):
        box = np.stack([mesh.positions.min(axis=0), mesh.positions.max(axis=0)])
        shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(box))
    kind, normals = (
        ("uniform", face_normals(mesh.positions, mesh.faces))
        if flat
        else ("vertex", vertex_normals(mesh.positions, mesh.faces))
        if mesh.normals is None
        else ("faceVarying", corner_normals(mesh).reshape(-1, 3))
    )
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
    shape.SetNormalsInterpolation(kind)
    primvars = UsdGeom.PrimvarsAPI(shape)
    for i, uvs in enumerate([] if mesh.uvs is None else [mesh.uvs, *mesh.more_uvs]):
        values = np.nan_to_num(uvs.reshape(-1, 2).astype(np.float32))
        primvars.CreatePrimvar(f"st{i or ''}", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying).Set(
            Vt.Vec2fArray.FromNumpy(values)
        )
    if mesh.colours is not None:
        primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex).Set(
            Vt.Vec3fArray.FromNumpy(srgb_to_linear(mesh.colours / 255).astype(np.float32))
        )
    written = [path]
    slots = mesh.face_slots
    slot_materials = {slot: slot_material(mesh, slot) for slot in np.unique(slots).tolist()}
    names = unique_names({slot: found.name for slot, (found, _) in slot_materials.items()}, _identifier)
    shape.CreateDoubleSidedAttr(any(found.double_sided for found, _ in slot_materials.values()))
    for slot, (found, pictures) in slot_materials.items():
        material = UsdShade.Material.Define(stage, f"/{name}/materials/{names[slot]}")
        if found.name != names[slot]:
            material.GetPrim().SetDisplayName(found.name.encode("utf-8", "replace").decode().replace("\0", "_"))
        written += _material(pxr, stage, material, found, pictures, path, slot)
        prim = shape.GetPrim()
        if len(slot_materials) > 1:
            own = Vt.IntArray.FromNumpy(np.flatnonzero(slots == slot).astype(np.int32))
            subset = UsdShade.MaterialBindingAPI.Apply(prim).CreateMaterialBindSubset(names[slot], own)
            prim = subset.GetPrim()
        UsdShade.MaterialBindingAPI.Apply(prim).Bind(material)
    stage.GetRootLayer().Save()
    return written


def _identifier(name: str) -> str:
    """The name with the characters that names of prims do not allow replaced."""
    name = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in name)
    return name if re.match(r"[A-Za-z_]", name) else "_" + name


def _material(
    pxr: ModuleType,
    stage: Usd.Stage,
    material: UsdShade.Material,
    found: SimpleMaterial,
    pictures: dict[str, np.ndarray],
    path: Path,
    slot: int,
) -> list[Path]:
    """Fill a material prim; return the images written beside the file."""
    Sdf, Types = pxr.Sdf, pxr.Sdf.ValueTypeNames

    def shader(name: str, kind: str) -> UsdShade.Shader:
        made = pxr.UsdShade.Shader.Define(stage, material.GetPath().AppendChild(name))
        made.CreateIdAttr(kind)
        return made

    written = []
    surface = shader("surface", "UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Types.Token))
    reader = None
    if found.cutoff > 0:
        surface.CreateInput("opacityThreshold", Types.Float).Set(found.cutoff)
    for kind, (name, type_name, output) in INPUTS.items():
        values = pictures.get(kind)
        number = vars(found)[CONSTANTS[kind]] if kind in CONSTANTS else None
        if values is None and number is None:
            continue
        entry = surface.CreateInput(name, getattr(Types, type_name))
        if values is None:
            entry.Set(number)
            continue
        file = path.with_name(f"{path.stem}_{kind}_{slot}.png")
        file.write_bytes(encode_png(values))
        written.append(file)
        if reader is None:
            reader = shader("st", "UsdPrimvarReader_float2")
            reader.CreateInput("varname", Types.String).Set("st")
            reader.CreateOutput("result", Types.Float2)
        image = shader(kind, "UsdUVTexture")
        image.CreateInput("file", Types.Asset).Set(Sdf.AssetPath(f"./{file.name}"))
        image.CreateInput("sourceColorSpace", Types.Token).Set("sRGB" if kind in ("texture", "emission") else "raw")
        for wrap in ("wrapS", "wrapT"):
            image.CreateInput(wrap, Types.Token).Set("repeat")
        if kind == "normal":
            image.CreateInput("scale", Types.Float4).Set((2, 2, 2, 1))
            image.CreateInput("bias", Types.Float4).Set((-1, -1, -1, 0))
        image.CreateInput("st", Types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
        entry.ConnectToSource(image.CreateOutput(output, Types.Float3 if output == "rgb" else Types.Float))
    return written


def load(path: Path, warn: Warn) -> Mesh:
    """All meshes of a file that refers to no other USD file, at the default time, in metres and Z up."""
    _library()
    if not path.is_file():
        raise MeshFileError(f"{path.name} is not there: name a file that is.")
    if not _survives(path):
        raise MeshFileError(f"{path.name} is damaged: export it again.")
    return _read(path, warn)


def _read(path: Path, warn: Warn) -> Mesh:
    pxr = _library()
    try:
        layer = pxr.Sdf.Layer.FindOrOpen(str(path))
        if layer is None:
            raise MeshFileError(f"{path.name} is damaged: export it again.")
        # Referenced layers could be any file of this machine.
        if layer.GetCompositionAssetDependencies():
            raise MeshFileError(f"{path.name} refers to other USD files: export it as one file.")
        stage = pxr.Usd.Stage.Open(layer)
    except pxr.Tf.ErrorException:
        raise MeshFileError(f"{path.name} is damaged: export it again.") from None
    try:
        return _scene(pxr, stage, path, warn)
    except pxr.Tf.ErrorException:
        raise MeshFileError(f"{path.name} is damaged: export it again.") from None


def _survives(path: Path) -> bool:
    """Whether a process that reads the file lives on: on some damaged binary files the library ends its process."""
    with path.open("rb") as file:
        if file.read(8)[:2] not in (b"PX", b"PK"):  # of binary layers, and of packages
            return True
    root = str(Path(__file__).parents[3])
    trial = subprocess.run(
        [sys.executable, "-c", _TRIAL, root, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return trial.returncode in (0, 1)  # 1: an exception, which comes again here


_TRIAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from server.geometry.files.usd import _read
_read(Path(sys.argv[2]), lambda sentence: None)
"""


def _scene(pxr: ModuleType, stage: Usd.Stage, path: Path, warn: Warn) -> Mesh:
    UsdGeom = pxr.UsdGeom
    scale, axis = _metadata(stage, "metersPerUnit"), _metadata(stage, "upAxis")
    if not isinstance(scale, float) or not 0 < scale < np.inf:
        raise _impossible("metersPerUnit", scale, path)
    if axis not in ("Y", "Z"):
        raise _impossible("upAxis", axis, path)
    upright = axis == "Y"
    cache = UsdGeom.XformCache()
    prims = list(stage.Traverse(pxr.Usd.TraverseInstanceProxies()))
    shapes = [UsdGeom.Mesh(prim) for prim in prims if prim.IsA(UsdGeom.Mesh)]
    shown = [
        shape
        for shape in shapes
        if shape.ComputeVisibility() != UsdGeom.Tokens.invisible
        and shape.ComputePurpose() not in (UsdGeom.Tokens.guide, UsdGeom.Tokens.proxy)
    ]
    if hidden := len(shapes) - len(shown):
        warn(f"{path.name} has hidden, guide or proxy meshes ({hidden:,}), which are left out.")
    if len(shown) > 1:
        warn(f"{path.name}: its {len(shown):,} objects become one mesh.")
    if others := {
        prim.GetTypeName()
        for prim in prims
        if not prim.IsA(UsdGeom.Mesh) and (prim.IsA(UsdGeom.Gprim) or prim.IsA(UsdGeom.PointInstancer))
    }:
        warn(f"{path.name} has {', '.join(sorted(others))} prims, which are left out: convert them to meshes.")
    bindings = [_bindings(pxr, shape) for shape in shown]
    # Slots follow the materials' order in the file, so that a saved mesh is read with its own slots.
    used = {name for names in bindings for name in names}
    materials = [str(prim.GetPath()) for prim in prims if str(prim.GetPath()) in used] + [""]
    surfaces = [
        _surface(pxr, stage.GetPrimAtPath(material), path, warn) if material else (SimpleMaterial(), {}, "")
        for material in materials
    ]
    for i, material in enumerate(materials):
        sides = [shape.GetDoubleSidedAttr() for shape, names in zip(shown, bindings) if material in names]
        surfaces[i][0].double_sided = any(not side.HasAuthoredValue() or side.Get() for side in sides)
    parts = []
    for shape, names in zip(shown, bindings):
        slots = np.array([materials.index(name) for name in names], int)
        part = _part(
            pxr,
            shape,
            np.array(cache.GetLocalToWorldTransform(shape.GetPrim())),
            slots,
            [uv_map for _, _, uv_map in surfaces],
            path,
            warn,
        )
        part.positions = part.positions * scale
        if upright:
            part.positions = to_z_up(part.positions)
            part.normals = None if part.normals is None else to_z_up(part.normals.reshape(-1, 3)).reshape(-1, 3, 3)
        parts.append(part)
    mesh = merge(parts)
    slots, textures, owners = load_textures(
        mesh.face_slots, mesh.uvs, [pictures for _, pictures, _ in surfaces], path.name, warn
    )
    slot_materials = {slot: surfaces[owner][0] for slot, owner in enumerate(owners) if materials[owner]}
    mesh = replace(mesh, slots=slots if slots.any() else None, textures=textures)
    return with_materials(
        mesh,
        slot_materials,
        [slot for slot in slot_materials if slot_materials[slot].base is not None],
        path.name,
        warn,
    )


def _metadata(stage: Usd.Stage, name: str) -> object:
    """A stage's metadata, which a file may give any type."""
    try:
        return stage.GetMetadata(name)
    except TypeError:  # its type has no Python binding
        return "nothing readable"


def _impossible(name: str, value: object, path: Path) -> MeshFileError:
    shown = " ".join(repr(value).split())
    return MeshFileError(f"{path.name} says that its {name} is {shown}, which cannot be: export it again.")


def _part(
    pxr: ModuleType, shape: UsdGeom.Mesh, matrix: np.ndarray, slots: np.ndarray, maps: list[str], path: Path, warn: Warn
) -> Submesh:
    """A mesh prim in the world.

    matrix: (4, 4) to the world, for row vectors as USD has them. slots: (P,) of its polygons. maps: the name of each
    slot's UV map.
    """
    points = np.array(shape.GetPointsAttr().Get() or [], float).reshape(-1, 3)
    counts = np.array(shape.GetFaceVertexCountsAttr().Get() or [], int)
    index = np.array(shape.GetFaceVertexIndicesAttr().Get() or [], int)
    if (counts < 0).any() or counts.sum() != len(index) or ((index < 0) | (index >= len(points))).any():
        raise MeshFileError(f"{path.name} has faces with corners that are not there: export it again.")
    if shape.GetSubdivisionSchemeAttr().HasAuthoredValue() and shape.GetSubdivisionSchemeAttr().Get() != "none":
        warn(f"{path.name} has subdivision surfaces, whose cages are read: apply the subdivision to keep it.")
    if shape.GetPrim().HasRelationship("skel:skeleton"):
        warn(f"{path.name} has a skeleton, which is left out: its meshes are read at rest.")
    triangles, polygons = triangulate(points[index], counts, path.name, warn)
    if holes := list(shape.GetHoleIndicesAttr().Get() or []):
        kept = ~np.isin(polygons, holes)
        triangles, polygons = triangles[kept], polygons[kept]
    if (np.linalg.det(matrix[:3, :3]) < 0) != (shape.GetOrientationAttr().Get() == "leftHanded"):
        triangles = triangles[:, ::-1]
    primvars = pxr.UsdGeom.PrimvarsAPI(shape)

    def corners(found: UsdGeom.Primvar) -> np.ndarray | None:
        """(F, 3, C) of a primvar."""
        flat = found.ComputeFlattened() if found and found.HasValue() else None
        return None if flat is None else placed(np.array(flat), found.GetInterpolation())

    def placed(values: np.ndarray, each: str) -> np.ndarray | None:
        where = {
            "faceVarying": triangles,
            "vertex": index[triangles],
            "varying": index[triangles],
            "uniform": polygons[:, None].repeat(3, 1),
            "constant": np.zeros_like(triangles),
        }.get(each)
        length = {"faceVarying": len(index), "uniform": len(counts), "constant": 1}.get(each, len(points))
        return values[where] if where is not None and len(values) == length else None

    flat = [
        found for found in primvars.GetPrimvarsWithValues() if found.GetTypeName().type.typeName == "VtArray<GfVec2f>"
    ]
    flat.sort(key=lambda found: _order(found.GetPrimvarName()))
    sets = {found.GetPrimvarName(): uvs for found in flat if (uvs := corners(found)) is not None}
    ordered = _in_order(sets, [maps[slot] for slot in slots[polygons]])
    normals = corners(primvars.GetPrimvar("normals"))
    if normals is None and (flat_normals := shape.GetNormalsAttr().Get()) is not None:
        normals = placed(np.array(flat_normals), shape.GetNormalsInterpolation())
    if normals is not None:
        normals = transform_normals(normals.reshape(-1, 3).astype(float), np.pad(matrix[:3, :3].T, ((0, 1), (0, 1))))
        normals = normals.reshape(-1, 3, 3) if np.isfinite(normals).any() else None
    faces, tint, colours = index[triangles], corners(primvars.GetPrimvar("displayColor")), None
    if tint is not None:
        colours = np.ones((len(points), 3))
        colours[faces] = tint
        if (colours[faces] != tint).any():
            warn(f"{path.name} has colours of faces or corners, of which each vertex keeps one.")
    return Submesh(
        points @ matrix[:3, :3] + matrix[3, :3],
        faces,
        ordered[0] if ordered else None,
        colours,
        slots[polygons],
        normals,
        tuple(ordered[1:]),
    )


def _in_order(sets: dict[str, np.ndarray], first: list[str]) -> list[np.ndarray]:
    """The UV maps (F, 3, 2), each face's own first one, by its name in `first`, before the others."""
    made = [uvs.copy() for uvs in sets.values()]
    for i, name in enumerate(sets):
        own = np.array([each == name for each in first], bool)
        order = [name, *(other for other in sets if other != name)]
        for uvs, other in zip(made, order if i else []):
            uvs[own] = sets[other][own]
    return made


def _order(name: str) -> int:
    """A sort key: the usual names of the main UV map come first."""
    names = ("st", "UVMap", "st0")
    return names.index(name) if name in names else len(names)


def _bindings(pxr: ModuleType, shape: UsdGeom.Mesh) -> list[str]:
    """The path of the material that each polygon is bound to, "" for none."""
    polygons = len(shape.GetFaceVertexCountsAttr().Get() or [])

    def bound(prim: Usd.Prim) -> str:
        material, _ = pxr.UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
        return str(material.GetPath()) if material else ""

    found = [bound(shape.GetPrim())] * polygons
    for subset in pxr.UsdShade.MaterialBindingAPI(shape.GetPrim()).GetMaterialBindSubsets():
        for polygon in subset.GetIndicesAttr().Get() or []:
            found[polygon] = bound(subset.GetPrim())
    return found


def _surface(
    pxr: ModuleType, prim: Usd.Prim, path: Path, warn: Warn
) -> tuple[SimpleMaterial, dict[str, TextureFile], str]:
    """(a material's constants, the textures connected to its UsdPreviewSurface, the name of their UV map)."""
    found, textures, maps = (
        SimpleMaterial(prim.GetDisplayName() or prim.GetName()),
        dict[str, TextureFile](),
        dict[str, str](),
    )
    source = pxr.UsdShade.Material(prim).ComputeSurfaceSource("")
    surface = source[0] if source else None
    if not surface or surface.GetIdAttr().Get() != "UsdPreviewSurface":
        warn(f"{path.name}: the material {prim.GetName()!r} has no UsdPreviewSurface, and is read without pictures.")
        return found, {}, ""
    if cutoff := _numbers(surface.GetInput("opacityThreshold"), 1):
        found.cutoff = cutoff[0]
    for kind, (name, type_name, _) in INPUTS.items():
        entry = surface.GetInput(name)
        connected = entry.GetConnectedSource() if entry else None
        if not connected:
            if kind in CONSTANTS and (values := _numbers(entry, 3 if type_name == "Color3f" else 1)):
                setattr(found, CONSTANTS[kind], values if len(values) > 1 else values[0])
            continue
        shader = pxr.UsdShade.Shader(connected[0].GetPrim())
        file = shader.GetInput("file") if shader else None
        asset = file.Get() if file else None
        if asset is None or not asset.path:
            warn(f"{path.name}: the {name} of the material {prim.GetName()!r} is no picture, and is left out: bake it.")
            continue
        lies = shader.GetInput("st").GetConnectedSource() if shader.GetInput("st") else None
        if lies and pxr.UsdShade.Shader(lies[0].GetPrim()).GetIdAttr().Get() == "UsdTransform2d":
            warn(
                f"{path.name} moves or scales the picture {asset.path!r}, which is not followed: change the UVs "
                "instead."
            )
        maps[kind] = _uv_map(pxr.UsdShade.Shader(lies[0].GetPrim())) if lies else ""
        if maps[kind] != (first := next(iter(maps.values()))):
            warn(
                f"{path.name} has the picture {asset.path!r} on the UV map {maps[kind]!r} and others on {first!r}, so "
                "that it is left out: bake it."
            )
            continue
        gray = entry.GetTypeName() == pxr.Sdf.ValueTypeNames.Float
        channel = "rgba".find(connected[1]) if gray and len(connected[1]) == 1 else -1
        textures[kind] = TextureFile(
            asset.path, path, "L" if gray else "RGB", channel=channel if channel >= 0 else None
        )
    return found, textures, next(iter(maps.values()), "")


def _numbers(entry: UsdShade.Input | None, count: int) -> tuple[float, ...] | None:
    """An input's `count` finite numbers; None where it has another value or none."""
    value = entry.Get() if entry else None
    if value is None or isinstance(value, (str, bool)):
        return None
    values = np.ravel(np.array(value, float))
    if not np.isfinite(values).all() or len(values) != count:
        return None
    return tuple(values.tolist())


def _uv_map(reader: UsdShade.Shader | None) -> str:
    """The name of the UV map that a UsdPrimvarReader reads, also through a UsdTransform2d."""
    if reader and reader.GetIdAttr().Get() == "UsdTransform2d" and reader.GetInput("in"):
        source = reader.GetInput("in").GetConnectedSource()
        return _uv_map(type(reader)(source[0].GetPrim())) if source else ""
    name = reader.GetInput("varname") if reader else None
    return str(name.GetAttr().Get() or "") if name else ""
