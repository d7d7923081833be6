# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Verbs device: the opened RDMA device of a front end, its registered memory, and the channel that announces completions."""

import os
import resource

from libc.errno cimport EAGAIN, ENOMEM, EPERM, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from storage.fabric cimport verbs_link
from storage.fabric.base cimport STAGING_BYTES
from storage.fabric.libibverbs cimport (
    IBV_ACCESS_LOCAL_WRITE,
    IBV_ATOMIC_NONE,
    ibv_device,
    ibv_port_attr,
    ibv_send_wr,
    ibv_sge,
    load,
)
from storage.fabric.verbs_buffers cimport set_up, tear_down
from storage.fabric.verbs_link cimport LINKS_LIMIT, SMALL_DEPTH, Hub, Link

from storage.fabric.control_messages import MTU_MOST
from storage.fabric.verbs_devices import VerbsError, choose_gid, choose_port, device_names
from storage.fabric.waiting import resume_ready

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    int madvise(void *, size_t, int)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_DONTFORK
    void *MAP_FAILED

cdef enum:
    LEAST_DOORBELL_BYTES = 4 << 20
    MOST_RD_ATOMIC = 16


def device_error(str device, str what, int code):
    """What to raise when a device refuses: ``what`` says what it does not do."""
    hint = "close other users of it, or raise its limits" if code in (ENOMEM, EAGAIN) else f"ibv_devinfo -v -d {device} shows its limits"
    return VerbsError(f"RDMA device {device} {what}: {os.strerror(code)}; {hint}")


def registration_error(str device, uint64_t size_bytes, int code):
    """What to raise when memory cannot be registered."""
    prefix = f"{size_bytes} bytes of staging memory cannot be registered with RDMA device {device}"
    limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if code in (ENOMEM, EPERM, EAGAIN) and limit_bytes != resource.RLIM_INFINITY and limit_bytes < size_bytes:
        return VerbsError(
            f"{prefix}: this process may lock {limit_bytes} bytes of memory (ulimit -l). Raise that: ulimit -l unlimited as root, "
            "--ulimit memlock=-1 in Docker, LimitMEMLOCK=infinity under systemd; or give it the capability IPC_LOCK"
        )
    return VerbsError(f"{prefix}: {os.strerror(code)}")


