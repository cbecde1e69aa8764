# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of meshes: through our own reader, through Blender's, from Blender, and bad ones."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.geometry.files import FORMATS, load, save
from server.geometry.mesh import Mesh

SUFFIXES = ["glb", "gltf", "obj", "ply", "usda", "usdc"]
SOCKETS = {"texture": "Base Color", "roughness": "Roughness", "metallic": "Metallic", "normal": "Normal"}
ROOT = Path(__file__).parents[2]


def need(suffix):
    if suffix.startswith("usd"):
        pytest.importorskip("pxr")


def ball():
    shape = trimesh.creation.icosphere(2)
    positions = (np.asarray(shape.vertices) * (1, 0.8, 0.5) + (1, 2, 3)).astype(np.float32)
    return positions, np.asarray(shape.faces, np.int32)


def painted():
    """Two slots of all maps, UVs of which no two corners share one."""
    positions, faces = ball()
    rng = np.random.default_rng(0)
    shapes = {"texture": (8, 16, 3), "roughness": (8, 16), "metallic": (8, 16), "normal": (8, 16, 3)}
    textures = {
        f"{kind}.{slot}": rng.integers(0, 256, shape, dtype=np.uint8)
        for kind, shape in shapes.items()
        for slot in (0, 1)
    }
    slots = np.sort((positions[faces].mean(axis=1)[:, 0] > 1.2).astype(np.int32))
    return Mesh(positions, faces, uvs=rng.random((len(faces), 3, 2), np.float32), slots=slots, textures=textures)


