"""LMCache driver: moves chunks through one of LMCache's own connectors, checks every byte, prints the rates as JSON.

Runs in an environment of its own (``bench.lmcache`` makes it), where LMCache and PyTorch are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import inspect
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import torch  # type: ignore[import-not-found, unused-ignore]
from lmcache.utils import CacheEngineKey  # type: ignore[import-not-found, unused-ignore]
from lmcache.v1.config import LMCacheEngineConfig  # type: ignore[import-not-found, unused-ignore]
from lmcache.v1.metadata import LMCacheMetadata  # type: ignore[import-not-found, unused-ignore]
from lmcache.v1.protocol import init_remote_metadata_info  # type: ignore[import-not-found, unused-ignore]
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend  # type: ignore[import-not-found, unused-ignore]

MODEL = "meta-llama/Llama-3.1-8B"
CHUNK_TOKENS, KEY_VALUE_HEADS, HEAD_SIZE = 256, 8, 128
TIMEOUT_S = 120


class LoopThread:
    """An event loop in a thread, as LMCache keeps one beside its engine; the connectors' synchronous calls need that."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)


def make_backend(url: str, layers: int) -> Any:
    """The host-memory backend that connectors take their buffers from, for one chunk of Llama-3.1-8B at ``layers`` layers."""
    init_remote_metadata_info(1)
    config = LMCacheEngineConfig.from_defaults(
        chunk_size=CHUNK_TOKENS,
        local_cpu=False,
        max_local_cpu_size=3.0,
        remote_url=url,
        remote_serde="naive",
        extra_config={"save_chunk_meta": False},
        save_unfull_chunk=False,
    )
    metadata = LMCacheMetadata(
        model_name=MODEL,
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=torch.bfloat16,
        kv_shape=(layers, 2, CHUNK_TOKENS, KEY_VALUE_HEADS, HEAD_SIZE),
        chunk_size=CHUNK_TOKENS,
    )
    return LocalCPUBackend(config, metadata, dst_device="cpu")


def make_connector(kind: str, options: argparse.Namespace, loop: asyncio.AbstractEventLoop, backend: Any) -> Any:
    """LMCache's connector of ``kind``; called on the loop."""
    host, port = options.host, options.port
    if kind == "valkey":
        from lmcache.v1.storage_backend.connector.valkey_connector import (  # type: ignore[import-not-found, unused-ignore]
            ValkeyConnector,
        )

        return ValkeyConnector(host, port, loop, backend, 4, *for_glide(options))
    from lmcache.v1.storage_backend.connector.redis_connector import (  # type: ignore[import-not-found, unused-ignore]
        RedisConnector,
        RESPConnector,
    )

    if kind == "resp":
        return RESPConnector(host, port, loop, backend, 8, options.username, options.password)
    credentials = f"{options.username}:{options.password}@" if options.password else ""
    return RedisConnector(f"redis://{credentials}{host}:{port}", loop, backend)


def for_glide(options: argparse.Namespace) -> tuple[str, str]:
    """Name and password as LMCache 0.5.6 must be told them: it hands them on in the wrong order, and every server refuses them then."""
    return options.password, options.username


def make_adapter(kind: str, options: argparse.Namespace) -> Any:
    """LMCache's second-level adapter of ``kind``: what its distributed storage manager talks to."""
    common = {
        "host": options.host, "port": options.port, "num_workers": 4, "username": options.username, "password": options.password
    }  # fmt: skip
    if kind == "l2resp":
        from lmcache.v1.distributed.l2_adapters import resp_l2_adapter  # type: ignore[import-not-found, unused-ignore]

        return resp_l2_adapter._create_resp_l2_adapter(resp_l2_adapter.RESPL2AdapterConfig.from_dict(common))
    from lmcache.v1.distributed.l2_adapters import valkey_l2_adapter  # type: ignore[import-not-found, unused-ignore]

    name, password = for_glide(options)
    nodes = {"startup_nodes": f"{options.host}:{options.port}", "valkey_mode": "standalone", "username": name, "password": password}
    settings = valkey_l2_adapter.ValkeyL2AdapterConfig.from_dict(common | nodes | {"type": "valkey"})
    return valkey_l2_adapter._create_valkey_l2_adapter(settings)