cdef class VerbsDevice:
    """An opened RDMA device with registered memory; one per process.

    ``name``: the device, or the first with an active port. ``staging_bytes``: registered memory, a quarter of it (at least 4 MiB) for
    doorbells, the rest for payloads under way. Raises VerbsError, whose text says what to do.

    The event loop calls ``on_readable`` when ``fileno()`` is readable, and ``expire`` every 50 ms or so while ``waiting_count`` is not 0.
    """

    def __cinit__(self, object name=None, *, object gid_index=None, uint64_t staging_bytes=64 << 20):
        if staging_bytes < LEAST_DOORBELL_BYTES + STAGING_BYTES:
            raise ValueError(f"{staging_bytes} bytes of staging memory; at least {LEAST_DOORBELL_BYTES + STAGING_BYTES} are needed")
        self.hub.verbs = load()
        self.port = choose_port(device_names(), name)
        self.gid = choose_gid(self.port, gid_index)
        try:
            self.open()
            self.set_up(staging_bytes)
        except BaseException:
            self.close()
            raise

    cdef int open(self) except -1:
        cdef int i, count = 0
        cdef ibv_device **devices = self.hub.verbs.get_device_list(&count)
        cdef ibv_port_attr port
        wanted = self.port.device.encode()
        if devices != NULL:
            for i in range(count):
                if self.hub.verbs.get_device_name(devices[i]) == wanted:
                    self.context = self.hub.verbs.open_device(devices[i])
                    break
            self.hub.verbs.free_device_list(devices)
        if self.context == NULL:
            raise VerbsError(
                f"RDMA device {self.port.device} cannot be opened: /dev/infiniband/uverbs* must be there and open to this user, and "
                "ibverbs-providers installed (in a container: --device /dev/infiniband)"
            )
        memset(&port, 0, sizeof(port))
        if self.hub.verbs.query_device(self.context, &self.limits) or self.hub.verbs.query_port(self.context, self.port.number, &port):
            raise VerbsError(f"RDMA device {self.port.device} does not describe itself (ibv_devinfo -d {self.port.device} shows more)")
        if self.limits.atomic_cap == IBV_ATOMIC_NONE:
            raise VerbsError(
                f"RDMA device {self.port.device} does no atomic operations, and a pool is changed by nothing else: "
                "use another device (kvcd doctor lists them)"
            )
        self.mtu = min(port.active_mtu, MTU_MOST)
        self.max_rd_atomic = max(1, min(self.limits.max_qp_rd_atom, self.limits.max_qp_init_rd_atom, MOST_RD_ATOMIC))
        return 0

    cdef int set_up(self, uint64_t area_bytes) except -1:
        cdef uint64_t doorbell_bytes = max(area_bytes // 4, <uint64_t>LEAST_DOORBELL_BYTES) & ~<uint64_t>(STAGING_BYTES - 1)
        cdef Hub *hub = &self.hub
        cdef void *area = mmap(NULL, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if area == MAP_FAILED:
            raise MemoryError(f"no memory for {area_bytes} bytes of staging buffers")
        hub.buffers.area = <char *>area
        hub.buffers.area_bytes = area_bytes
        # Before Linux 5.12 a page that a child shares may be copied away from under the device.
        madvise(area, area_bytes, MADV_DONTFORK)
        hub.requests = <ibv_send_wr *>calloc(SMALL_DEPTH, sizeof(ibv_send_wr))
        hub.elements = <ibv_sge *>calloc(SMALL_DEPTH, sizeof(ibv_sge))
        hub.links = <void **>calloc(LINKS_LIMIT, sizeof(void *))
        if hub.requests == NULL or hub.elements == NULL or hub.links == NULL:
            raise MemoryError("no memory for the queues of an RDMA device")
        self.domain = hub.verbs.alloc_pd(self.context)
        if self.domain == NULL:
            raise device_error(self.port.device, "makes no protection domain", errno)
        self.registration = hub.verbs.reg_mr(self.domain, area, area_bytes, IBV_ACCESS_LOCAL_WRITE)
        if self.registration == NULL:
            raise registration_error(self.port.device, area_bytes, errno)
        hub.buffers.lkey = self.registration.lkey
        hub.channel = hub.verbs.create_comp_channel(self.context)
        if hub.channel == NULL:
            raise device_error(self.port.device, "makes no completion channel", errno)
        os.set_blocking(hub.channel.fd, False)
        set_up(&hub.buffers, doorbell_bytes)
        return 0

    def fileno(self) -> int:
        """Readable when an operation that somebody waits for is over."""
        if self.hub.channel == NULL:
            raise ValueError("the RDMA device is closed")
        return self.hub.channel.fd

    def on_readable(self) -> None:
        """Resume the stacks whose operations are over; for the main stack."""
        if self.hub.channel != NULL:
            verbs_link.serve_events(&self.hub)
            resume_ready()

    def expire(self) -> None:
        """Lose the nodes that let their deadline pass, and resume who waits for them; for the main stack."""
        if self.hub.channel != NULL:
            verbs_link.expire(&self.hub)
            resume_ready()

    @property
    def waiting_count(self) -> int:
        """Stacks that wait for a memory node."""
        return sum((<Link *>self.hub.links[i]).sleeping for i in range(self.hub.link_count))

    @property
    def free_doorbell_buffers(self) -> int:
        """Buffers of 64 KiB in which small operations leave and arrive, not in use."""
        return self.hub.buffers.doorbells_free

    @property
    def free_staging_buffers(self) -> int:
        """Buffers for payloads, not in use."""
        return self.hub.buffers.staging_free

    cpdef void close(self):
        """Close the device. Its fabrics are closed first: ValueError when one is not. Harmless when repeated."""
        cdef Hub *hub = &self.hub
        if hub.link_count:
            raise ValueError(f"{hub.link_count} memory nodes still use the RDMA device: close them first")
        if hub.channel != NULL:
            hub.verbs.destroy_comp_channel(hub.channel)
            hub.channel = NULL
        if self.registration != NULL:
            hub.verbs.dereg_mr(self.registration)
            self.registration = NULL
        if self.domain != NULL:
            hub.verbs.dealloc_pd(self.domain)
            self.domain = NULL
        if self.context != NULL:
            hub.verbs.close_device(self.context)
            self.context = NULL
        if hub.buffers.area != NULL:
            munmap(hub.buffers.area, hub.buffers.area_bytes)
            hub.buffers.area = NULL
            tear_down(&hub.buffers)
        free(hub.requests)
        free(hub.elements)
        free(hub.links)
        hub.requests = NULL
        hub.elements = NULL
        hub.links = NULL

    def __dealloc__(self):
        self.close()
