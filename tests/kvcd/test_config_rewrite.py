"""CONFIG REWRITE: what becomes of a configuration file's text."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvcd.access_file import load_users
from kvcd.config import Config
from kvcd.configuration_rewrite import SIGNATURE, memory_text, rewrite_file, rewritten
from protocol.replies import Error
from tests.kvcd.service import Service


def changed(text: str, **changes: str) -> str:
    """Return the text after a rewrite with these directives changed from their defaults."""
    config = Config()
    config.set_many({name.replace("_", "-"): value for name, value in changes.items()})
    return rewritten(text, config)


def test_comments_and_order_stay() -> None:
    """A directive is changed where it stood; what nobody changed is written as it is."""
    text = "# memory\nmaxmemory 1mb\n\n# clients\ntimeout 5\n# end\n"
    assert changed(text, maxmemory="2gb", timeout="7") == "# memory\nmaxmemory 2gb\n\n# clients\ntimeout 7\n# end\n"


def test_new_directives_follow_the_signature() -> None:
    """Once, however often the file is rewritten; defaults are not added."""
    once = changed("port 1\n", maxmemory="1000", maxmemory_policy="noeviction")
    assert once == f"port 6379\n{SIGNATURE}\nmaxmemory 1000\nmaxmemory-policy noeviction\n"
    assert changed(once, maxmemory="1000", maxmemory_policy="noeviction", timeout="3").count(SIGNATURE) == 1


def test_a_directive_that_is_back_at_its_default_stays_in_its_place() -> None:
    """Its value changes; nothing is removed that somebody wrote."""
    assert changed("timeout 5\n") == "timeout 0\n"


def test_several_lines_of_one_directive_become_as_many_as_are_needed() -> None:
    """Save rules and output limits: fewer or more than before."""
    assert changed("save 900 1\n# between\nsave 300 10\nsave 60 10000\n", save="3600 1") == "save 3600 1\n# between\n"
    assert changed("save 900 1\ntimeout 0\n", save="1 2 3 4") == "save 1 2\nsave 3 4\ntimeout 0\n"
    assert changed("save 900 1\n") == 'save ""\n'
    assert "client-output-buffer-limit replica 256mb 64mb 60\n" in changed("", client_output_buffer_limit="normal 1 2 3")


def test_what_is_no_directive_of_ours_stays() -> None:
    """Includes, unknown words, broken quotes, blank lines (two become one)."""
    text = 'include /x.conf\nnonsense 1\nrequirepass "a\n\n\n\n# end\n'
    assert changed(text) == 'include /x.conf\nnonsense 1\nrequirepass "a\n\n# end\n'


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Blanks, quotes and control characters in a password; an alias in the file keeps its value."""
    path = tmp_path / "kvcd.conf"
    path.write_text("requirepass x\nmin-slaves-max-lag 5\n")
    path.chmod(0o640)
    config = Config.load([str(path)], environment={})
    password = 'a "b"\\ \t\n\x01ü'
    config.set_many({"requirepass": password, "maxmemory": "123456789"})
    rewrite_file(config)
    again = Config.load([str(path)], environment={})
    assert again.string("requirepass") == password
    assert again.number("maxmemory") == 123456789
    assert again.number("min-replicas-max-lag") == 5
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["kvcd.conf"]


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0"), (1, "1"), (1024, "1kb"), (1536, "1536"), (3 * 1024**2, "3mb"), (1024**3, "1gb")]
)
def test_sizes_are_written_in_their_largest_unit(size_bytes: int, text: str) -> None:
    """As Redis writes them."""
    assert memory_text(size_bytes) == text


def test_users_are_written_as_they_are_now(tmp_path: Path) -> None:
    """Who was removed is gone, who was changed or added is in the file, and what was written makes the same users again."""
    path = tmp_path / "kvcd.conf"
    path.write_text("# users\nuser bob on >pw ~a* %R~b* &c* +@read (+set ~q*)\nuser al off\n# end\n")
    config = Config.load([str(path)], environment={})
    users = load_users(config)
    rewrite_file(config, users)
    assert {str(name): user.describe() for name, user in load_users(Config.load([str(path)], environment={}))} == {
        str(name): user.describe() for name, user in users
    }
    users.remove(b"bob")
    users.put(b"al", users.changed(b"al", [b"on", b"nopass", b'~"x\\', b"+get"]))
    users.put(b"it's", users.changed(b"it's", [b"(%R~a +get)", b"&*"]))
    users.put(b"both", users.changed(b"both", [b"%RW~*", b"~a"]))  # as `~* ~a` it could not be read again
    rewrite_file(config, users)
    text = path.read_text()
    assert "bob" not in text
    assert text.startswith("# users\nuser al on nopass ")
    assert "\n# end\n" in text
    assert "user default" not in text
    again = load_users(Config.load([str(path)], environment={}))
    assert [(name, user.describe()) for name, user in again] == [(name, user.describe()) for name, user in users]
    users.put(b"default", users.changed(b"default", [b"-get"]))
    rewrite_file(config, users)
    assert "\nuser default on nopass ~* &* +@all -get\n" in path.read_text()


def test_users_of_a_file_of_their_own_are_not_written(tmp_path: Path) -> None:
    """`aclfile` has them, and both together would be refused at the next start."""
    path = tmp_path / "kvcd.conf"
    (tmp_path / "users.acl").write_text("user bob on nopass +get\n")
    path.write_text(f"aclfile {tmp_path}/users.acl\n")
    config = Config.load([str(path)], environment={})
    rewrite_file(config, load_users(config))
    assert "\nuser " not in path.read_text()


def test_without_a_file_there_is_nothing_to_rewrite() -> None:
    """In Redis's words; and a file that cannot be written is told."""
    service = Service()
    assert service.do("CONFIG", "REWRITE") == Error("ERR The server is running without a config file")
    service.server.config.file = "/nonexistent/kvcd.conf"
    assert service.do("CONFIG", "REWRITE") == Error("ERR Rewriting config file: No such file or directory")
