# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON schemas of the bodies that the protocol checks itself, for the OpenAPI document."""

from __future__ import annotations

from dataclasses import fields

from msd_blender.protocol import MODES, OPTIONS, Edit, JobRequest, Option

Schema = dict[str, object]

TEXT = r"^[^\x00]*$"
# At least one visible character: Python, JavaScript and Rust differ in a few of those that they call white space.
VISIBLE_TEXT = r"^[^\x00]*[^\s\x00\x1c-\x1f\x85\ufeff][^\x00]*$"
MESH_ID = "^[0-9a-f]{64}$"

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def request_schema(uploaded: bool = True) -> Schema:
    """The schema of `JobRequest`, with the range, default and description of each option.

    uploaded: the mesh is named where the mode needs one, and only there.
    """
    generate, *others = MODES
    no_mesh: Schema = {"mesh": {"const": ""}} if uploaded else {}
    mesh: Schema = {"mesh": {"pattern": MESH_ID}} if uploaded else {}
    return {
        "type": "object",
        "title": JobRequest.__name__,
        "description": JobRequest.__doc__,
        "properties": {name: _property(option) for name, option in OPTIONS.items()},
        "required": [name for name, option in OPTIONS.items() if option.required],
        "anyOf": [
            {"properties": {"image_prompt": {"const": ""}}},
            {"properties": {"ip_adapter": {"minLength": 1}}, "required": ["ip_adapter"]},
        ],
        "oneOf": [
            {"properties": {"mode": {"const": generate}, "control": {"maxItems": 0}, **no_mesh}},
            {"properties": {"mode": {"enum": others}, **mesh}, "required": ["mode", *mesh]},
        ],
    }


def edit_schema() -> Schema:
    """The schema of `Edit`, whose prompts have the ranges of a request's."""
    descriptions = {each.name: each.metadata["description"] for each in fields(Edit)}
    prompts = {
        name: {"description": descriptions[name], "default": None, "anyOf": [_value(OPTIONS[name]), {"type": "null"}]}
        for name in ("prompt", "negative_prompt")
    }
    mesh = {"description": descriptions["mesh"], "default": "", "type": "string", "pattern": f"^$|{MESH_ID}"}
    return {
        "type": "object",
        "title": Edit.__name__,
        "description": Edit.__doc__,
        "properties": {**prompts, "mesh": mesh},
        "anyOf": [
            *({"properties": {name: {"type": "string"}}, "required": [name]} for name in prompts),
            {"properties": {"mesh": {"pattern": MESH_ID}}, "required": ["mesh"]},
        ],
    }


def _property(option: Option) -> Schema:
    described: Schema = {"description": _description(option)}
    if option.required:
        return described | _value(option)
    described["default"] = option.default
    if option.default is None:
        return described | {"anyOf": [_value(option), {"type": "null"}]}
    return described | _value(option)


def _value(option: Option) -> Schema:
    """The schema of an option's values other than null."""
    value: Schema = {"type": _TYPES[option.type]}
    if option.choices:
        value["enum"] = list(option.choices)
    elif option.type is str:
        visible = option.required or option.texts
        value["pattern"] = option.form or (VISIBLE_TEXT if visible else TEXT)
        if visible:
            value["minLength"] = 1
        if option.length is not None:
            value["maxLength"] = option.length
    elif option.type is not bool:
        value |= {"minimum": option.low, "maximum": option.high}
    if not option.many:
        return value
    several: Schema = {"type": "array", "items": value}
    if option.most is not None:
        several["maxItems"] = option.most
    return several if option.choices or option.texts else several | {"minItems": 2, "maxItems": 2}


def _description(option: Option) -> str:
    """The effect, the modes that have it, and the meaning of null."""
    parts = [option.text]
    if option.modes != MODES:
        parts.append(f"{' and '.join(option.modes)} only")
    if option.default is None:
        parts.append(f"null: {option.none}")
    return "; ".join(parts)
