"""What earlier runs made: compressed layers, which images they belong to, and uploads that were not finished.

`blobs/` holds blobs by their digest, `notes/` small JSON files by what they are about. Everything in it can be made
again, and whatever is not as it should be is taken for missing. Several runs may use one cache at once.
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
_FORGOTTEN = 30 * 86400.0  # seconds: notes that nobody needed, and what a killed run left


class Cache:
    """A folder, made when it is missing. Nobody else reads it: layers are private, and so is where uploads go on."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Open it; `limit` is in bytes. Raises Misused when the folder is not this person's own."""
        self._blobs = folder / "blobs"
        self._notes = folder / "notes"
        self._limit = limit
        for each in (folder, self._blobs, self._notes):
            each.mkdir(_OWNER_ONLY, parents=True, exist_ok=True)
            try:
                each.chmod(_OWNER_ONLY)  # earlier versions left that to the umask
            except PermissionError:
                raise Misused(f"{each} belongs to somebody else; --cache names a folder of your own") from None
        # Not in /tmp, which may be small, or memory. What a killed run left is cleared by `trim`.
        self.scratch = Path(tempfile.mkdtemp(prefix="run-", dir=folder))

    def close(self) -> None:
        """Remove what only this run needed."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    # ------------------------------------------------------------------ blobs
    def find(self, digest: str, size: int | None = None) -> Slice | None:
        """A blob; None when it is not there, or not all of it."""
        path = self._path(digest)
        try:
            os.utime(path)  # used now: `trim` takes the oldest
            found = whole(path)
        except OSError:
            return None
        return found if size in (None, found.size) else None

    def add(self, file: Path, digest: str) -> Slice:
        """Take a file of the scratch folder as the blob that it is."""
        path = self._path(digest)
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        file.replace(path)
        return whole(path)

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.replace(":", "-")

    def trim(self) -> None:
        """Remove the blobs that were not used for longest until the rest is below the limit, and what is forgotten."""
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
        """What was noted about something; empty when nothing was."""
        try:
            content = read_json_file(self._note(about))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def note(self, about: str, content: Mapping[str, Any]) -> None:
        """Note something, instead of what was noted before."""
        # Readable by its owner alone, as mkstemp makes it: where an upload goes on is as good as a password for it.
        handle, name = tempfile.mkstemp(dir=self.scratch)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
        Path(name).replace(self._note(about))

    def forget(self, about: str) -> None:
        """Note nothing about something."""
        self._note(about).unlink(missing_ok=True)

    def _note(self, about: str) -> Path:
        return self._notes / hashlib.sha256(about.encode()).hexdigest()


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where the cache is when nobody says."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    return Path(base) / "registry-push"