def coloured():
    positions, faces = ball()
    return Mesh(positions, faces, np.random.default_rng(1).integers(0, 256, positions.shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(kind, suffix) -> path; a name with a space, a dot and a letter beyond ASCII."""
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for suffix in SUFFIXES:
        if suffix.startswith("usd"):
            try:
                import pxr  # noqa: F401
            except ImportError:
                continue
        for kind, mesh, flat in (
            ("painted", painted(), False),
            ("coloured", coloured(), False),
            ("flat", coloured(), True),
        ):
            made[kind, suffix] = folder / f"{kind} ä.1.{suffix}"
            written = save(mesh, made[kind, suffix], flat)
            assert written[0] == made[kind, suffix] and all(path.is_file() for path in written)
    return made


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_saved_is_loaded(files, suffix):
    need(suffix)
    mesh, back = painted(), load(files["painted", suffix])
    assert back.positions[back.faces].tobytes() == mesh.positions[mesh.faces].tobytes()
    assert len(back.positions) == len(mesh.positions)
    if suffix not in ("glb", "gltf"):  # which have the vertices of the first slot first
        assert back.positions.tobytes() == mesh.positions.tobytes()
    if suffix != "ply":
        np.testing.assert_allclose(back.uvs, mesh.uvs, atol=1e-7)
        np.testing.assert_array_equal(back.slots, mesh.slots)
        assert set(back.textures) == set(mesh.textures)
        for name, picture in mesh.textures.items():
            np.testing.assert_array_equal(back.textures[name], picture)
    mesh, back = coloured(), load(files["coloured", suffix])
    np.testing.assert_array_equal(back.colours, mesh.colours)
    assert back.uvs is None and back.slots is None and not back.textures


@pytest.fixture(scope="module")
def blender(files, tmp_path_factory, needs_bpy):
    """What Blender's importers make of the files."""
    output = tmp_path_factory.mktemp("blender") / "read.npz"
    subprocess.run(
        [sys.executable, Path(__file__).with_name("in_blender.py"), output, *files.values()],
        check=True,
        capture_output=True,
    )
    with np.load(output) as archive:
        return {
            key: {name.partition("/")[2]: archive[name] for name in archive.files if name.startswith(f"{i}/")}
            for i, key in enumerate(files)
        }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blender_reads_the_same_geometry_uvs_and_materials(blender, suffix):
    need(suffix)
    mesh, found = painted(), blender["painted", suffix]
    np.testing.assert_allclose(found["corners"], mesh.positions[mesh.faces], atol=1e-6)
    if suffix not in ("glb", "gltf"):  # which split vertices where UVs differ
        assert len(found["vertices"]) == len(mesh.positions)
    if suffix == "ply":
        return
    np.testing.assert_allclose(found["uvs"], mesh.uvs, atol=1e-6)
    assert [int(name[-1]) for name in found["materials"]] == mesh.slots.tolist()
    for slot in (0, 1):
        material = next(name for name in found["materials"] if name.endswith(str(slot)))
        for kind, socket in SOCKETS.items():
            given, seen = mesh.textures[f"{kind}.{slot}"], 255 * found[f"{material}/{socket}"]
            seen = seen if seen.ndim == given.ndim else seen[..., 0]
            np.testing.assert_allclose(seen, given, atol=0.01, err_msg=f"{kind} of {suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blender_sees_colours_and_smooth_or_flat_normals(blender, suffix):
    need(suffix)
    mesh = coloured()
    for kind in ("coloured", "flat"):
        found = blender[kind, suffix]
        np.testing.assert_allclose(255 * found["colours"], mesh.colours[mesh.faces], atol=0.1)
        corners = mesh.positions[mesh.faces].astype(float)
        faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        away = np.abs(found["normals"] - faces[:, None]).max()
        assert away < 1e-3 if kind == "flat" else 0.05 < away < 0.5  # outward, either way


def test_what_blender_saves_is_loaded(tmp_path, needs_bpy):
    """Quads and triangles under a moved, turned, stretched and mirrored object, with UVs and two materials."""
    suffixes = ["glb", "obj", "ply", "usdc"]
    subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("in_blender.py"),
            tmp_path / "made.npz",
            "--make",
            *(tmp_path / f"suzanne.{suffix}" for suffix in suffixes),
        ],
        check=True,
        capture_output=True,
    )
    made = np.load(tmp_path / "made.npz")

    def volume(corners):
        return (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum() / 6

    for suffix in suffixes:
        if suffix == "usdc" and "pxr" not in sys.modules:
            pytest.importorskip("pxr")
        mesh = load(tmp_path / f"suzanne.{suffix}")
        places = {tuple(place) for place in made["vertices"].round(4)}
        assert {tuple(place) for place in mesh.positions.astype(float).round(4)} <= {
            tuple(np.add(place, shift).round(4))
            for place in places
            for shift in np.stack(np.meshgrid(*[[-1e-4, 0, 1e-4]] * 3), -1).reshape(-1, 3)
        }
        assert len(mesh.faces) == len(made["corners"])
        # Blender's PLY leaves a mirrored object inside out.
        assert volume(mesh.positions[mesh.faces].astype(float)) == pytest.approx(
            volume(made["corners"]) * (-1 if suffix == "ply" else 1), rel=1e-3
        )
        np.testing.assert_allclose(
            np.sort(mesh.uvs.reshape(-1, 2).sum(axis=1))[::100],
            np.sort(made["uvs"].reshape(-1, 2).sum(axis=1))[::100],
            atol=0.02,
        )
        if suffix != "ply":
            np.testing.assert_array_equal(np.bincount(mesh.slots), np.bincount(made["materials"]))


UNWRAPPED = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def test_obj_of_others(tmp_path):
    (tmp_path / "mine.mtl").write_text("newmtl a\nmap_Kd -bm 1.0 -clamp on my wood.png\nnewmtl b\nKd 1 0 0\n")
    Image.new("RGBA", (2, 2), (1, 2, 3, 4)).save(tmp_path / "my wood.png")
    (tmp_path / "mine.obj").write_text(
        "# comment\nmtllib mine.mtl\nv 0 0 0 1\nv 1 0 0 1\nv 1 1 0 1\nv 0 1 0 1\nvt 0 0\nvt 1 0 0\nvn 0 0 1\n"
        "usemtl b\nf -4 -3 -2 -1\nusemtl a\nl 1 2\nf 1/1/1 3/2/1 4/-1/1\n"
    )
    mesh = load(tmp_path / "mine.obj")
    np.testing.assert_array_equal(mesh.positions, [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 2, 3]])
    assert np.isnan(mesh.uvs[:2]).all() and mesh.uvs[2].tolist() == [[0, 0], [1, 0], [1, 0]]
    assert mesh.slots.tolist() == [1, 1, 0] and mesh.textures["texture.0"][0, 0].tolist() == [1, 2, 3]


def test_what_a_reader_leaves_out_is_said_once_to_whoever_asks_and_else_in_the_log(tmp_path, caplog):
    (tmp_path / "mine.obj").write_text(TRIANGLE + "p 1\nl 1 2\n")
    said = []
    load(tmp_path / "mine.obj", said.append)
    assert said == [
        "mine.obj has points (1), which are left out: only faces have a surface.",
        "mine.obj has lines (1), which are left out: only faces have a surface.",
    ]
    assert not caplog.records
    load(tmp_path / "mine.obj")
    assert [record.getMessage() for record in caplog.records] == said


def glb(document, binary=b""):
    text = json.dumps({"asset": {"version": "2.0"}} | document).encode()
    text += b" " * (-len(text) % 4)
    return (
        struct.pack("<IIIII", 0x46546C67, 2, 28 + len(text) + len(binary), len(text), 0x4E4F534A)
        + text
        + struct.pack("<II", len(binary), 0x004E4942)
        + binary
    )


def one_triangle(**buffer):
    return {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36} | buffer],
    }


