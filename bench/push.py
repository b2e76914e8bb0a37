"""`make bench-push`: the peak memory and the time of registry-push and of its proxy with one large layer.

A layer of SIZE_GIB (2) GiB is pushed to the local registry: from a docker archive, with gzip and with zstd, and through
the proxy in docker's way. The exit code is 1 when a peak is above the budget.
"""

import base64
import http.client
import json
import os
import random
import re
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tests.clients.images import MIB, config
from tests.clients.processes import Server
from tests.clients.target import ROOT, WRITER, local_runtime

BUDGET = 150 * MIB
PROGRAM = str(ROOT / ".venv/bin/registry-push")
_BLOCK = 4 * MIB


def content(size: int) -> Iterator[bytes]:
    """Yield distinct blocks that a compressor makes a little smaller."""
    randomness = random.Random(size)  # noqa: S311 - not for security
    for _ in range(size // _BLOCK):
        yield randomness.randbytes(_BLOCK - MIB) + bytes(MIB)


def write_archive(path: Path, size: int) -> None:
    """Write a docker archive with one layer, which has one file."""
    inner = tarfile.TarInfo("large")
    inner.size = size
    layer = chain([inner.tobuf()], content(size), [bytes(2 * tarfile.BLOCKSIZE)])
    manifest = [{"Config": "config.json", "RepoTags": ["large:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for name, text in (("config.json", config([], "amd64")), ("manifest.json", json.dumps(manifest).encode())):
            _add(archive, name, len(text), iter([text]))
        _add(archive, "layer.tar", size + 3 * tarfile.BLOCKSIZE, layer)


def _add(archive: tarfile.TarFile, name: str, size: int, blocks: Iterator[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, _Stream(blocks))  # type: ignore[arg-type] # addfile only reads


class _Stream:
    """A readable file that consists of the given blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (block := next(self._blocks, b"")):
            self._rest += block
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def peak_of(pid: int) -> int:
    """The peak resident memory of a process, in bytes."""
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


def run(command: list[str], environment: dict[str, str]) -> tuple[int, float]:
    """Run a program, which must succeed; returns its peak memory in bytes and its time in seconds."""
    started = time.monotonic()
    pid = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, command
    return usage.ru_maxrss * 1024, time.monotonic() - started


def through_proxy(host: str, size: int, folder: Path) -> tuple[int, float]:
    """Send one PATCH of unknown length, as docker does; returns the proxy's peak memory in bytes and the seconds."""
    command = [PROGRAM, "proxy", "--listen", "127.0.0.1:0", "--to", host]
    with Server("proxy", command, {"HOME": str(folder)}, "listening on") as server:
        [port] = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", server.output())
        headers = {"Authorization": "Basic " + base64.b64encode(WRITER.credentials.encode()).decode()}
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=600)
        connection.request("POST", "/v2/bench/proxy/blobs/uploads/", headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.request("PATCH", answer.headers["Location"], content(size), headers, encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{size - 1}"), answer.status
        return peak_of(server.pid), time.monotonic() - started


def main() -> int:
    """Run all measurements; returns 1 when a peak is above the budget, else 0."""
    size = int(float(os.environ.get("SIZE_GIB", "2")) * 1024) * MIB
    with tempfile.TemporaryDirectory(prefix="bench-push-") as name:
        folder = Path(name)
        write_archive(folder / "image.tar", size)
        results: dict[str, tuple[int, float]] = {}
        with local_runtime(folder / "bucket") as (_, registry):
            environment = {
                "HOME": str(folder),
                "REGISTRY_USERNAME": WRITER.name,
                "REGISTRY_PASSWORD": WRITER.password,
            }
            archive = ["large:1", "--from", f"docker-archive:{folder}/image.tar"]
            for kind in ("gzip", "zstd"):
                to = f"{registry.host}/bench/{kind}:1"
                results[f"archive, {kind}"] = run([PROGRAM, *archive, "--compression", kind, "--to", to], environment)
            results["proxy"] = through_proxy(registry.host, size, folder)
    print(f"one layer of {size / 1024**3:.1f} GiB; budget {BUDGET // MIB} MiB")
    for what, (memory, seconds) in results.items():
        print(f"{what:16} {memory / MIB:7.1f} MiB {seconds:7.1f} s")
    return int(any(memory > BUDGET for memory, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
