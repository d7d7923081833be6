"""Directive: one named setting, how its text is read, checked and shown again."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1
INT32_MAX = 2**31 - 1

# Redis's units: the ones with a b are powers of 1024, the ones without are powers of 1000.
UNIT_BYTES = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_MEMORY = re.compile(r"([0-9]*)([a-z]*)", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]{1,18})%", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
SCORE_COUNT, SCORE_LIMIT = 3, 2000  # of oom-score-adj-values
_FINE_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%?")
# Classes of keyspace events as CONFIG GET orders them. Where all of the first are on, "A" stands for them.
_ALL_EVENTS, _NEW_KEYS, _EVENT_CHANNELS = "g$lshzxetd", "n", "KEm"


class ConfigError(ValueError):
    """A setting that cannot be taken; its text says what is wrong, in Redis's words where Redis has them."""


class Kind(enum.Enum):
    """How a directive's text is read, and the type of its value."""

    INTEGER = "number"  # int
    MEMORY = "bytes"  # int, in bytes
    MEMORY_OR_PERCENT = "bytes or N%"  # int in bytes, or Percent
    PERCENT = "percent"  # int, 0 to 100; the sign is optional
    FINE_PERCENT = "percent, up to two decimals"  # int, in hundredths of a percent; the sign is optional
    INTEGER_OR_AUTO = "number or auto"  # int, or the word
    YES_NO = "yes|no"  # bool
    CHOICE = "choice"  # str, one of choices
    CHOICES = "choice ..."  # tuple[str, ...], in the order of choices, of which the first stands for none of the others
    TEXT = "text"  # str
    FILE_NAME = "file name"  # str, without a folder
    LIST = "list"  # tuple[str, ...], any number of arguments
    SCORES = "number number number"  # tuple[str, ...]: three of the system's scores for who goes when memory runs out
    PERCENTILES = "percentile ..."  # tuple[str, ...], each as CONFIG GET shows it
    OCTAL = "octal"  # int
    SAVE_POINTS = "seconds changes ..."  # tuple[tuple[int, int], ...]
    EVENT_CLASSES = "event classes"  # str, letters in Redis's order
    OUTPUT_LIMITS = "class hard soft seconds ..."  # dict[str, OutputLimit]


class Standing(enum.Enum):
    """What kvcd does about a directive."""

    OWN = "own"  # kvcd's; Redis does not know it
    HONOURED = "honoured"  # Redis's, and means the same here
    IGNORED = "ignored"  # Redis's, and means nothing here: taken with a warning in the log


@dataclass(frozen=True, slots=True)
class Percent:
    """A share of something that the reader of the setting knows, such as the machine's memory."""

    value: int

    def of(self, total: int) -> int:
        """Return this share of ``total``, rounded down."""
        return total * self.value // 100


@dataclass(frozen=True, slots=True)
class OutputLimit:
    """When a client that does not read its replies is closed; 0 is no limit."""

    hard_bytes: int
    soft_bytes: int
    soft_s: int


Value = int | bool | str | Percent | tuple[str, ...] | tuple[tuple[int, int], ...] | dict[str, OutputLimit]


