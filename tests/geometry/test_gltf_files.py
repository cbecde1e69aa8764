# SPDX-License-Identifier: GPL-3.0-or-later
"""glTF files as a whole: where their data is, what is left out, what is refused, damage."""

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.geometry.files import load, save
from server.geometry.validation import validate
from tests.geometry.gltf import BLUE, GREEN, RED, SQUARE, UVS, WHITE, File, opened, quadrants, seen


def test_what_is_left_out_is_said(tmp_path):
    file = File(
        animations=[{}, {}],
        cameras=[{}],
        extensionsUsed=["KHR_lights_punctual", "ACME_bricks", "KHR_materials_variants"],
        extensionsRequired=["KHR_materials_variants"],
        extensions={"KHR_lights_punctual": {"lights": [{}]}},
        scenes=[{"nodes": [0]}, {"nodes": []}],
    )
    normal = file.picture(np.full((2, 2, 3), 128, np.uint8))
    material = file.material(normalTexture={"index": normal}, alphaMode="BLEND")
    file.material("unused")
    file.primitive(
        material=material,
        TANGENT=np.float32([[1, 0, 0, 1]] * 4),
        _TEMPERATURE=np.float32([1] * 4),
        COLOR_0=np.float32([[1, 1, 1, 0.5]] * 4),
    )
    _, said = opened(file, tmp_path)
    assert said == [
        "mesh.glb has vertex colours with transparency, which is left out.",
        "mesh.glb has values of vertices that are left out: TANGENT, _TEMPERATURE.",
        "mesh.glb is taken as it stands, and left out are 2 animations, 1 camera, 1 light, 1 other scene, "
        "1 unused material.",
        "mesh.glb uses ACME_bricks, KHR_materials_variants, which is left out.",
    ]


def test_gltf_is_read_with_its_data_in_it_or_beside_it(tmp_path):
    file = File()
    file.primitive(material=file.material(texture=file.picture(quadrants(RED, RED, RED, RED))))
    mesh, said = opened(file, tmp_path, "inside.gltf")
    file.save(tmp_path / "beside.gltf", uri="my%20data.bin")
    (tmp_path / "my data.bin").write_bytes(file.data)
    again = load(tmp_path / "beside.gltf", said.append)
    assert again.positions.tobytes() == mesh.positions.tobytes() and (seen(again) == RED).all() and not said
    (tmp_path / "my data.bin").unlink()
    with pytest.raises(ValueError, match="'my data.bin', which is not there: put it beside the mesh"):
        load(tmp_path / "beside.gltf")


@pytest.mark.parametrize(
    "extension, remedy",
    [
        ("KHR_draco_mesh_compression", "export it without compression"),
        ("EXT_meshopt_compression", "export it without compression"),
        ("KHR_texture_basisu", "export it with PNG or JPEG pictures"),
        ("ACME_bricks", "export it without this extension"),
    ],
)
def test_an_extension_that_is_needed_and_not_read_is_named(tmp_path, extension, remedy):
    file = File(extensionsUsed=[extension], extensionsRequired=["KHR_texture_transform", extension])
    file.primitive()
    with pytest.raises(ValueError) as error:
        load(file.save(tmp_path / "mesh.glb"))
    assert str(error.value) == f"mesh.glb needs {extension}: {remedy}."


def test_compression_that_is_not_required_but_all_there_is_is_named(tmp_path):
    file = File()
    primitive = file.primitive(more={"extensions": {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}})
    assert len(load(file.save(tmp_path / "mesh.glb")).faces) == 2  # what is beside it is read
    del file.document["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]
    with pytest.raises(ValueError, match="needs KHR_draco_mesh_compression"):
        load(file.save(tmp_path / "mesh.glb"))


def rich():
    """Something of everything."""
    file = File()
    file.document["nodes"] = [
        {"children": [1], "matrix": np.eye(4).reshape(-1).tolist()},
        {
            "mesh": 0,
            "skin": 0,
            "rotation": [0, 0, 0, 1],
            "extensions": {
                "EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": file.array(np.float32([[1, 2, 3]]))}}
            },
        },
    ]
    file.add("skins", joints=[0, 1])
    file.add("samplers", wrapS=33071)
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE), sampler=0)
    info = {"index": picture, "extensions": {"KHR_texture_transform": {"offset": [0.1, 0], "rotation": 1.0}}}
    more = {
        "normalTexture": {"index": picture, "scale": 0.5},
        "occlusionTexture": {"index": picture, "texCoord": 1},
        "extensions": {"KHR_materials_clearcoat": {"clearcoatTexture": {"index": picture}}},
    }
    material = file.material(
        texture=picture,
        info=info,
        surface={"baseColorFactor": [1, 0.5, 0, 1], "metallicRoughnessTexture": {"index": picture}},
        **more,
    )
    places = file.array(SQUARE)
    file.document["accessors"][places]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": file.view(np.uint16([1]).tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(np.float32([[2, 0, 0]]).tobytes())},
    }
    file.primitive(
        POSITION=places,
        material=material,
        TEXCOORD_1=UVS,
        COLOR_0=np.float32([[1, 0, 1]] * 4),
        NORMAL=np.float32([[0, 0, 1]] * 4),
        JOINTS_0=np.uint8([[0, 1, 0, 0]] * 4),
        WEIGHTS_0=np.float32([[0.5, 0.5, 0, 0]] * 4),
        more={"targets": [{"POSITION": places}]},
    )
    file.document["meshes"][0]["weights"] = [0.5]
    return file


def places(value, path=()):
    """The paths of everything in a document."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(each, (dict, list)):
            yield from places(each, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_document_with_anything_wrong_gives_a_mesh_or_a_sentence(tmp_path, data):
    file = rich()
    document = copy.deepcopy(file.document)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(document))))
        value = document
        for key in path:
            value = value[key]
        if data.draw(st.booleans()):
            del value[last]
        else:
            value[last] = data.draw(st.sampled_from([None, -1, 0, 1, 1e9, 2**40, "", "x", [], {}, [1], {"index": 7}]))
    file.document = document
    path = file.save(tmp_path / "mesh.glb")
    try:
        mesh = validate(load(path, lambda note: None))
    except ValueError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and "Error" not in str(error), error
        return
    save(mesh, tmp_path / "made.glb")
    load(tmp_path / "made.glb")


@pytest.mark.parametrize(
    "name, values",
    [
        ("POSITION", None),
        ("COLOR_0", np.float32([[1, 1]] * 4)),
        ("COLOR_0", np.float32([[1, 1, 1]] * 5)),
        ("TEXCOORD_0", np.float32([1] * 4)),
        ("NORMAL", np.float32([[0, 0, 1]] * 3)),
    ],
)
def test_where_a_file_is_damaged_is_said(tmp_path, name, values):
    file = rich()
    attributes = file.document["meshes"][0]["primitives"][0]["attributes"]
    del attributes[name]
    if values is not None:
        attributes[name] = file.array(values)
    with pytest.raises(ValueError, match="^mesh.glb is damaged in mesh 0: export it again.$"):
        load(file.save(tmp_path / "mesh.glb"))
