"""The run directory: configuration, atomic parts, stage marks, metrics, events and the driver's lock.

    RUN/config.yaml manifest.json          resolved configuration; versions, seed, hashes
    RUN/driver.json finished.json          who drives the run now; its summary once it is over
    RUN/events.jsonl report.html           what happened, in UTC; the run as one page (reporting/)
    RUN/iterations/0000/{groups,pairs}/part-*.parquet
    RUN/iterations/0000/prompts/part-*.parquet     what the generator was asked and wrote, in the form of groups
    RUN/iterations/0000/{done/STAGE.json,metrics.jsonl,checkpoint/,eval/}

A run lives in a local or NFS folder or under any URI that pyarrow.fs knows (s3://, gs://).
"""

import contextlib
import re
import socket
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count, product
from string import ascii_lowercase
from typing import Any, Literal

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pyarrow import fs as pafs

from pipelines.records import GROUPS, PAIRS, Group, Pair, digest, groups_table, pairs_table
from pipelines.storage import Folder, LedgerError, absolute, join, to_json

__all__ = ["Ledger", "LedgerError"]

Kind = Literal["groups", "prompts"]  # of groups: the iteration's, or the generator's


@dataclass(frozen=True)
class Ledger:
    """One run directory. It holds its path and nothing else, so stage actors can carry it."""

    path: str

    # ---- birth and identity

    @classmethod
    def create(cls, runs_dir: str, name: str | None, config: dict[str, Any], manifest: dict[str, Any]) -> "Ledger":
        """A new run below `runs_dir`, called `name` or today's UTC date and the first free letter.

        Raises LedgerError when a run of that name exists. Locally two simultaneous creators never get one folder.
        """
        parent = absolute(runs_dir)
        for candidate in [_safe(name)] if name is not None else _default_names():
            ledger = cls(join(parent, candidate))
            if ledger._folder.claim():
                ledger.write_config(config)
                ledger._folder.put("manifest.json", to_json(manifest, indent=2))
                return ledger
        path = join(parent, name or "")
        raise LedgerError(
            f"{path}: this run exists already; continue it with `appellate resume {path}`, "
            "or start another with a different name=..."
        )

    @classmethod
    def open(cls, path: str) -> "Ledger":
        """The existing run at `path`; raises LedgerError when there is none."""
        ledger = cls(absolute(path))
        if ledger._folder.info().type == pafs.FileType.NotFound:
            raise LedgerError(f"{ledger.path}: no such run directory")
        if not all(ledger._folder.info(file).is_file for file in ("config.yaml", "manifest.json")):
            raise LedgerError(f"{ledger.path}: not a run directory, it has no config.yaml and manifest.json")
        return ledger

    @property
    def run_id(self) -> str:
        """The run's name and a digest of where it lies: two runs never share it, wherever they are called alike."""
        return f"{self.path.rstrip('/').rsplit('/', 1)[-1]}-{digest(self.path)[:6]}"

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration (plain types only)."""
        self._folder.put("config.yaml", yaml.safe_dump(config, sort_keys=False).encode())  # escaped: YAML folds U+0085

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration as `write_config` got it."""
        return yaml.safe_load(self._folder.read("config.yaml"))

    def read_manifest(self) -> dict[str, Any]:
        """Versions, seed and hashes of the run."""
        return self._folder.read_json("manifest.json") or {}

    # ---- groups and pairs

    def commit_groups(self, iteration: int, groups: list[Group], kind: Kind = "groups") -> str | None:
        """Write the groups as one part, named after their prompt ids: committing them again replaces the same file.

        Returns the part's file name, None when there is nothing to commit. Raises ValueError for a group of another
        iteration or a prompt id given twice.
        """
        if not groups:
            return None
        part = f"part-{digest(sorted(group['prompt_id'] for group in groups))[:24]}.parquet"
        self._write_groups(iteration, kind, part, groups)
        return part

    def commit_pairs(self, iteration: int, pairs: list[Pair], part: str) -> str:
        """Write the pairs as the part called `part` (letters, digits, . _ -), replacing it; returns the file name."""
        file = f"part-{_safe(part)}.parquet"
        table = pairs_table(sorted(pairs, key=lambda pair: pair["pair_id"]))
        self._folder.put(_of(iteration, "pairs", file), _parquet(table))
        return file

    def replace_pairs(self, iteration: int, pairs: list[Pair]) -> None:
        """Put `pairs`, which hold every pair of the iteration, in the place of the committed parts."""
        parts = self._parts(iteration, "pairs")
        kept = self.commit_pairs(iteration, pairs, "all")
        for part in parts:
            if part != kept:
                self._folder.delete(_of(iteration, "pairs", part))

    def committed_prompt_ids(self, iteration: int, kind: Kind = "groups") -> set[str]:
        """Prompt ids of every committed group; reads that column alone. Raises LedgerError for a damaged part."""
        return {key for part in self._parts(iteration, kind) for key in self._prompt_ids(iteration, kind, part)}

    def iter_groups(self, iteration: int, kind: Kind = "groups") -> Iterator[Group]:
        """The groups, each prompt id once, one part in memory at a time; raises LedgerError for a damaged part.

        Ordered by part name, then prompt id; of a prompt in two parts the first is taken. The order does not depend
        on time, but on how prompts fell into parts: sums of floats over it belong in `math.fsum`.
        """
        seen: set[str] = set()
        for part in self._parts(iteration, kind):
            for group in self.read_groups(iteration, part, kind):
                if group["prompt_id"] not in seen:
                    seen.add(group["prompt_id"])
                    yield group

    def group_parts(self, iteration: int, kind: Kind = "groups") -> dict[str, str]:
        """The committed parts by name, each with a stamp that changes when the part is replaced."""
        entries = {entry.base_name: entry for entry in self._folder.entries(_of(iteration, kind))}
        return {part: f"{entries[part].mtime_ns}-{entries[part].size}" for part in self._parts(iteration, kind)}

    def read_groups(self, iteration: int, part: str, kind: Kind = "groups") -> list[Group]:
        """The groups of one part, by prompt id; raises LedgerError for a damaged part."""
        return self._read_part(_of(iteration, kind, _safe(part)), GROUPS).to_pylist()

    def find_group(self, iteration: int, prompt_id: str, kind: Kind = "groups") -> Group | None:
        """The group of one prompt, None where it is not committed; reads one part whole."""
        for part in self._parts(iteration, kind):
            if prompt_id in self._prompt_ids(iteration, kind, part):
                return next(g for g in self.read_groups(iteration, part, kind) if g["prompt_id"] == prompt_id)
        return None

    def replace_groups(self, iteration: int, groups: Iterable[Group], kind: Kind = "groups") -> None:
        """Put the groups, now with derived fields filled, in the place of the committed ones, part by part.

        Every committed prompt must come once. Each part is replaced at once when its last group has come, so a crash
        leaves a part raw or filled and repeating is harmless; in `iter_groups` order (it may be fed from there) one
        part is in memory at a time. A prompt that two parts held stays in the first. Raises LedgerError when prompts
        are unknown, repeated or left out.
        """
        where = self._folder.show(_of(iteration, kind))
        owner: dict[str, str] = {}
        missing: dict[str, set[str]] = {}
        for part in self._parts(iteration, kind):
            missing[part] = set(self._prompt_ids(iteration, kind, part)) - owner.keys()
            owner.update(dict.fromkeys(missing[part], part))
        filled: dict[str, list[Group]] = {part: [] for part in missing}
        for group in groups:
            part = owner.get(group["prompt_id"])
            if part is None or group["prompt_id"] not in missing[part]:
                what = "was never committed" if part is None else "came twice"
                raise LedgerError(f"{where}: prompt {group['prompt_id']} {what}")
            missing[part].remove(group["prompt_id"])
            filled[part].append(group)
            if not missing[part]:
                self._write_groups(iteration, kind, part, filled.pop(part))
        absent = sorted(key for keys in missing.values() for key in keys)
        if absent:
            raise LedgerError(f"{where}: {len(absent)} committed prompts did not come, e.g. {', '.join(absent[:3])}")
        for part in filled:  # parts whose every prompt an earlier part holds
            self._write_groups(iteration, kind, part, [])

    def read_pairs(self, iteration: int) -> pa.Table:
        """Every pair of the iteration once, sorted by pair_id (schema records.PAIRS)."""
        files = [_of(iteration, "pairs", part) for part in self._parts(iteration, "pairs")]
        table = pa.concat_tables([PAIRS.empty_table(), *(self._read_part(file, PAIRS) for file in files)])
        rows: dict[str, int] = {}
        for row, key in enumerate(table["pair_id"].to_pylist()):
            rows.setdefault(key, row)
        return table.take(pa.array([rows[key] for key in sorted(rows)], pa.int64()))

    # ---- stages and results

    def mark(self, iteration: int, stage: str, info: dict[str, Any] | None = None) -> None:
        """Record that a stage ("prompts", "groups", "pairs", "train", "sync") of the iteration is complete."""
        self._folder.put(_of(iteration, "done", f"{_safe(stage)}.json"), to_json({**(info or {}), "time": _now()}))

    def complete(self, iteration: int, stage: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do the `work` of a stage and mark it with what it returns, unless the stage is complete already."""
        if self.done(iteration, stage) is None:
            self.event("stage_started", iteration=iteration, stage=stage)
            info = work()
            self.mark(iteration, stage, info)
            self.event("stage_done", iteration=iteration, stage=stage, **info)

    def done(self, iteration: int, stage: str) -> dict[str, Any] | None:
        """What `mark` recorded, and its UTC `time`; None while the stage is not complete."""
        return self._folder.read_json(_of(iteration, "done", f"{_safe(stage)}.json"))

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Record that the whole run is over."""
        self._folder.put("finished.json", to_json({**summary, "time": _now()}, indent=2))

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that is over, and its UTC `time`; else None."""
        return self._folder.read_json("finished.json")

    def iterations(self) -> list[int]:
        """The iterations that have a folder, ascending."""
        return sorted(int(entry.base_name) for entry in self._folder.entries("iterations") if entry.base_name.isdigit())

    def checkpoint_dir(self, iteration: int) -> str:
        """Where the iteration's checkpoint belongs, an absolute path or a URI; not created here."""
        return self._folder.show(_of(iteration, "checkpoint"))

    def append_metrics(self, iteration: int, record: dict[str, Any]) -> None:
        """Append one record to the iteration's metrics; non-finite numbers become null."""
        self._folder.append(_of(iteration, "metrics.jsonl"), record)

    def read_metrics(self, iteration: int) -> list[dict[str, Any]]:
        """The iteration's metrics in the order they were written, without lines torn by a crash."""
        return self._folder.records(_of(iteration, "metrics.jsonl"))

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event with its kind and the UTC time."""
        self._folder.append("events.jsonl", {"time": _now(), "kind": kind, **fields})

    def events(self) -> list[dict[str, Any]]:
        """Every event in the order they were written, without lines torn by a crash."""
        return self._folder.records("events.jsonl")

    def write_report(self, page: bytes) -> str:
        """Put the report into the run's folder; returns its path or URI."""
        self._folder.put("report.html", page)
        return self._folder.show("report.html")

    def driven(self) -> bool:
        """Whether a driver holds the run now; one on another host cannot be seen and counts as alive."""
        holder = self._folder.read_json("driver.json")
        return bool(holder and _alive(holder))

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Drive the run alone; raises LedgerError while another driver lives.

        The lock of a driver that died on this host is taken over. One on another host cannot be seen and counts as
        alive. In an object store two drivers that start in the same instant are not told apart.
        """
        me = psutil.Process()
        mine = {"pid": me.pid, "host": socket.gethostname(), "started": me.create_time(), "token": uuid.uuid4().hex,
                "time": _now()}
        with self._folder.guard():
            holder = self._folder.read_json("driver.json")
            if holder and _alive(holder):
                raise LedgerError(
                    f"{self.path}: process {holder['pid']} on {holder['host']} has driven this run since "
                    f"{holder['time']}; stop it first, or delete driver.json there if it is surely gone"
                )
            self._folder.put("driver.json", to_json(mine))
        if holder:
            self.event("lock_taken_over", pid=holder["pid"], host=holder["host"])
        try:
            yield
        finally:
            if (self._folder.read_json("driver.json") or {}).get("token") == mine["token"]:
                self._folder.delete("driver.json")

    # ---- parts

    @property
    def _folder(self) -> Folder:
        return Folder(self.path)

    def _parts(self, iteration: int, kind: str) -> list[str]:
        names = [entry.base_name for entry in self._folder.entries(_of(iteration, kind)) if entry.is_file]
        return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))

    def _prompt_ids(self, iteration: int, kind: Kind, part: str) -> list[str]:
        table = self._read_part(_of(iteration, kind, part), GROUPS, ["prompt_id"])
        return table["prompt_id"].to_pylist()

    def _write_groups(self, iteration: int, kind: Kind, part: str, groups: list[Group]) -> None:
        groups = sorted(groups, key=lambda group: group["prompt_id"])
        if len({group["prompt_id"] for group in groups}) < len(groups):
            raise ValueError(f"iteration {iteration}: a prompt id comes twice in {[g['prompt_id'] for g in groups]}")
        for group in groups:
            if group["iteration"] != iteration:
                raise ValueError(f"prompt {group['prompt_id']} is of iteration {group['iteration']}, not {iteration}")
        self._folder.put(_of(iteration, kind, part), _parquet(groups_table(groups)))

    def _read_part(self, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        expected = pa.schema([schema.field(column) for column in columns]) if columns else schema
        try:
            with self._folder.fs.open_input_file(self._folder.at(name)) as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = f"cannot be read ({' '.join(str(error).split())[:200]})"
        else:
            if table.schema.equals(expected):
                return table
            reason = "does not have the columns of this version"
        raise LedgerError(
            f"{self._folder.show(name)}: {reason}; if the file is damaged, delete it and resume the run: "
            "what it held is made again"
        )


def _of(iteration: int, *names: str) -> str:
    return "/".join(["iterations", f"{iteration:04d}", *names])


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise LedgerError(f"{name!r} cannot name a file; use letters, digits, '.', '_' and '-'")
    return name


def _default_names() -> Iterator[str]:
    """2026-11-22-a, ..., -z, -aa, ..."""
    day = datetime.now(UTC).date().isoformat()
    letters = chain.from_iterable(product(ascii_lowercase, repeat=length) for length in count(1))
    return (f"{day}-{''.join(word)}" for word in letters)


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the driver that wrote the lock may still run; a process id used again has another start time."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(holder["pid"])
        return abs(process.create_time() - holder["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
