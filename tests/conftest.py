"""Models that several packages test with; each is made once a session."""

import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores
ENGINE_TESTS = ("tests/e2e/", "tests/actors/test_checkpoints.py")
CLUSTER_TESTS = ("tests/e2e/test_elastic.py", "tests/e2e/test_shared_cluster.py", "tests/e2e/test_train.py")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def pytest_configure(config: pytest.Config) -> None:
    """Hush what Ray's own models say about pydantic; fewer examples a property where the quick tests alone are run."""
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:ray.*")
    # No deadline: how long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("whole", deadline=None)
    hypothesis.settings.register_profile("quick", deadline=None, max_examples=30)
    hypothesis.settings.load_profile("quick" if config.option.markexpr == "not slow" else "whole")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that start vLLM run one after the other on one worker: two at a time would fill the memory.

    Those of clusters without it run after one another, too, beside them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(CLUSTER_TESTS):
                return "clusters"
            if nodeid.startswith(ENGINE_TESTS):
                return "engines"
            file = nodeid.split("::", 1)[0]
            return file if file.endswith("test_strategies.py") else nodeid

    return Lanes(config, log)


def write_tiny_model(folder: Path, seed: int, **changes: Any) -> str:
    """A random two-layer Llama in bfloat16, tied embeddings; equal seeds give equal tensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {
        "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "initializer_range": 0.3,  # wide, so that log-probabilities differ visibly between models
    }
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(LlamaConfig(**{**options, **changes}))
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smollm2() -> str:
    """Folder of the real SmolLM2-135M-Instruct, made from the bundled package the first time on a machine."""
    from actors.checkpoints import resolve_model

    return resolve_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def tokenizer(smollm2) -> Any:
    """SmolLM2's tokenizer; tests that change it work on a deep copy."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="session")
def make_tiny_model(smollm2, tmp_path_factory) -> Any:
    """`make_tiny_model(seed, **config changes)` gives the folder of a tiny model with SmolLM2's tokenizer."""

    def make(seed: int, **changes: Any) -> str:
        folder = tmp_path_factory.mktemp(f"tiny-{seed}")
        for name in TOKENIZER_FILES:
            shutil.copy(Path(smollm2) / name, folder / name)
        return write_tiny_model(folder, seed, **changes)

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model) -> str:
    """Folder of a random two-layer Llama of hidden size 32 with SmolLM2's tokenizer and vocabulary."""
    return make_tiny_model(0)


@pytest.fixture(scope="session")
def chat(tokenizer) -> Any:
    """SmolLM2's chat format."""
    from actors.chat import ChatFormat

    return ChatFormat(tokenizer)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public benchmark data that is no part of the repository: $APPELLATE_DATA, or shared/data beside it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("APPELLATE_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no benchmark data; name its folder in APPELLATE_DATA")
    return folder
