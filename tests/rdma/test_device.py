"""The guest's RDMA device by pyverbs alone: what kvcd builds on is there, and behaves as the specification says."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Iterator

import pytest
import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

pytestmark = pytest.mark.verbs

REGION_BYTES = 1 << 20
ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC
ROCE_V2_IPV4 = "0000:0000:0000:0000:0000:ffff:0a4d:0001"  # 10.77.0.1
COMPLETION_DEADLINE_S = 10


def gid_index(context: Context) -> int:
    """Return the table index of the device's IPv4 address."""
    found = [number for number in range(4) if str(context.query_gid(1, number)) == ROCE_V2_IPV4]
    assert found, [str(context.query_gid(1, number)) for number in range(4)]
    return found[0]


class Pair:
    """Two connected queue pairs of one process, and the remote region that the first one reaches by the second."""

    def __init__(self) -> None:
        """Register both sides' memory, and bring the queue pairs to the state in which they send."""
        self.context = Context(name="rxe0")
        self.domain = PD(self.context)
        self.completions = CQ(self.context, 64)
        self.local = MR(self.domain, REGION_BYTES, ACCESS)
        self.remote = MR(self.domain, REGION_BYTES, ACCESS)
        capacity = QPCap(max_send_wr=32, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        self.ends = [
            QP(self.domain, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.completions, rcq=self.completions, cap=capacity)) for _ in range(2)
        ]
        for end, peer in zip(self.ends, reversed(self.ends), strict=True):
            self._connect(end, peer)

    def _connect(self, end: QP, peer: QP) -> None:
        attributes = QPAttr(port_num=1)
        attributes.qp_access_flags = ACCESS
        end.to_init(attributes)
        index = gid_index(self.context)
        route = GlobalRoute(dgid=self.context.query_gid(1, index), sgid_index=index)
        attributes.ah_attr = AHAttr(port_num=1, is_global=1, gr=route)
        attributes.path_mtu = e.IBV_MTU_4096
        attributes.dest_qp_num = peer.qp_num
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = 16
        attributes.min_rnr_timer, attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = 12, 14, 6, 7
        end.to_rts(attributes)

    def status_of(self, operation: int, *, length: int, offset: int, key: int | None = None, compare: int = 0, swap: int = 0) -> int:
        """Run one operation between the local region's start and ``offset`` of the remote one; return the completion's status."""
        request = SendWR(opcode=operation, num_sge=1, sg=[SGE(self.local.buf, length, self.local.lkey)], send_flags=e.IBV_SEND_SIGNALED)
        place = (self.remote.rkey if key is None else key, self.remote.buf + offset)
        if operation in (e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD):
            request.set_wr_atomic(*place, compare, swap)
        else:
            request.set_wr_rdma(*place)
        self.ends[0].post_send(request)
        deadline_s = time.monotonic() + COMPLETION_DEADLINE_S
        while time.monotonic() < deadline_s:
            count, completions = self.completions.poll(1)
            if count:
                return int(completions[0].status)
        pytest.fail(f"no completion within {COMPLETION_DEADLINE_S} s")

    def atomic(self, operation: int, *, offset: int, compare: int, swap: int = 0) -> int:
        """Run an atomic operation; return the word as it was before."""
        assert self.status_of(operation, length=8, offset=offset, compare=compare, swap=swap) == e.IBV_WC_SUCCESS
        return int(struct.unpack("<Q", self.local.read(8, 0))[0])

    def close(self) -> None:
        """Give everything back."""
        for part in (*self.ends, self.completions, self.local, self.remote, self.domain, self.context):
            part.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connected pair."""
    made = Pair()
    yield made
    made.close()


def test_device_is_there_and_its_port_is_active() -> None:
    assert [device.name.decode() for device in get_device_list()] == ["rxe0"]
    with Context(name="rxe0") as context:
        assert context.query_port(1).state == e.IBV_PORT_ACTIVE
        assert context.query_device().atomic_caps >= e.IBV_ATOMIC_HCA


@pytest.mark.parametrize("length", [1, 8, 4096, 4097, REGION_BYTES])
def test_what_is_written_is_read_back(pair: Pair, length: int) -> None:
    content = bytes(number * 7 % 251 for number in range(length))
    pair.local.write(content, length, 0)
    assert pair.status_of(e.IBV_WR_RDMA_WRITE, length=length, offset=0) == e.IBV_WC_SUCCESS
    assert pair.remote.read(length, 0) == content
    pair.local.write(bytes(length), length, 0)
    assert pair.status_of(e.IBV_WR_RDMA_READ, length=length, offset=0) == e.IBV_WC_SUCCESS
    assert pair.local.read(length, 0) == content


def test_compare_and_swap_changes_only_what_it_expects(pair: Pair) -> None:
    pair.remote.write(struct.pack("<Q", 5), 8, 64)
    swap = e.IBV_WR_ATOMIC_CMP_AND_SWP
    assert pair.atomic(swap, offset=64, compare=5, swap=9) == 5
    assert pair.atomic(swap, offset=64, compare=5, swap=11) == 9
    assert pair.remote.read(8, 64) == struct.pack("<Q", 9)


def test_fetch_and_add_wraps_around(pair: Pair) -> None:
    pair.remote.write(struct.pack("<Q", 5), 8, 64)
    assert pair.atomic(e.IBV_WR_ATOMIC_FETCH_AND_ADD, offset=64, compare=2**64 - 4) == 5
    assert pair.remote.read(8, 64) == struct.pack("<Q", 1)


@pytest.mark.parametrize("operation", [e.IBV_WR_RDMA_READ, e.IBV_WR_RDMA_WRITE], ids=["read", "write"])
def test_wrong_key_is_refused_and_ends_the_queue_pair(pair: Pair, operation: int) -> None:
    pair.remote.write(b"unharmed", 8, 0)
    assert pair.status_of(operation, length=8, offset=0, key=pair.remote.rkey ^ 0x1234500) == e.IBV_WC_REM_ACCESS_ERR
    assert pair.remote.read(8, 0) == b"unharmed"
    assert pair.status_of(e.IBV_WR_RDMA_READ, length=8, offset=0) == e.IBV_WC_WR_FLUSH_ERR


@pytest.mark.parametrize("operation", [e.IBV_WR_RDMA_READ, e.IBV_WR_RDMA_WRITE], ids=["read", "write"])
def test_nothing_beyond_the_region_is_reached(pair: Pair, operation: int) -> None:
    assert pair.status_of(operation, length=8, offset=REGION_BYTES - 4) == e.IBV_WC_REM_ACCESS_ERR


@pytest.mark.parametrize("operation", [e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD], ids=["swap", "add"])
def test_atomic_that_is_not_aligned_is_refused(pair: Pair, operation: int) -> None:
    with pytest.raises(PyverbsRDMAError) as refusal:
        pair.status_of(operation, length=8, offset=4, swap=1)
    assert refusal.value.error_code == errno.EINVAL
    assert pair.remote.read(16, 0) == bytes(16)
