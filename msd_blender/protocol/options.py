# SPDX-License-Identifier: GPL-3.0-or-later
"""The declaration of a job's option at its dataclass field, from which checks, command lines and schemas derive."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from .errors import ProtocolError

MODES = ("generate", "texture", "refine")
MAX_PROMPT = 1000  # characters
OptionType = type[str] | type[int] | type[float] | type[bool]


@dataclass(frozen=True)
class Option:
    """One option of a job, as a field of `JobRequest` declares it by `option`.

    Args:
        name: of the field, and the key on the wire.
        type: of the value; of a list, the type of its items.
        many: the value is a list: of choices, of two numbers, or of any number of texts.
        default: the value of a request that leaves the option out, often None; MISSING: it is required.
        description: the effect, as a phrase without a capital at its start or a period at its end.
        unit: of a number.
        none: the meaning of None.
        low, high: the range of a number, or of each in a list; both ends belong to it.
        length: greatest number of characters of a text, None for any.
        choices: the values that a text, or each in a list, may have; () for any.
        modes: those that the option has an effect in.
        folder: the text is a folder on the server's machine, "" for none; in a list, each is a file there.
        syntax: the text of one item of a list of texts, as FILE:WEIGHT.
        form: the regular expression of one item of a list of texts, for the API's schema; `JobRequest.validate`
            checks the items.
        most: greatest number of items of a list of texts, None for any.
        internal: set by clients themselves, so that no person is asked for it.
    """

    name: str
    type: OptionType
    many: bool
    default: Any
    description: str
    unit: str = ""
    none: str = "chosen by the server"
    low: float = 0
    high: float = 0
    length: int | None = None
    choices: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    folder: bool = False
    syntax: str = ""
    form: str = ""
    most: int | None = None
    internal: bool = False

    @property
    def texts(self) -> bool:
        """Whether the value is a list of any number of texts."""
        return self.many and self.type is str and not self.choices

    @property
    def flag(self) -> str:
        """The command lines' flag; that of a list of texts names one of them and is given again for each."""
        name = self.name.removesuffix("s") if self.texts else self.name
        return "--" + name.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def text(self) -> str:
        """The description with the unit."""
        return f"{self.description}, in {self.unit}" if self.unit else self.description

    def check(self, value: object) -> None:
        """Raise `ProtocolError` with one sentence unless the option may have this value."""
        if value is None and self.default is None:
            return
        if self.many and self.choices:
            if not isinstance(value, list) or not all(each in self.choices for each in value):
                raise self._unfit(f"a list of {', '.join(self.choices)}", value)
        elif self.texts:
            if not isinstance(value, list):
                raise self._unfit("a list of texts", value)
            if self.most is not None and len(value) > self.most:
                raise ProtocolError(f"There are {len(value):,} {self.name}; give at most {self.most}.")
            for each in value:
                self._check_text(each)
                if not _is_visible(each):
                    raise self._unfit("a list of texts that are not empty", value)
        elif self.many:
            if not isinstance(value, list) or len(value) != 2:
                raise self._unfit("two numbers", value)
            for each in value:
                self._check_number(each)
        elif self.choices:
            if value not in self.choices:
                raise self._unfit(f"one of {', '.join(self.choices)}", value)
        elif self.type is str:
            self._check_text(value)
        elif self.type is bool:
            if not isinstance(value, bool):
                raise self._unfit("true or false", value)
        else:
            self._check_number(value)

    def _unfit(self, expected: str, value: object) -> ProtocolError:
        return ProtocolError(f"{self.name} must be {expected}, not {value!r}.")

    def _check_text(self, value: object) -> None:
        # Half a surrogate pair is legal in JSON but in no file, database or tokenizer; NUL ends a path.
        if not isinstance(value, str) or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise ProtocolError(f"{self.name} must be plain Unicode text.")
        title = self.name.replace("_", " ")
        if self.required and not _is_visible(value):
            raise ProtocolError(f'The {title} is empty: say what to make, for example "a red mushroom".')
        if self.length is not None and len(value) > self.length:
            raise ProtocolError(f"The {title} has {len(value):,} characters; shorten it to at most {self.length:,}.")

    def _check_number(self, value: object) -> None:
        kinds = (int,) if self.type is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            if self.type is int:
                raise self._unfit(f"a whole number from {self.low} to {self.high}", value)
            raise self._unfit(f"a number from {self.low:g} to {self.high:g}", value)


def _is_visible(text: str) -> bool:
    return bool(text.replace("\ufeff", "").strip())


def option(
    default: Any = MISSING,
    *,
    description: str,
    unit: str = "",
    none: str = "chosen by the server",
    low: float = 0,
    high: float = 0,
    length: int | None = None,
    choices: tuple[str, ...] = (),
    modes: tuple[str, ...] = MODES,
    folder: bool = False,
    syntax: str = "",
    form: str = "",
    most: int | None = None,
    internal: bool = False,
) -> Any:
    """A dataclass field that declares an `Option`, whose name and type are the field's own."""
    declared = {  # pydantic reads it too, so that a name of its own, such as pattern, would change the API's answers
        "description": description,
        "unit": unit,
        "none": none,
        "low": low,
        "high": high,
        "length": length,
        "choices": choices,
        "modes": modes,
        "folder": folder,
        "syntax": syntax,
        "form": form,
        "most": most,
        "internal": internal,
    }
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=declared)
    return field(default=default, metadata=declared)


def options_of(kind: type) -> dict[str, Option]:
    """The options of a dataclass whose fields are all declared by `option`, by their names and in their order."""
    hints = get_type_hints(kind)
    return {each.name: _option(each, hints[each.name]) for each in fields(kind)}


def _option(declared: Any, hint: Any) -> Option:
    default = declared.default if declared.default_factory is MISSING else declared.default_factory()
    if default is None:  # the hint is "T | None"
        hint = get_args(hint)[0]
    many = get_origin(hint) is list
    return Option(declared.name, get_args(hint)[0] if many else hint, many, default, **declared.metadata)
