"""LMCache driver: moves chunks through one of LMCache's own connectors, checks every byte, prints the rates as JSON.

Runs in an environment of its own (``bench.lmcache`` makes it), where LMCache and PyTorch are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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


def make_connector(kind: str, host: str, port: int, loop: asyncio.AbstractEventLoop, backend: Any) -> Any:
    """LMCache's connector of ``kind``; called on the loop."""
    if kind == "redis":
        from lmcache.v1.storage_backend.connector.redis_connector import (  # type: ignore[import-not-found, unused-ignore]
            RedisConnector,
        )

        return RedisConnector(f"redis://{host}:{port}", loop, backend)
    from lmcache.v1.storage_backend.connector.valkey_connector import (  # type: ignore[import-not-found, unused-ignore]
        ValkeyConnector,
    )

    return ValkeyConnector(host, port, loop, backend, 4, "", "")


def drive(connector: Any, backend: Any, thread: LoopThread, count: int) -> dict[str, float]:
    """Put, look up and get ``count`` chunks; returns rates. Raises ``AssertionError`` for whatever comes back wrong."""
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
    assert connector.exists_sync(keys[0]) is True
    check(chunks, timed("get_megabytes_per_s", megabytes, lambda: [thread.run(connector.get(key)) for key in keys]))
    run_with_gap = [*keys[:5], absent, *keys[5:]]
    assert thread.run(connector.batched_async_contains("look-up", run_with_gap)) == 5
    got = timed("batched_get_megabytes_per_s", megabytes, lambda: thread.run(connector.batched_get_non_blocking("get", keys)))
    check(chunks, got)
    for chunk in chunks:
        chunk.ref_count_down()
    return rates


def random_chunk(connector: Any, backend: Any, seed: int) -> Any:
    """A chunk with bytes that no other chunk has."""
    chunk = backend.allocate(connector.meta_shapes, connector.meta_dtypes, connector.meta_fmt)
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
    parser.add_argument("connector", choices=["redis", "valkey"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--layers", type=int, default=8, help="32 for the whole model: chunks of 32 MiB")
    options = parser.parse_args()
    thread = LoopThread()
    backend = make_backend(f"redis://{options.host}:{options.port}", options.layers)

    async def connect() -> Any:
        return make_connector(options.connector, options.host, options.port, thread.loop, backend)

    connector = thread.run(connect())
    try:
        rates = drive(connector, backend, thread, options.chunks)
    except Exception as error:  # noqa: BLE001 -- whatever LMCache raises is the result of this run
        print(json.dumps({"connector": options.connector, "failed": f"{type(error).__name__}: {error}"}))
        return 1
    print(json.dumps({"connector": options.connector, **rates}))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # LMCache's threads would keep the process alive
