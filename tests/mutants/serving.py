"""Faults above the pool: parser, encoder, fast lane, membership."""

from __future__ import annotations

from tests.mutants.mutant import one

PARSER = "protocol/parser.pyx"
FASTLANE = "kvcd/fastlane.pyx"
SESSION = "kvcd/session.pyx"
MEMBERSHIP = "storage/membership.py"
OPENING = "storage/opening.py"
PARSER_TESTS = "tests/protocol/test_parser.py"
FASTLANE_TESTS = "tests/kvcd/test_fastlane.py"
PIECES_TEST = "tests/kvcd/test_large_values.py::test_replies_of_many_pieces"
OPENING_TESTS = "tests/storage/test_opening.py"

MUTANTS = (
    one(
        "run-does-not-end-at-a-conflict",
        "commands of one pipeline that depend on each other must run one after the other",
        FASTLANE,
        "                # Reads may name a key twice, and of a read-only key that is harmless.\n                found = True",
        "                # Reads may name a key twice, and of a read-only key that is harmless.\n                found = False",
        FASTLANE_TESTS,
    ),
    one(
        "generations-of-runs-wrap",
        "entries of runs long ago would count as of this one, or its own not at all",
        FASTLANE,
        "        if self.generation > 0xFFFF:",
        "        if False:",
        f"{FASTLANE_TESTS}::test_order_holds_after_more_runs_than_a_mark_can_count",
    ),
    one(
        "a-value-begins-where-the-one-before-was-cut",
        "of several values that go in one call only the first was begun before",
        SESSION,
        "            position = 0\n",
        "            pass\n",
        PIECES_TEST,
    ),
    one(
        "what-the-socket-took-of-a-value-is-sent-again",
        "a socket takes a part of what it is offered",
        SESSION,
        "                self.chunk_position += sent\n",
        "                pass\n",
        PIECES_TEST,
    ),
    one(
        "split-in-a-header",
        "a frame may be cut anywhere, between CR and LF too",
        PARSER,
        "        if status == PARSE_MORE or line_length + 2 > available:\n            return PARSE_MORE\n        if not is_count",
        "        if status == PARSE_MORE:\n            return PARSE_MORE\n        if not is_count",
        PARSER_TESTS,
    ),
    one(
        "multibulk-without-limit",
        "nobody may make the server promise a million arguments more than Redis allows",
        PARSER,
        "or number > MULTIBULK_LIMIT:",
        "or False:",
        PARSER_TESTS,
        "tests/protocol/test_parser_redis.py",
    ),
    one(
        "number-had-without-its-lock",
        "two front ends with one number write each other's hazards",
        MEMBERSHIP,
        "                if number not in taken and self._lock_all(number):",
        "                if number not in taken:",
        OPENING_TESTS,
    ),
    one(
        "alone-without-proof",
        "who recovers a pool that somebody uses takes it from under him",
        MEMBERSHIP,
        "return Place(number, alone=not taken)",
        "return Place(number, alone=True)",
        OPENING_TESTS,
    ),
    one(
        "marked-clean-by-any-that-leaves",
        "the mark says that nobody wrote after it",
        OPENING,
        "if self.path is not None and is_last:",
        "if self.path is not None:",
        OPENING_TESTS,
    ),
)
