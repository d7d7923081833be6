"""Certificates for tests: an authority of one's own, and what it signs, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import require_program


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where a certificate and its key lie."""

    file: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates, all in one folder."""

    folder: Path
    own: Certificate

    @classmethod
    def make(cls, folder: Path, name: str = "authority") -> Authority:
        """Make an authority."""
        require_program("openssl")
        file, key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(file)),
        )
        return cls(folder, Certificate(file, key))

    def sign(self, name: str, *, secret: str = "") -> Certificate:
        """Return a new certificate for this machine; its key is encrypted with ``secret``, if there is one."""
        file, key, request = (self.folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        encrypted = ("-passout", f"pass:{secret}") if secret else ("-nodes",)
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *encrypted, "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        names = self.folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.own.file), "-CAkey", str(self.own.key), "-CAcreateserial"),
            *("-days", "2", "-extfile", str(names), "-out", str(file)),
        )
        return Certificate(file, key)


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
