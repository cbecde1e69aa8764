# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages and frames arrive as they were sent; damaged ones and bad options are refused in one sentence."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_blender.protocol import (
    ARRAYS,
    MAX_CAMERAS,
    MAX_PROMPT,
    OPTIONS,
    SLOT_ARRAYS,
    Edit,
    Job,
    JobRequest,
    Log,
    PlacedCamera,
    Progress,
    ProtocolError,
    Snapshot,
    array_kind,
    check_array,
    decode_event,
    decode_snapshot,
    encode_event,
    encode_snapshot,
    from_dict,
    join_camera,
    read_snapshot,
    split_camera,
    to_dict,
)

text = st.text(max_size=50)
requests = st.builds(JobRequest, prompt=text, negative_prompt=text, seed=st.integers(0, 2**63 - 1))
messages = st.one_of(
    st.builds(Progress, text, st.integers(), st.integers(), st.floats(allow_nan=False)),
    st.builds(Log, text),
    st.builds(Job, text, text, requests, error=text),
)


def snapshot(version=1, **changes):
    arrays = {
        "positions": np.zeros((4, 3), np.float32),
        "faces": np.zeros((2, 3), np.int32),
        "colours": np.zeros((4, 3), np.uint8),
        "uvs": np.zeros((2, 3, 2), np.float32),
        "texture.0": np.zeros((8, 8, 3), np.uint8),
    }
    return Snapshot(version, 7, {**arrays, **changes})


@given(messages, st.integers(0, 10**9))
def test_events_round_trip(message, number):
    lines = encode_event(number, message).decode().split("\n")
    assert lines[-2:] == ["", ""]  # the empty line that ends an event
    assert decode_event(lines[:-2]) == (number, message)


def test_a_newer_servers_fields_and_events_are_ignored():
    assert from_dict(Log, {"message": "x", "colour": "blue"}) == Log("x")
    assert decode_event(["event: weather", "data: {}"]) is None
    assert decode_event([": still here"]) is None


@pytest.mark.parametrize("kind, values", [(Job, {"id": "x"}), (Log, []), (Job, {"id": "", "state": "", "request": 3})])
def test_messages_that_lack_something_are_refused(kind, values):
    with pytest.raises(ProtocolError):
        from_dict(kind, values)


def test_snapshots_round_trip_one_after_another():
    stream = io.BytesIO(encode_snapshot(snapshot(1)) + encode_snapshot(snapshot(2)))
    for version in (1, 2):
        read = read_snapshot(stream.read)
        assert read is not None and (read.version, read.iteration) == (version, 7)
        for name, array in snapshot().arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array)
    assert read_snapshot(stream.read) is None


def test_only_changed_arrays_are_sent_and_put_back():
    old, new = snapshot(1), snapshot(2, positions=np.ones((4, 3), np.float32))
    news = new.since(old)
    assert set(news.arrays) == {"positions"}
    whole = news.over(old)
    assert whole.version == 2
    for name, array in new.arrays.items():
        np.testing.assert_array_equal(whole.arrays[name], array)
    assert new.since(None) is new


def test_arrays_that_an_edit_removed_do_not_come_back():
    whole = snapshot(1)
    old = Snapshot(1, 7, {**whole.arrays, "texture.1": np.zeros((2, 2, 3), np.uint8)})
    new = Snapshot(2, 8, whole.arrays, edits=1)
    assert new.since(old).over(old).arrays.keys() == whole.arrays.keys()


@pytest.mark.long
@given(st.data())
def test_damaged_frames_are_refused_and_nothing_else(data):
    frame = bytearray(encode_snapshot(snapshot())[8:])
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for damaged in (bytes(frame), bytes(frame[:cut])):
        try:
            for name, array in decode_snapshot(damaged).arrays.items():
                check_array(name, array)  # undetected damage still gives well-formed arrays
        except ProtocolError:
            pass