POINTS = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]).tobytes()
ESCAPES = [
    "../secret",
    "/etc/hostname",
    "link",
    "a/../../secret",
    "..\\secret",
    "file:///etc/hostname",
    "http://localhost/x",
    "",
    "nowhere",
]


@pytest.fixture
def folder(tmp_path):
    """A folder with a link out of it, beside a secret."""
    (tmp_path / "secret").write_bytes(POINTS)
    inside = tmp_path / "inside"
    (inside / "a").mkdir(parents=True)
    (inside / "link").symlink_to(tmp_path / "secret")
    return inside


@pytest.mark.parametrize("name", ESCAPES)
def test_no_path_leads_out_of_the_files_folder(folder, name):
    (folder / "mesh.glb").write_bytes(glb(one_triangle(uri=name)))
    with pytest.raises(ValueError, match="put it beside the mesh"):
        load(folder / "mesh.glb")
    (folder.parent / "secret").write_bytes(b"newmtl a\nmap_Kd good.png\n")
    Image.new("RGB", (2, 2)).save(folder / "good.png")
    (folder / "library.obj").write_text(f"mtllib {name}\nusemtl a\n{UNWRAPPED}")
    said = []
    assert not load(folder / "library.obj", said.append).textures and "put it beside the mesh" in said[0]
    Image.new("RGB", (2, 2)).save(folder.parent / "secret", "PNG")
    (folder / "good.mtl").write_text(f"newmtl a\nmap_Kd {name}\n")
    (folder / "picture.obj").write_text(f"mtllib good.mtl\nusemtl a\n{UNWRAPPED}")
    said = []
    assert not load(folder / "picture.obj", said.append).textures and "put it beside the mesh" in said[0]


def test_a_buffer_beside_the_file_or_in_it_is_read(folder):
    (folder / "my data.bin").write_bytes(POINTS)
    (folder / "mesh.glb").write_bytes(glb(one_triangle(uri="my%20data.bin")))
    assert load(folder / "mesh.glb").positions.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    (folder / "mesh.glb").write_bytes(glb(one_triangle(), POINTS))
    assert len(load(folder / "mesh.glb").faces) == 1


