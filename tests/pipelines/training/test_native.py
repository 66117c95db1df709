"""The C++ loops against float32 and against their torch forms, and what happens where they cannot be had."""

import logging
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines.training import lean, logprobs, native
from pipelines.training.attention import Tree, _LoopAttention, _SegmentAttention, tree_attention
from pipelines.training.packing import Pack, pack_sequences

B = torch.bfloat16
texts = st.lists(st.integers(0, 2), min_size=1, max_size=90)
packs = st.builds(
    pack_sequences, st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(1, 20), st.booleans()
)
needs_loops = pytest.mark.skipif(native.library() is None, reason="no AVX-512 bfloat16, or no C++ compiler")


def run(form: Callable[..., Tensor], inputs: list[Tensor], *options: Any) -> list[Tensor]:
    """The value and the gradients of all inputs, in float32."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    out: Tensor = form(*leaves, *options)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(B)  # the same numbers in any type
    found = torch.autograd.grad(out, leaves, upstream.to(out.dtype))
    return [t.detach().float() for t in (out, *found)]


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative distance in the 2-norm; where zero is right, as in gradients of one token, in units of 1e-3."""
    return float(torch.linalg.vector_norm(found - expected) / (torch.linalg.vector_norm(expected) + 1e-3))


def heads(pack: Pack, key_heads: int, groups: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, len(pack.token_ids), count, size) for count in (key_heads * groups, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(B).transpose(1, 2) for shape in shapes]


@needs_loops
@settings(max_examples=40, deadline=None)
@given(packs, st.none() | st.integers(1, 60), st.integers(1, 3), st.integers(1, 3), st.sampled_from([16, 48, 64, 80]))
def test_attention_over_trees_is_as_near_to_float32_as_torch_is(pack, window, key_heads, groups, size):
    inputs, options = heads(pack, key_heads, groups, size), (Tree(pack), None, window)
    exact = run(_SegmentAttention.apply, [t.float() for t in inputs], *options)
    in_torch = run(_SegmentAttention.apply, inputs, *options)
    for loops, torchs, expected in zip(run(_LoopAttention.apply, inputs, *options), in_torch, exact, strict=True):
        assert apart(loops, expected) <= 1.5 * apart(torchs, expected) + 2e-3


@needs_loops
def test_long_segments_fill_many_blocks():
    prompt, sides = list(range(700)), [[1] * 333, [2] * 97, [1] * 200 + [3]]
    pack = pack_sequences([(prompt, side) for side in sides])
    inputs = heads(pack, 2, 3, 64)
    exact = run(_SegmentAttention.apply, [t.float() for t in inputs], Tree(pack), 0.1, None)
    for loops, expected in zip(run(_LoopAttention.apply, inputs, Tree(pack), 0.1, None), exact, strict=True):
        assert apart(loops, expected) <= 5e-3


@needs_loops
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_value_that_is_no_number_stays_one(which):
    pack = pack_sequences([([1, 2, 3], [4, 5])])
    inputs = heads(pack, 1, 1, 16)
    inputs[which][0, 0, 1, 3] = torch.nan
    out, to_query, to_key, _ = run(_LoopAttention.apply, inputs, Tree(pack), None, None)
    assert all(found.isnan().any() for found in (out, to_query, to_key))


@needs_loops
def test_the_loops_are_used_for_what_they_know_alone(monkeypatch):
    called: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda name, *a: (called.append(name), call(name, *a)))
    pack = pack_sequences([([1, 2, 3], [4, 5])])
    tree_attention(None, *heads(pack, 1, 2, 32), None, tree=Tree(pack))
    assert called == ["tree_attention"]
    tree_attention(None, *[t.float() for t in heads(pack, 1, 2, 32)], None, tree=Tree(pack))
    tree_attention(None, *heads(pack, 1, 2, 8), None, tree=Tree(pack))
    assert called == ["tree_attention"]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    out: Any = lean._RmsNorm.apply(x, weight, 1e-5)
    return out


