# SPDX-License-Identifier: GPL-3.0-or-later
"""Every reader on files with random damage: a mesh or one sentence; a hundred thousand files with ``--long``."""

import copy

import numpy as np
import pytest

from server.geometry.files import load, save
from tests.geometry import gltf
from tests.geometry.foreign import BLUE, picture
from tests.geometry.test_files import painted
from tests.geometry.test_foreign_files import SEEDS

pytestmark = pytest.mark.long

WHOLE, SHORT = 100_000, 900  # files
BYTES = list(b'\0\t\n\r "#+,-./0159:;<=>[]\\{}\x7f\x80\xff')
WORDS = [b"nan", b"-1", b"1e999", b"4294967295", b"null", b"[]", b"{}", b'"x"', b"true", b"\xff\xfe", b"\n", b"\\"]
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    3,
    5126,
    2**31,
    2**40,
    -0.5,
    1e308,
    "",
    "x",
    "../x",
    [],
    [0],
    [1, 2, 3],
    {},
    {"index": 0},
]


def everything():
    """A glTF file with each thing that its reader knows."""
    file = gltf.File()
    texture = {"index": file.picture(np.full((4, 4, 4), 128, np.uint8), sampler=0)}
    file.document["samplers"] = [{"wrapS": 33071, "wrapT": 33648}]
    transform = {"KHR_texture_transform": {"offset": [0.1, 0.2], "rotation": 0.3, "scale": [2, 1], "texCoord": 1}}
    wood = file.material(
        "Wood",
        surface={
            "baseColorTexture": {**texture, "extensions": transform},
            "baseColorFactor": [1, 0.5, 1, 0.5],
            "metallicRoughnessTexture": texture,
            "roughnessFactor": 0.5,
        },
        normalTexture={**texture, "scale": 0.5},
        occlusionTexture={**texture, "strength": 0.5, "texCoord": 1},
        emissiveTexture=texture,
        emissiveFactor=[0.1, 0.2, 0.3],
        alphaMode="MASK",
        alphaCutoff=0.4,
        doubleSided=True,
    )
    for mode in (1, 5, 6):
        file.primitive(mode=mode, indices=np.uint16([0, 1, 2, 3]))
    file.primitive(
        material=wood,
        NORMAL=np.float32([[0, 0, 1]] * 4),
        TEXCOORD_1=gltf.UVS,
        COLOR_0=file.array(np.uint8([[255, 0, 0, 255]] * 4), normalized=True),
        indices=np.uint8([0, 1, 2, 0, 2, 3]),
        more={"targets": [{"POSITION": file.array(gltf.SQUARE)}]},
    )
    file.document |= {
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1, 2], "rotation": [0, 0.7071068, 0, 0.7071068]},
            {"mesh": 0, "matrix": [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 4, 5, 1]},
            {"mesh": 0, "translation": [1, 2, 3], "scale": [1, -1, 1], "skin": 0},
        ],
        "skins": [{"joints": [1], "inverseBindMatrices": file.array(np.eye(4, dtype=np.float32).reshape(1, 16))}],
        "animations": [{"channels": [], "samplers": []}],
    }
    return file


def places(value, found):
    """All (container, key) in a document."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def damaged_document(file, rng):
    """The file with one or two values of its document changed, left out or exchanged."""
    file = copy.deepcopy(file)
    for _ in range(rng.integers(1, 3)):
        found = places(file.document, [])
        container, key = found[rng.integers(len(found))]
        kind = rng.integers(3)
        if kind == 0:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        elif kind == 1:
            del container[key]
        else:
            other, place = found[rng.integers(len(found))]
            container[key] = copy.deepcopy(other[place])
    return file


def damaged(content, rng):
    """The bytes with some changed, put in, left out, or cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place, kind = int(rng.integers(len(content) + 1)), rng.integers(5)
        if rng.random() < 0.5:
            place = min(place, int(rng.integers(600)))  # headers matter most
        if kind == 0:
            content[place : place + 1] = bytes([BYTES[rng.integers(len(BYTES))]])
        elif kind == 1:
            content[place : place + 1] = bytes([rng.integers(256)])
        elif kind == 2:
            content[place:place] = WORDS[rng.integers(len(WORDS))]
        elif kind == 3:
            del content[place : place + int(rng.integers(1, 40))]
        else:
            content[place:place] = content[place : place + int(rng.integers(1, 40))]
    return bytes(content[: rng.integers(len(content))]) if rng.random() < 0.1 else bytes(content)


def test_a_damaged_file_gives_a_mesh_or_a_sentence(tmp_path, request):
    pytest.importorskip("pxr")
    rng = np.random.default_rng(0)
    picture(tmp_path / "my wood.png", BLUE)
    for suffix in ("obj", "ply", "usda"):
        save(painted(), tmp_path / f"painted.{suffix}", False)
    whole = everything()
    seeds = dict(SEEDS) | {path.name: path.read_bytes() for path in tmp_path.glob("painted.*")}
    seeds |= {name: whole.save(tmp_path / name).read_bytes() for name in ("bytes.glb", "document.glb", "text.gltf")}
    for name, content in seeds.items():
        (tmp_path / name).write_bytes(content)
    names = [name for name in seeds if not name.endswith(".png")]
    count = WHOLE if request.config.getoption("--long") else SHORT
    ends = {"a mesh": 0, "a sentence": 0}
    for number in range(count):
        name = names[number % len(names)]
        path = tmp_path / name
        if name == "document.glb":
            damaged_document(whole, rng).save(path)
        else:
            path.write_bytes(damaged(seeds[name], rng))
        try:
            mesh = load(path.with_suffix(".obj") if path.suffix == ".mtl" else path)
            assert np.isfinite(mesh.positions).all() and mesh.faces.max(initial=-1) < len(mesh.positions)
            ends["a mesh"] += 1
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error), (number, name, str(error))
            ends["a sentence"] += 1
        except Exception as error:
            error.add_note(f"file {number}, {name}")
            raise
        path.write_bytes(seeds[name])
    assert min(ends.values()) > count / 20, ends
    print(count, "files:", ends)
