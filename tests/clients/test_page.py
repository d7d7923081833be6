"""The page about clients has every client that is driven."""

from __future__ import annotations

import json
import re

from tests.clients.installed import NODE_SOURCES, PYTHON_CLIENTS
from tests.servers import ROOT


def test_every_client_is_on_the_page() -> None:
    rows = set(re.findall(r"^\| ([\w-]+) \|", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE))
    dependencies = json.loads((NODE_SOURCES / "package.json").read_text())["dependencies"]
    node = {re.sub(r"^redis-", "node-redis-", name) for name in dependencies}
    own = {"redis-py-newest", "hiredis", "redis-cli", "redis-benchmark"}
    assert rows - {"client"} == set(PYTHON_CLIENTS) | node | own
