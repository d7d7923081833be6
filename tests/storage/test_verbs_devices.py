"""Verbs devices: which port and which GID are chosen, from files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.fabric import verbs_devices
from storage.fabric.verbs_devices import VerbsError, choose_gid, choose_port, device_names, list_ports

EMPTY = "0000:0000:0000:0000:0000:0000:0000:0000"
LINK_LOCAL = "fe80:0000:0000:0000:0202:c9ff:fe00:0001"
IPV4 = "0000:0000:0000:0000:0000:ffff:0a00:0001"


def make_device(root: Path, name: str, gids: list[tuple[str, str]], *, state: str = "4: ACTIVE", layer: str = "Ethernet") -> None:
    port = root / name / "ports" / "1"
    for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs"):
        (port / folder).mkdir(parents=True)
    for file, text in (("state", state), ("link_layer", layer), ("lid", "0x1f"), ("rate", "100 Gb/sec (4X EDR)")):
        (port / file).write_text(f"{text}\n")
    for index, (address, kind) in enumerate(gids):
        (port / "gids" / str(index)).write_text(f"{address}\n")
        if kind:
            (port / "gid_attrs/types" / str(index)).write_text(f"{kind}\n")
            (port / "gid_attrs/ndevs" / str(index)).write_text("eth0\n")


ROCE = [(LINK_LOCAL, "IB/RoCE v1"), (LINK_LOCAL, "RoCE v2"), (EMPTY, ""), (IPV4, "IB/RoCE v1"), (IPV4, "RoCE v2")]


def test_a_roce_port_is_described(tmp_path: Path) -> None:
    make_device(tmp_path, "mlx5_0", ROCE)
    [port] = list_ports("mlx5_0", tmp_path)
    assert (port.state, port.link_layer, port.lid, port.rate) == ("ACTIVE", "ethernet", 31, "100 Gb/sec (4X EDR)")
    assert [str(gid) for gid in port.gids][2:] == ["3 (10.0.0.1, RoCE v1, eth0)", "4 (10.0.0.1, RoCE v2, eth0)"]


@pytest.mark.parametrize(
    ("gids", "layer", "asked", "index"),
    [
        (ROCE, "Ethernet", None, 4),
        (ROCE[:3], "Ethernet", None, 1),
        (ROCE[:1], "Ethernet", None, 0),
        (ROCE, "Ethernet", 0, 0),
        ([(LINK_LOCAL, "IB/RoCE v1"), (IPV4, "IB/RoCE v1")], "InfiniBand", None, 0),
    ],
)
def test_the_gid_is_the_one_asked_for_or_the_best(
    tmp_path: Path, gids: list[tuple[str, str]], layer: str, asked: int | None, index: int
) -> None:
    make_device(tmp_path, "mlx5_0", gids, layer=layer)
    assert choose_gid(choose_port(["mlx5_0"], None, tmp_path), asked).index == index


@pytest.mark.parametrize("asked", [2, 9])
def test_an_empty_or_missing_gid_index_lists_what_is_there(tmp_path: Path, asked: int) -> None:
    make_device(tmp_path, "mlx5_0", ROCE)
    with pytest.raises(VerbsError, match=rf"no GID at index {asked}\. It has 0 \(fe80::.*4 \(10\.0\.0\.1, RoCE v2, eth0\)"):
        choose_gid(choose_port(["mlx5_0"], None, tmp_path), asked)


def test_a_port_without_any_gid_says_how_it_gets_one(tmp_path: Path) -> None:
    make_device(tmp_path, "rxe0", [(EMPTY, "")])
    with pytest.raises(VerbsError, match="ip addr add"):
        choose_gid(choose_port(["rxe0"], None, tmp_path))


def test_a_long_empty_table_is_not_read_to_its_end_but_gaps_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_device(tmp_path, "rxe0", [(EMPTY, "")] * 63 + [(IPV4, "RoCE v2")] + [(EMPTY, "")] * 500)
    assert [gid.index for gid in list_ports("rxe0", tmp_path)[0].gids] == [63]
    reads: list[Path] = []
    read = verbs_devices._text
    monkeypatch.setattr(verbs_devices, "_text", lambda path: reads.append(path) or read(path))
    list_ports("rxe0", tmp_path)
    assert len(reads) < 140


def test_the_first_active_port_is_taken(tmp_path: Path) -> None:
    make_device(tmp_path, "mlx5_0", ROCE, state="1: DOWN")
    make_device(tmp_path, "mlx5_1", ROCE)
    assert choose_port(device_names(tmp_path), None, tmp_path).device == "mlx5_1"
    with pytest.raises(VerbsError, match="mlx5_0 port 1 is DOWN"):
        choose_port(device_names(tmp_path), "mlx5_0", tmp_path)


def test_no_device_and_an_unknown_one_say_what_to_do(tmp_path: Path) -> None:
    assert device_names(tmp_path / "none") == []
    with pytest.raises(VerbsError, match="rdma link add"):
        choose_port([], None, tmp_path)
    with pytest.raises(VerbsError, match="no RDMA device 'mlx4_0'; there is mlx5_0"):
        choose_port(["mlx5_0"], "mlx4_0", tmp_path)
