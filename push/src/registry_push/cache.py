"""Keeps the results of earlier runs: compressed layers, the layers of each image, and unfinished uploads.

`blobs/` holds blobs by digest, `notes/` small JSON files by subject. All of it can be made again, and a malformed entry
counts as missing. Several runs may use one cache at once.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from registry_push.failures import Misused
from registry_push.slices import Slice, whole
from registry_push.untrusted_json import read_json_file

DEFAULT_LIMIT = 20 * 1024**3  # bytes
_OWNER_ONLY = stat.S_IRWXU
_FORGOTTEN = 30 * 86400.0  # seconds after which unused notes and the files of killed runs are removed


class Cache:
    """A folder, created when missing. Only its owner can read it: layers and URLs of upload sessions are private."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Open the cache; `limit` is in bytes. Raises Misused when the folder belongs to another user."""
        self._blobs = folder / "blobs"
        self._notes = folder / "notes"
        self._limit = limit
        for each in (folder, self._blobs, self._notes):
            each.mkdir(_OWNER_ONLY, parents=True, exist_ok=True)
            try:
                each.chmod(_OWNER_ONLY)  # earlier versions left the mode to the umask
            except PermissionError:
                raise Misused(f"{each} belongs to another user: pass --cache with a folder of your own") from None
        # Not in /tmp, which may be small or in memory. `trim` removes the folders of killed runs.
        self.scratch = Path(tempfile.mkdtemp(prefix="run-", dir=folder))

    def close(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    # ------------------------------------------------------------------ blobs
    def find(self, digest: str, size: int | None = None) -> Slice | None:
        """A blob; None when it is missing, or has another size than `size`."""
        path = self._path(digest)
        try:
            os.utime(path)  # marks it as used: `trim` removes the least recently used
            found = whole(path)
        except OSError:
            return None
        return found if size in (None, found.size) else None

    def add(self, file: Path, digest: str) -> Slice:
        """Move a file of the scratch folder to the blobs."""
        path = self._path(digest)
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        file.replace(path)
        return whole(path)

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.replace(":", "-")

    def trim(self) -> None:
        """Remove old notes and scratch folders, and the least recently used blobs that exceed the limit."""
        for path in [*self._notes.iterdir(), *self.scratch.parent.glob("run-*")]:
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _FORGOTTEN:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        files = []
        for path in self._blobs.iterdir():
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                break
            total -= size
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ notes
    def recall(self, about: str) -> dict[str, Any]:
        """The note about a subject; empty when there is none."""
        try:
            content = read_json_file(self._note(about))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def note(self, about: str, content: Mapping[str, Any]) -> None:
        """Write the note about a subject, in place of an earlier one."""
        # mkstemp makes it readable by its owner alone: the URL of an upload session is as good as a password for it.
        handle, name = tempfile.mkstemp(dir=self.scratch)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
        Path(name).replace(self._note(about))

    def forget(self, about: str) -> None:
        """Remove the note about a subject."""
        self._note(about).unlink(missing_ok=True)

    def _note(self, about: str) -> Path:
        return self._notes / hashlib.sha256(about.encode()).hexdigest()


def default_folder(environment: Mapping[str, str]) -> Path:
    """The cache folder without --cache."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    return Path(base) / "registry-push"
