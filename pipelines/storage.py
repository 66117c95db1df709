"""A folder of small files, local, NFS or in an object store, in which every file is whole or not there at all.

Locally a file is written beside its place, synced and renamed; an object store shows an object only once its upload is
complete. What a crash leaves behind locally has a name that starts with a dot and is read by nobody.
"""

import contextlib
import fcntl
import functools
import json
import math
import os
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from pyarrow import fs as pafs


class LedgerError(RuntimeError):
    """The run directory cannot be used as asked; the message names the path and what to do."""


@dataclass(frozen=True)
class Folder:
    """A folder by its absolute path or pyarrow.fs URI; file names below are relative to it, with slashes."""

    path: str

    @property
    def fs(self) -> pafs.FileSystem:
        return filesystem(self.path)[0]

    @property
    def local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def at(self, name: str = "") -> str:
        """Path inside the file system."""
        return f"{filesystem(self.path)[1].rstrip('/')}/{name}".rstrip("/")

    def show(self, name: str) -> str:
        """Path or URI for people and for other libraries."""
        return join(self.path, name)

    def info(self, name: str = "") -> pafs.FileInfo:
        return self.fs.get_file_info(self.at(name))

    def entries(self, name: str = "") -> list[pafs.FileInfo]:
        """What lies directly in a sub-folder; nothing when there is none."""
        return self.fs.get_file_info(pafs.FileSelector(self.at(name), allow_not_found=True))

    def claim(self) -> bool:
        """Make the folder; False when it is there already. Exclusive locally, best effort in an object store."""
        if not self.local:
            return not self.entries()
        os.makedirs(os.path.dirname(self.at()), exist_ok=True)
        try:
            os.mkdir(self.at())
        except FileExistsError:
            return False
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, replacing what was there."""
        path = self.at(name)
        if not self.local:
            with self.fs.open_output_stream(path, compression=None) as stream:
                stream.write(data)
            return
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        draft = os.path.join(folder, f".{base}.{uuid.uuid4().hex}")
        try:
            with open(draft, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            raise
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)  # so that the rename survives a power cut
        os.close(handle)

    def read(self, name: str) -> bytes:
        with self.fs.open_input_stream(self.at(name), compression=None) as stream:
            return stream.read()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file, None when there is no such file; raises LedgerError when it is not JSON."""
        try:
            return json.loads(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise LedgerError(f"{self.show(name)}: not JSON ({error}); restore it or delete it") from error

    def delete(self, name: str) -> None:
        self.fs.delete_file(self.at(name))

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One more line of a local file; in an object store, which cannot append, one more object in a folder."""
        line = to_json(record)
        if not self.local:
            self.put(f"{name}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json", line)
            return
        path = self.at(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write((b"\n" if torn else b"") + line + b"\n")

    def records(self, name: str) -> list[dict[str, Any]]:
        """What `append` wrote, in order, without lines torn by a crash."""
        info = self.info(name)
        if info.type == pafs.FileType.NotFound:
            return []
        if info.is_file:
            lines = self.read(name).split(b"\n")
        else:
            lines = [self.read(f"{name}/{base}") for base in sorted(entry.base_name for entry in self.entries(name))]
        records = []
        for line in filter(None, lines):
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    @contextlib.contextmanager
    def guard(self) -> Generator[None]:
        """Hold the folder for a moment against other processes; an object store has nothing of the kind."""
        if not self.local:
            yield
            return
        folder = os.open(self.at(), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


@functools.lru_cache(maxsize=16)
def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """File system of an absolute path or URI and the path inside it."""
    return pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)


def absolute(path: str) -> str:
    """A local path made absolute; a URI as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def join(path: str, name: str) -> str:
    """Below a path or URI; a URI keeps its options (`s3://bucket/runs?region=x`) at its end."""
    base, mark, options = path.partition("?") if "://" in path else (path, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def to_json(record: Any, indent: int | None = None) -> bytes:
    """Strict JSON: numpy scalars are unwrapped, non-finite numbers become null, other objects their text."""

    def plain(value: Any) -> Any:
        return _finite(value.item()) if hasattr(value, "item") else str(value)

    text = json.dumps(_finite(record), ensure_ascii=False, default=plain, indent=indent)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