@pytest.mark.parametrize("offset, bits", [(6, 1), (6, 32), (6, 64), (8, 8), (8, 99), (4, 255)])
def test_zip_features_that_python_lacks_are_refused(offset, bits):
    """Flags (encrypted, patched), compression methods and versions for which zipfile raises NotImplementedError."""
    frame = bytearray(encode_snapshot(snapshot())[8:])
    local, central = frame.index(b"PK\x03\x04"), frame.index(b"PK\x01\x02")
    frame[local + offset] |= bits
    frame[central + offset + 2] |= bits
    with pytest.raises(ProtocolError, match="damaged"):
        decode_snapshot(bytes(frame))


def test_pickles_are_refused():
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([1, 2]), positions=np.array([{"a": 1}], object))
    with pytest.raises(ProtocolError):
        decode_snapshot(buffer.getvalue())


@pytest.mark.parametrize(
    "name, array",
    [
        ("positions", np.zeros((4, 3))),
        ("faces", np.zeros((4, 4), np.int32)),
        ("texture.0", np.zeros((8, 3), np.uint8)),
        ("wings", np.zeros(1)),
    ],
)
def test_arrays_of_another_form_are_refused(name, array):
    with pytest.raises(ProtocolError):
        check_array(name, array)
    assert name == "wings" or array_kind(name) in {**ARRAYS, **SLOT_ARRAYS}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n"}, "empty"),
        ({"prompt": 3}, "text"),
        ({"prompt": "\x1d\xa0\ufeff"}, "empty"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "shorten"),
        ({"guidance": "dream"}, "msd, sds"),
        ({"seed": -1}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"iterations": 0}, "whole number"),
        ({"guidance_scale": float("nan")}, "0 to 1000"),
        ({"device": "tpu"}, "auto, cuda, cpu, mps, xpu"),
    ],
)
def test_requests_out_of_range_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ProtocolError, match=words):
        JobRequest(**{"prompt": "a red mushroom", **changes}).validate()


def test_requests_survive_json():
    request = JobRequest("a red mushroom", seed=3, iterations=10)
    assert from_dict(JobRequest, json.loads(json.dumps(to_dict(request)))) == request


def test_whole_numbers_are_whole_however_json_writes_them():
    request = from_dict(JobRequest, json.loads('{"prompt": "x", "seed": 3.0, "iterations": 1e2, "guidance_scale": 7}'))
    assert isinstance(request.seed, int) and isinstance(request.iterations, int)
    assert request.validate().guidance_scale == 7


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"mode": "texture"}, "upload it first"),
        ({"mesh": "x"}, "leave out the mesh"),
        ({"mode": "carve"}, "mode must be"),
        ({"maps": ["gloss"]}, "maps must be"),
        ({"elevation": [30, 91]}, "elevation must be"),
        ({"elevation": 3}, "two numbers"),
        ({"target_faces": 3}, "target_faces must be"),
        ({"diversity": float("nan")}, "diversity must be"),
        ({"flat": 1}, "flat must be"),
        ({"symmetry": "w"}, "symmetry must be"),
    ],
)
def test_options_out_of_range_are_refused_in_a_sentence(changes, says):
    with pytest.raises(ProtocolError, match=says):
        JobRequest("a chair", **changes).validate()


@pytest.mark.parametrize(
    "written, camera",
    [
        ("30,10", PlacedCamera(30, 10)),
        ("-180,-90:", PlacedCamera(-180, -90)),
        ("+180.0, 90.", PlacedCamera(180, 90)),
        (" 0.5 , -.25 : a face: smiling, front view ", PlacedCamera(0.5, -0.25, "a face: smiling, front view")),
        ("90,0:30,10:x", PlacedCamera(90, 0, "30,10:x")),
        (f"0,0:{'x' * MAX_PROMPT}", PlacedCamera(0, 0, "x" * MAX_PROMPT)),
    ],
)
def test_placed_cameras_are_read(written, camera):
    assert split_camera(written) == camera
    request = JobRequest("a red mushroom", cameras=[written]).validate()
    assert request.placed_cameras() == [camera]
    assert request.prompts() == (["a red mushroom", camera.prompt] if camera.prompt else ["a red mushroom"])


thousandths = st.integers(-90_000, 90_000).map(lambda number: number / 1000)