def test_usd_that_refers_to_other_files_is_refused(folder):
    need("usd")
    save(coloured(), folder.parent / "other.usda")
    (folder / "mesh.usda").write_text('#usda 1.0\ndef "a" (references = @../other.usda@) {}\n')
    with pytest.raises(ValueError, match="export it as one file"):
        load(folder / "mesh.usda")
    save(painted(), folder / "painted.usda")
    text = (folder / "painted.usda").read_text().replace("./painted_texture_0.png", "../secret")
    (folder / "escaped.usda").write_text(text)
    Image.new("RGB", (2, 2)).save(folder.parent / "secret", "PNG")
    said = []
    assert set(load(folder / "escaped.usda", said.append).textures) == set(painted().textures) - {"texture.0"}
    assert len(said) == 1 and "'../secret', which is not there" in said[0]


BAD = {
    "nothing.glb": (b"", "no glTF"),
    "text.glb": (b"hello, this is no mesh", "no glTF"),
    "json.glb": (glb({})[:30], "damaged"),
    "empty.glb": (glb({}), "no faces"),
    "draco.glb": (glb({"extensionsRequired": ["KHR_draco_mesh_compression"]}), "without compression"),
    "short.glb": (glb(one_triangle(), POINTS[:20]), "shorter"),
    "loop.glb": (glb({"scenes": [{"nodes": [0]}], "nodes": [{"children": [0, 0]}]}), "inside itself"),
    "nothing.obj": (b"", "no faces"),
    "word.obj": (TRIANGLE.encode() + b"v a b c\n", "line 5"),
    "corner.obj": (TRIANGLE.encode() + b"f 1 2 4\n", "line 5"),
    "zero.obj": (TRIANGLE.encode() + b"f 0 1 2\n", "line 5"),
    "nan.obj": (TRIANGLE.replace("1 0 0", "nan 0 0").encode(), "nowhere"),
    "nothing.ply": (b"", "damaged"),
    "points.ply": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        b"end_header\n0 0 0\n",
        "no faces",
    ),
    "many.ply": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 999999999999\nproperty float x\n"
        b"property float y\nproperty float z\nend_header\n0000",
        "damaged",
    ),
    "nothing.usda": (b"", "damaged"),
    "text.usdc": (b"hello", "damaged"),
    "mesh.fbx": (b"", ".glb"),
    "mesh": (b"", ".glb"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, name):
    need(name.partition(".")[2])
    content, part = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=part) as error:
        load(tmp_path / name)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_not_there(tmp_path, suffix):
    need(suffix)
    with pytest.raises(ValueError, match=f"mesh.{suffix} "):
        load(tmp_path / f"mesh.{suffix}")


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_a_mesh_or_a_sentence(files, tmp_path, suffix, data):
    content = bytearray(files["coloured", suffix].read_bytes())
    first = data.draw(st.sampled_from([600, len(content)]))  # headers matter most
    for place in data.draw(st.lists(st.integers(0, first - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    try:
        mesh = load(path)
        assert mesh.faces.max() < len(mesh.positions) and np.isfinite(mesh.positions).all()
    except ValueError as error:
        assert str(error).endswith(".")


def test_without_pixars_library_one_sentence_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['pxr'] = None\n"
        "from pathlib import Path\n"
        "from server.geometry.files import load\n"
        "try: load(Path('mesh.usda'))\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said == "USD files need Pixar's library: install it with pip install usd-core.\n"


def test_every_format_is_tested():
    assert {f".{suffix}" for suffix in SUFFIXES} | {".usd"} == set(FORMATS)


@pytest.mark.parametrize("kind", ["painted", "coloured"])
def test_another_reader_finds_glb_y_up_and_whole(files, kind):
    mesh = painted() if kind == "painted" else coloured()
    read = trimesh.load(files[kind, "glb"], force="mesh")
    np.testing.assert_allclose(read.extents, np.ptp(mesh.positions, axis=0)[[0, 2, 1]], atol=1e-5)
    assert len(read.faces) == len(mesh.faces) and read.volume > 0 and read.visual.kind == "texture"