def drive(connector: Any, backend: Any, thread: LoopThread, count: int, has_synchronous: bool) -> dict[str, float]:
    """Put, look up and get ``count`` chunks; returns rates. Raises ``AssertionError`` for whatever comes back wrong.

    ``has_synchronous``: the native client has look-ups that block, too, but on the loop that its answers need.
    """
    first_hash = time.time_ns() & 0x7FFF_FFFF_0000_0000  # keys of this run only
    keys = [CacheEngineKey(MODEL, 1, 0, first_hash + number, torch.bfloat16) for number in range(count)]
    absent = CacheEngineKey(MODEL, 1, 0, first_hash + count, torch.bfloat16)
    chunks = [random_chunk(connector, backend, number) for number in range(count)]
    size_bytes = len(chunks[0].byte_array)
    rates: dict[str, float] = {"chunk_bytes": size_bytes}

    def timed(name: str, amount: float, work: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        result = work()
        rates[name] = amount / (time.perf_counter() - began_s)
        return result

    half = count // 2
    assert thread.run(connector.exists(keys[0])) is False
    megabytes = size_bytes * count / 1e6
    timed("put_megabytes_per_s", megabytes / 2, lambda: [thread.run(connector.put(keys[i], chunks[i])) for i in range(half)])
    timed("batched_put_megabytes_per_s", megabytes / 2, lambda: thread.run(connector.batched_put(keys[half:], chunks[half:])))
    assert timed("exists_per_s", count, lambda: [thread.run(connector.exists(key)) for key in keys]) == [True] * count
    if has_synchronous:
        assert connector.exists_sync(keys[0]) is True
    check(chunks, timed("get_megabytes_per_s", megabytes, lambda: [thread.run(connector.get(key)) for key in keys]))
    run_with_gap = [*keys[:5], absent, *keys[5:]]
    assert thread.run(connector.batched_async_contains("look-up", run_with_gap)) == 5
    got = timed("batched_get_megabytes_per_s", megabytes, lambda: thread.run(connector.batched_get_non_blocking("get", keys)))
    check(chunks, got)
    for chunk in chunks:
        chunk.ref_count_down()
    return rates


def drive_adapter(adapter: Any, backend: Any, count: int, layers: int) -> dict[str, float]:
    """The same for a second-level adapter, whose tasks are handed in and tell of their end through a descriptor."""
    from lmcache.v1.distributed.api import ObjectKey  # type: ignore[import-not-found, unused-ignore]
    from lmcache.v1.memory_management import MemoryFormat  # type: ignore[import-not-found, unused-ignore]

    layout = ([torch.Size([2, layers, CHUNK_TOKENS, KEY_VALUE_HEADS * HEAD_SIZE])], [torch.bfloat16], MemoryFormat.KV_2LTD)
    run = time.time_ns().to_bytes(8, "little")
    names = [hashlib.blake2b(run + number.to_bytes(4, "little"), digest_size=32).digest() for number in range(count + 1)]
    *keys, absent = (ObjectKey(chunk_hash=name, model_name=MODEL, kv_rank=0x01000100) for name in names)
    chunks = [fill(backend.allocate(*layout), number) for number in range(count)]
    into = [backend.allocate(*layout) for _ in range(count)]
    size_bytes = len(chunks[0].byte_array)
    rates: dict[str, float] = {"chunk_bytes": size_bytes}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        result = work()
        rates[name] = size_bytes * count / 1e6 / (time.perf_counter() - began_s)
        return result

    def store() -> None:
        task = adapter.submit_store_task(keys, chunks)
        wait_for(adapter.get_store_event_fd(), lambda: adapter.pop_completed_store_tasks().get(task))

    def load() -> Any:
        task = adapter.submit_load_task(keys, into)
        return wait_for(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))

    timed("put_megabytes_per_s", store)
    wanted = [*keys[:5], absent]
    others = [None] * (len(inspect.signature(adapter.submit_lookup_and_lock_task).parameters) - 1)
    task = adapter.submit_lookup_and_lock_task(wanted, *others)
    found = wait_for(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task))
    assert str(found) == "111110", f"of five chunks and one that is not there these were found: {found}"
    timed("get_megabytes_per_s", load)
    for number, (chunk, back) in enumerate(zip(chunks, into, strict=True)):
        assert bytes(back.byte_array) == bytes(chunk.byte_array), f"chunk {number} came back with other bytes"
    adapter.submit_unlock(wanted[:5])
    adapter.delete(keys[:3])
    return rates


def wait_for(descriptor: int, ask: Callable[[], Any]) -> Any:
    """Return what ``ask`` says once it says something; the descriptor becomes readable when it may."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline_s = time.monotonic() + TIMEOUT_S
    while (result := ask()) is None:
        if time.monotonic() > deadline_s:
            raise TimeoutError("LMCache's task does not end")
        if poll.poll(200):
            os.read(descriptor, 8)
    return result


def random_chunk(connector: Any, backend: Any, seed: int) -> Any:
    """A chunk with bytes that no other chunk has."""
    return fill(backend.allocate(connector.meta_shapes, connector.meta_dtypes, connector.meta_fmt), seed)


def fill(chunk: Any, seed: int) -> Any:
    """Fill a chunk with numbers of its own."""
    source = torch.Generator().manual_seed(seed)
    chunk.tensor.copy_(torch.randn(chunk.tensor.shape, generator=source).to(torch.bfloat16))
    return chunk


def check(sent: list[Any], got: list[Any]) -> None:
    """Compare byte for byte, and give the buffers back."""
    assert len(got) == len(sent), f"{len(got)} chunks came back of {len(sent)}"
    for number, (chunk, back) in enumerate(zip(sent, got, strict=True)):
        assert back is not None, f"chunk {number} is missing"
        assert bytes(back.byte_array) == bytes(chunk.byte_array), f"chunk {number} came back with other bytes"
        back.ref_count_down()


def main() -> int:
    """Drive one connector; the last line printed is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("connector", choices=["redis", "valkey", "resp", "l2resp", "l2valkey"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--username", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--layers", type=int, default=8, help="32 for the whole model: chunks of 32 MiB")
    options = parser.parse_args()
    try:
        backend = make_backend(f"redis://{options.host}:{options.port}", options.layers)
        if options.connector.startswith("l2"):
            rates = drive_adapter(make_adapter(options.connector, options), backend, options.chunks, options.layers)
        else:
            thread = LoopThread()

            async def connect() -> Any:
                return make_connector(options.connector, options, thread.loop, backend)

            rates = drive(thread.run(connect()), backend, thread, options.chunks, options.connector != "resp")
    except Exception as error:  # noqa: BLE001 -- whatever LMCache raises is the result of this run
        print(json.dumps({"connector": options.connector, "failed": f"{type(error).__name__}: {error}"}))
        return 1
    print(json.dumps({"connector": options.connector, **rates}))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # LMCache's threads would keep the process alive
