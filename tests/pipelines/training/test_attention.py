"""Attention over a pack's tree is attention under a mask that segment paths write down, on a CPU and on a GPU alike."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask, flex_attention

from pipelines.training import attention
from pipelines.training.attention import NAME, Tree, TreeAttentionError, over_trees, tree_attention
from pipelines.training.packing import Pack, pack_sequences
from tests.pipelines.training.tiny import tiny_lm

CPU = torch.device("cpu")
texts = st.lists(st.integers(0, 1), min_size=1, max_size=8)
packs = st.builds(
    pack_sequences, st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.integers(1, 3), st.booleans()
)
windows = st.none() | st.integers(1, 12)


def dense_mask(pack: Pack, window: int | None) -> Tensor:
    """[tokens, tokens], True where a query sees a key: segment by segment, from the paths alone."""
    mask = torch.zeros(len(pack.token_ids), len(pack.token_ids), dtype=torch.bool)
    for segment in pack.segments:
        for query in range(segment.start, segment.end):
            for ancestor in (pack.segments[i] for i in segment.path):
                for key in range(ancestor.start, min(ancestor.end, query + 1)):
                    near = window is None or pack.position_ids[query] - pack.position_ids[key] < window
                    mask[query, key] = near
    return mask


def eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention by its definition; [1, tokens, heads, size], as transformers' implementations give it."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def random_heads(pack: Pack, groups: int = 2, seed: int = 0) -> list[Tensor]:
    """Query, key and value of two key heads and `groups` query heads for each."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, len(pack.token_ids), 4) for heads in (2 * groups, 2, 2)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(packs, windows)
def test_the_rule_for_a_gpu_is_the_mask_of_the_paths(pack, window):
    size = len(pack.token_ids)
    (found,) = create_mask(Tree(pack).mask_mod(window, CPU), None, None, size, size, device="cpu")[0]
    assert torch.equal(found, dense_mask(pack, window))


@settings(max_examples=40, deadline=None)
@given(packs, windows, st.integers(1, 3), st.integers(0, 99))
def test_segments_attend_as_the_whole_does_under_the_mask_of_the_paths(pack, window, groups, seed):
    heads = random_heads(pack, groups, seed)
    found, _ = tree_attention(None, *heads, None, scaling=0.4, tree=Tree(pack), sliding_window=window)
    expected = eager(*heads, dense_mask(pack, window), 0.4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn(expected.shape)
    for a, b in zip(torch.autograd.grad((found * weight).sum(), heads),
                    torch.autograd.grad((expected * weight).sum(), heads), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [None, 5])
def test_the_call_for_a_gpu_gives_the_same(monkeypatch, window, groups):
    """FlexAttention without its compiler, which needs a GPU: the rule, head groups and scale that it is handed."""
    monkeypatch.setattr(attention, "_compiled", flex_attention)
    pack = pack_sequences([([1, 2, 3, 4], [5, 6, 7]), ([1, 2, 3, 9], [5, 6]), ([1, 2, 3, 4], [8, 8, 8, 8])], 2)
    heads = [head.detach() for head in random_heads(pack, groups)]
    found = attention._flex(*heads, Tree(pack), 0.4, window).transpose(1, 2)
    torch.testing.assert_close(found, eager(*heads, dense_mask(pack, window), 0.4), atol=1e-5, rtol=1e-5)


def test_a_mask_by_hand():
    """1 2 is the prompt of 3 4 and of 5: the second response does not see the first."""
    tree = Tree(pack_sequences([([1, 2], [3, 4, 0]), ([1, 2], [5, 0])]))
    rows = create_mask(tree.mask_mod(None, CPU), None, None, 5, 5, device="cpu")[0, 0].int().tolist()
    assert rows == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    near = create_mask(tree.mask_mod(2, CPU), None, None, 5, 5, device="cpu")[0, 0].int().tolist()
    assert near == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


# ---- what has no exact form over a tree


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"softcap": 50.0}, "softcap"), ({"s_aux": torch.zeros(2)}, "s_aux"), ({"dropout": 0.1}, "dropout"),
        ({"position_bias": torch.zeros(1), "softcap": 1.0}, "softcap, position_bias"),
        ({"attention_mask": torch.zeros(1)}, "an attention mask"),
    ],
)
def test_what_a_tree_has_no_form_of_is_refused(options, named):
    pack = pack_sequences([([1, 2], [3, 4])])
    mask = {"attention_mask": None} | options
    with pytest.raises(TreeAttentionError, match=rf"^Linear asks for {named}, which attention over a tree does not"):
        tree_attention(nn.Linear(1, 1), *random_heads(pack), tree=Tree(pack), **mask)


def test_options_that_ask_for_nothing_are_taken():
    pack = pack_sequences([([1, 2], [3, 4])])
    nothing: dict[str, Any] = {"softcap": None, "is_causal": True, "dropout": 0.0, "position_ids": None}
    out, weights = tree_attention(None, *random_heads(pack), None, tree=Tree(pack), **nothing)
    assert (out.shape, weights) == ((1, 3, 4, 4), None)


def test_attention_without_its_tree_is_refused():
    pack = pack_sequences([([1, 2], [3, 4])])
    with pytest.raises(TreeAttentionError, match=r"^Linear does not hand its keyword arguments to attention"):
        tree_attention(nn.Linear(1, 1), *random_heads(pack), None)


# ---- a model that attends over trees for a while


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_afterwards_a_model_attends_as_before(before):
    model = tiny_lm()
    model.set_attn_implementation(before)
    tokens = torch.tensor([[1, 5, 9, 2]])
    expected = model(tokens).logits
    with over_trees(model):
        assert model.config._attn_implementation == NAME
        with over_trees(model):
            pass
        assert model.config._attn_implementation == NAME  # the inner one leaves it to the outer one
        with pytest.raises(TreeAttentionError, match="does not hand"):
            model(tokens)
    with pytest.raises(RuntimeError, match="half way"), over_trees(model):
        raise RuntimeError("half way")
    assert model.config._attn_implementation == before
    assert torch.equal(model(tokens).logits, expected)