@dataclass(frozen=True, slots=True)
class Directive:
    """One setting. ``default`` is text as CONFIG GET shows it; limits and choices are those of redis-server 7.0.15.

    ``harmless`` are the values that ask for nothing that kvcd lacks. ``refusal``, if there is one, says why no other value is taken.
    """

    name: str
    kind: Kind
    default: str
    help: str
    group: str
    standing: Standing = Standing.HONOURED
    mutable: bool = True
    protected: bool = False  # changeable at run time only with enable-protected-configs
    minimum: int = 0
    maximum: int = INT64_MAX
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    refusal: str = ""
    shown: bool = True  # False: a line of a file only, never in CONFIG GET
    repeats: bool = False  # every line counts, and adds to those before it (``Config.lines``)

    def is_met(self, value: Value) -> bool:
        """Whether ``value`` is one of those that kvcd does as asked, although the directive means nothing here or is refused."""
        return self.show(value) in self.harmless

    @property
    def takes_many(self) -> bool:
        """Whether a line may give more than one argument."""
        return self.kind in (Kind.LIST, Kind.CHOICES, Kind.SCORES, Kind.PERCENTILES, Kind.SAVE_POINTS, Kind.OUTPUT_LIMITS)

    def read(self, arguments: Sequence[str], *, previous: Value | None = None) -> Value:
        """Return the value that ``arguments`` mean, on top of ``previous`` where a line changes only a part.

        Raises ConfigError, with Redis's words, if they mean none.
        """
        if not self.takes_many and len(arguments) != 1:
            raise ConfigError("wrong number of arguments")
        if self.takes_many and len(arguments) == 1:
            arguments = arguments[0].split() or arguments  # as in Redis: --save "60 1", quoted as one
        value = _READERS[self.kind](self, arguments, previous)
        if self.refusal and not self.is_met(value):
            raise ConfigError(self.refusal)
        return value

    def show(self, value: Value) -> str:
        """Return the text of ``value`` as CONFIG GET shows it; ``read`` of it gives ``value`` again."""
        match value:
            case bool():
                return "yes" if value else "no"
            case int() if self.kind is Kind.FINE_PERCENT:
                return fine_percent(value)
            case int():
                return f"{value:o}" if self.kind is Kind.OCTAL else str(value)
            case Percent():
                return f"{value.value}%"
            case str():
                # Redis does not show "n" beside "A", and it is in force all the same.
                return value.replace(_NEW_KEYS, "") if self.kind is Kind.EVENT_CLASSES and "A" in value else value
            case dict():
                return " ".join(f"{name} {limit.hard_bytes} {limit.soft_bytes} {limit.soft_s}" for name, limit in value.items())
            case tuple():
                return " ".join(f"{item[0]} {item[1]}" if isinstance(item, tuple) else item for item in value)

    def check_range(self, number: int) -> int:
        """Return ``number`` if the directive allows it."""
        if not self.minimum <= number <= self.maximum:
            low, high = self.show(self.minimum), self.show(self.maximum)
            raise ConfigError(f"argument must be between {low} and {high} inclusive")
        return number


def fine_percent(hundredths: int) -> str:
    """Return the text of so many hundredths of a percent, without zeros that say nothing."""
    return _without_zeros(f"{hundredths / 100:.2f}")


def _without_zeros(decimals: str) -> str:
    return decimals.rstrip("0").rstrip(".")


def memory_bytes(text: str) -> int:
    """Return the bytes that a memory value such as ``192mb`` means. Raises ConfigError."""
    match = _MEMORY.fullmatch(text)
    if match is None or match[2].lower() not in UNIT_BYTES or (not match[1] and match[2]):
        raise ConfigError("argument must be a memory value")
    digits = match[1][:40]  # beyond any memory already, and int() of a very long text is slow
    return min(int(digits or "0") * UNIT_BYTES[match[2].lower()], UINT64_MAX)