@given(azimuth=thousandths.map(lambda angle: 2 * angle), elevation=thousandths, prompt=text.map(str.strip))
def test_placed_cameras_round_trip(azimuth, elevation, prompt):
    camera = PlacedCamera(azimuth, elevation, prompt.replace("\0", ""))
    if camera.prompt == camera.prompt.strip():
        assert split_camera(join_camera(camera)) == camera


@given(
    st.one_of(text, st.from_regex(r"[-+]?[0-9]{0,4}\.?[0-9]{0,3},[-+]?[0-9]{0,3}\.?[0-9]{0,3}(:.*)?", fullmatch=True))
)
def test_any_text_is_a_camera_within_the_range_or_refused_in_a_sentence(written):
    try:
        camera = split_camera(written)
    except ProtocolError as error:
        assert "AZIMUTH,ELEVATION" in str(error) and len(str(error)) < 600
    else:
        assert abs(camera.azimuth) <= 180 and abs(camera.elevation) <= 90


@pytest.mark.parametrize(
    "cameras, says",
    [
        (["30"], "AZIMUTH,ELEVATION:PROMPT, as '30,10:a smiling face'.* not '30'"),
        (["a smiling face"], "AZIMUTH,ELEVATION"),
        (["30:10"], "AZIMUTH,ELEVATION"),
        (["180.1,0"], "azimuth from -180 to 180"),
        (["0,-90.5"], "elevation from -90 to 90"),
        (["nan,0"], "not 'nan,0'"),
        (["0,inf:x"], "not '0,inf:x'"),
        (["1e1,0"], "not '1e1,0'"),
        (["١,0"], "AZIMUTH,ELEVATION"),
        (["0,0,0"], "AZIMUTH,ELEVATION"),
        ([f"0,0:{'x' * (MAX_PROMPT + 1)}"], "A camera's prompt has 1,001 characters; shorten it to at most 1,000"),
        (["0,0"] * (MAX_CAMERAS + 1), "There are 33 cameras; give at most 32"),
        (["0,0:\0"], "plain Unicode"),
        ([""], "texts that are not empty"),
        ([[30, 10]], "plain Unicode"),
        ("30,10", "a list of texts"),
        (None, "a list of texts"),
    ],
)
def test_cameras_that_cannot_be_read_are_refused_in_a_sentence(cameras, says):
    with pytest.raises(ProtocolError, match=says):
        JobRequest("a red mushroom", cameras=cameras).validate()


def test_requests_of_earlier_versions_have_no_cameras():
    old = to_dict(JobRequest("a red mushroom"))
    del old["cameras"]
    assert from_dict(JobRequest, old).validate().cameras == []


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_a_number_may_have_the_ends_of_its_range_and_nothing_beyond(option):
    if option.type not in (int, float):
        return
    for end, beyond in ((option.low, -1), (option.high, 1)):
        wrap = (lambda value: [value, value]) if option.many else (lambda value: value)
        option.check(wrap(end))
        with pytest.raises(ProtocolError, match=f"{option.name} must be a .*number from"):
            option.check(wrap(end + beyond))
        with pytest.raises(ProtocolError):
            option.check(wrap(True))


def test_a_mesh_is_asked_for_only_where_one_was_uploaded():
    assert JobRequest("a chair", mode="texture").validate(uploaded=False).mesh == ""
    with pytest.raises(ProtocolError, match="mode must be"):
        JobRequest("a chair", mode="carve").validate(uploaded=False)


@pytest.mark.parametrize(
    "edit, says", [(Edit(), "changes nothing"), (Edit(" "), "prompt is empty"), (Edit(mesh="\0"), "plain")]
)
def test_an_edit_must_change_something(edit, says):
    with pytest.raises(ProtocolError, match=says):
        edit.validate()
    assert Edit("a chair").validate() == Edit("a chair")


@pytest.mark.parametrize("name", ["texture", "texture.", "texture.01", "texture.64", "uvs.0", "texture.²"])
def test_slots_have_plain_numbers(name):
    with pytest.raises(ProtocolError, match="unknown array"):
        array_kind(name)
    assert array_kind("texture.63") == "texture"