def rotated(x: Tensor) -> Tensor:
    angle = torch.linspace(0, 9, x.shape[-2] * x.shape[-1]).view(1, 1, x.shape[-2], -1)
    out: Any = lean._Rotation.apply(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype))
    return out


def token_logps(logits: Tensor) -> Tensor:
    targets = torch.arange(len(logits)) * 7 % logits.shape[-1]
    logp, _ = logprobs._TokenLogProbs.apply(logits * 1, targets)  # the gradient is written over its input
    return logp


ROWS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "norm": (norm, [(1, 23, 100), (100,)]),
    "gated": (lean._Gated.apply, [(1, 19, 77), (1, 19, 77)]),
    "rotation": (rotated, [(1, 3, 21, 64)]),
    "logprobs": (token_logps, [(13, 1003)]),
}


@needs_loops
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_as_near_to_float32_as_torch_is(name, monkeypatch):
    form, shapes = ROWS[name]
    generator = torch.Generator().manual_seed(2)
    inputs = [(2 * torch.randn(shape, generator=generator)).to(B) for shape in shapes]
    exact = run(form, [t.float() for t in inputs])
    loops = run(form, inputs)
    monkeypatch.setattr(native, "library", lambda: None)
    for found, in_torch, expected in zip(loops, run(form, inputs), exact, strict=True):
        assert apart(found, expected) <= 1.2 * apart(in_torch, expected) + 1e-4


@needs_loops
@pytest.mark.parametrize("name", ROWS)
def test_rows_keep_what_is_no_number(name):
    form, shapes = ROWS[name]
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(B) for shape in shapes]
    inputs[0].flatten()[5] = torch.nan
    assert run(form, inputs)[0].isnan().any()


@needs_loops
def test_entropies_of_the_loops():
    logits = 4 * torch.randn(9, 333, generator=torch.Generator().manual_seed(3))
    logits[0] = -torch.inf
    logits[0, 4] = 1.0  # certain
    _, found = logprobs._TokenLogProbs.apply(logits.to(B), torch.full((9,), 4))
    torch.testing.assert_close(found, torch.distributions.Categorical(logits=logits.to(B).float()).entropy())


# ---- where they cannot be had


@pytest.fixture
def fresh(monkeypatch, tmp_path) -> Generator[Path]:
    """No library was looked for yet, and none was compiled on this machine."""
    monkeypatch.setenv("APPELLATE_CACHE", str(tmp_path))
    monkeypatch.delenv("APPELLATE_NATIVE", raising=False)
    monkeypatch.setattr(native, "cpu_flags", lambda: native.NEEDED)
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def test_other_cpus_go_without(fresh, monkeypatch):
    monkeypatch.setattr(native, "cpu_flags", lambda: native.NEEDED - {"avx512_bf16"})
    assert native.library() is None and not native.fits(torch.ones(1, dtype=B))


def test_they_can_be_turned_off(fresh, monkeypatch):
    monkeypatch.setenv("APPELLATE_NATIVE", "0")
    assert native.library() is None


def test_without_a_compiler_training_is_slower_and_says_so(fresh, monkeypatch, caplog):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert native.library() is None and native.library() is None
    assert [r.message.split(":")[0] for r in caplog.records] == ["no C++ compiler"]


def test_what_does_not_compile_is_said_and_done_without(fresh, monkeypatch, caplog, tmp_path):
    compiler = tmp_path / "cxx"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "unknown option" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.WARNING):
        assert native.library() is None
    assert "unknown option" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


@needs_loops
def test_they_are_compiled_once(fresh, monkeypatch):
    commands: list[list[str]] = []
    plain = subprocess.run
    monkeypatch.setattr(native.subprocess, "run", lambda c, **k: (commands.append(c), plain(c, **k))[1])
    assert native.library() is not None
    native.library.cache_clear()
    assert native.library() is not None
    assert [command[1] for command in commands] == ["--version", native.FLAGS[0], "--version"]