def _read_integer(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    text = arguments[0]
    if not _INTEGER.fullmatch(text) or not -INT64_MAX - 1 <= int(text) <= INT64_MAX:
        raise ConfigError("argument couldn't be parsed into an integer")
    return directive.check_range(int(text))


def _read_memory(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    return directive.check_range(memory_bytes(arguments[0]))


def _read_memory_or_percent(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    percent = _PERCENT.fullmatch(arguments[0])
    if percent is not None:
        if int(percent[1]) > 100:
            raise ConfigError("percentage argument must be less or equal to 100")
        return Percent(int(percent[1]))
    try:
        return directive.check_range(memory_bytes(arguments[0]))
    except ConfigError as error:
        if "between" in str(error):
            raise
        raise ConfigError("argument must be a memory or percent value") from None


def _read_percent(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    return _read_integer(directive, [arguments[0].removesuffix("%")], previous)


def _read_fine_percent(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    match = _FINE_PERCENT.fullmatch(arguments[0])
    if match is None:
        raise ConfigError("argument must be a percent value with at most two decimals")
    return directive.check_range(int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")))


def _read_integer_or_auto(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if arguments[0].lower() == "auto":
        return "auto"
    try:
        return _read_integer(directive, arguments, previous)
    except ConfigError as error:
        if "between" in str(error):
            raise
        raise ConfigError("argument must be a number or 'auto'") from None


def _read_yes_no(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    text = arguments[0].lower()
    if text not in ("yes", "no"):
        raise ConfigError("argument must be 'yes' or 'no'")
    return text == "yes"


def _read_choice(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    text = arguments[0].lower()
    if text not in directive.choices:
        raise ConfigError(f"argument(s) must be one of the following: {', '.join(directive.choices)}")
    return text


def _read_choices(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    given = {argument.lower() for argument in arguments}
    if not given or not given.issubset(directive.choices):
        raise ConfigError(f"argument(s) must be one of the following: {', '.join(directive.choices)}")
    if {"save", "nosave"} <= given:
        raise ConfigError("shutdown options SAVE and NOSAVE can't be used simultaneously")
    return tuple(choice for choice in directive.choices[1:] if choice in given) or directive.choices[:1]


def _read_text(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    return arguments[0]


def _read_file_name(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if "/" in arguments[0] or "\\" in arguments[0]:
        raise ConfigError(f"{directive.name} can't be a path, just a filename")
    return arguments[0]


def _read_list(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    return tuple(argument for argument in arguments if argument)


def _read_scores(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if len(arguments) != SCORE_COUNT:
        raise ConfigError("wrong number of arguments")
    if not all(_WHOLE.fullmatch(argument) and abs(int(argument)) <= SCORE_LIMIT for argument in arguments):
        raise ConfigError(f"Invalid {directive.name}, elements must be between -{SCORE_LIMIT} and {SCORE_LIMIT}.")
    return tuple(str(int(argument)) for argument in arguments)


def _read_percentiles(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    given = [argument for argument in arguments if argument]
    if not all(_DECIMAL.fullmatch(argument) for argument in given):
        raise ConfigError(f"Invalid {directive.name} parameters")
    if not all(0 <= float(argument) <= 100 for argument in given):
        raise ConfigError(f"{directive.name} parameters should sit between [0.0,100.0]")
    return tuple(_without_zeros(f"{float(argument):f}") for argument in given)


def _read_octal(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if not re.fullmatch("[0-7]{1,20}", arguments[0]):
        raise ConfigError("argument couldn't be parsed as an octal number")
    return directive.check_range(int(arguments[0], 8))


def _read_save_points(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if list(arguments) in ([], [""]):
        return ()
    valid = len(arguments) % 2 == 0 and all(re.fullmatch("[0-9]{1,10}", argument) for argument in arguments)
    pairs = tuple((int(arguments[at]), int(arguments[at + 1])) for at in range(0, len(arguments), 2)) if valid else ()
    if not pairs or any(seconds < 1 for seconds, _ in pairs):
        raise ConfigError("Invalid save parameters")
    already = previous if isinstance(previous, tuple) else ()
    return tuple(pair for pair in already if isinstance(pair, tuple)) + pairs


def _read_event_classes(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    given = set(arguments[0].replace("A", _ALL_EVENTS))
    if given - set(_ALL_EVENTS + _NEW_KEYS + _EVENT_CHANNELS):
        raise ConfigError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    if given.issuperset(_ALL_EVENTS):
        given.add("A")
    order = "A" + _NEW_KEYS + _EVENT_CHANNELS if "A" in given else _ALL_EVENTS + _NEW_KEYS + _EVENT_CHANNELS
    return "".join(letter for letter in order if letter in given)


def _read_output_limits(directive: Directive, arguments: Sequence[str], previous: Value | None) -> Value:
    if not arguments or len(arguments) % 4:
        raise ConfigError("Wrong number of arguments in buffer limit configuration.")
    limits = dict(previous) if isinstance(previous, dict) else {}
    for at in range(0, len(arguments), 4):
        name, hard, soft, seconds = arguments[at : at + 4]
        name = {"replica": "slave"}.get(name.lower(), name.lower())
        if name not in ("normal", "slave", "pubsub"):
            raise ConfigError("Invalid client class specified in buffer limit configuration.")
        try:
            limits[name] = OutputLimit(memory_bytes(hard), memory_bytes(soft), int(seconds))
        except ValueError:
            raise ConfigError("Error in hard, soft or soft_seconds setting in buffer limit configuration.") from None
        if limits[name].soft_s < 0:
            raise ConfigError("Error in hard, soft or soft_seconds setting in buffer limit configuration.")
    return limits


_READERS = {
    Kind.INTEGER: _read_integer,
    Kind.MEMORY: _read_memory,
    Kind.MEMORY_OR_PERCENT: _read_memory_or_percent,
    Kind.PERCENT: _read_percent,
    Kind.FINE_PERCENT: _read_fine_percent,
    Kind.INTEGER_OR_AUTO: _read_integer_or_auto,
    Kind.YES_NO: _read_yes_no,
    Kind.CHOICE: _read_choice,
    Kind.CHOICES: _read_choices,
    Kind.TEXT: _read_text,
    Kind.FILE_NAME: _read_file_name,
    Kind.LIST: _read_list,
    Kind.SCORES: _read_scores,
    Kind.PERCENTILES: _read_percentiles,
    Kind.OCTAL: _read_octal,
    Kind.SAVE_POINTS: _read_save_points,
    Kind.EVENT_CLASSES: _read_event_classes,
    Kind.OUTPUT_LIMITS: _read_output_limits,
}
