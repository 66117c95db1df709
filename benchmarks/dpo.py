"""Preference training against TRL's DPOTrainer: the same model, pairs, batch and number format, side by side.

    python benchmarks/dpo.py                       # SmolLM2-135M on this CPU, median of 3, one JSON line at the end
    python benchmarks/dpo.py --device cuda --architecture 1.5b

Every measurement is a process of its own, so that peak memory is its own too; the two sides take turns. Needs the
extra `bench` (TRL). Both keep weights, gradients and Adam's moments in bfloat16. Ratios are pairs/s and peak memory.
"""

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH_PAIRS = 4
# Random weights in the shapes of Qwen2.5-1.5B and Llama-3.1-8B: speed does not depend on their values.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "1.5b": {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
             "max_position_embeddings": 32_768},
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
           "max_position_embeddings": 32_768},
}


@dataclass(frozen=True)
class Work:
    """Random pairs of a fixed shape; lengths in words, each about one token."""

    name: str
    prompt: int
    response: int
    pairs: int
    pairs_per_prompt: int = 1
    ours_reference: bool = False  # include our own reference pass in the time
    trl_precomputed: bool = False  # TRL computes its reference beforehand, outside the time
    tokens_per_forward: int = 512  # on the CPU: the smallest packs in which a prompt and its continuations fit


WORKS = [
    Work("general, reference cached", 128, 128, 16),
    Work("general, reference pass on both sides", 128, 128, 16, ours_reference=True),
    Work("judge, reference cached", 768, 96, 8, tokens_per_forward=1200),
    Work("judge, TRL with precomputed reference", 768, 96, 8, trl_precomputed=True, tokens_per_forward=1200),
    Work("judge, 4 continuations per prompt", 768, 96, 8, pairs_per_prompt=2, tokens_per_forward=1200),
]


def load(folder: str, architecture: str | None, device: str) -> tuple[Any, Any]:
    """Model in bfloat16 and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if architecture is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True), tokenizer
    shape = dict(ARCHITECTURES[architecture])
    torch.manual_seed(0)
    with torch.device(device):
        config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), tokenizer


def texts(work: Work, tokenizer: Any) -> list[dict[str, str]]:
    """Pairs of random words."""
    rng = random.Random(0)
    words = [w for w in (tokenizer.decode([i]) for i in range(1000, 8000)) if w.startswith(" ") and w.strip().isalpha()]

    def text(count: int) -> str:
        return "".join(rng.choice(words) for _ in range(count))

    rows = []
    for i in range(work.pairs):
        prompt = text(work.prompt) if i % work.pairs_per_prompt == 0 else rows[-1]["prompt"]
        rows.append({"prompt": prompt, "chosen": text(work.response), "rejected": text(work.response)})
    return rows


def run_ours(work: Work, folder: str, architecture: str | None, device: str) -> dict[str, Any]:
    """Seconds of training on all pairs once."""
    from actors.chat import ChatFormat
    from pipelines.training.config import TrainingConfig
    from pipelines.training.learner import Learner
    from pipelines.training.metrics import Throughput
    from pipelines.training.strategies import make_strategy

    model, tokenizer = load(folder, architecture, device)
    chat = ChatFormat.load(folder)
    pairs: list[Any] = []
    for i, row in enumerate(texts(work, tokenizer)):
        sides = {f"{side}_ids": [*chat.encode(row[side]), chat.end_of_turn()] for side in ("chosen", "rejected")}
        prompt = chat.render([{"role": "user", "content": row["prompt"]}])
        pairs.append({"pair_id": str(i), "prompt_ids": prompt, "weight": 1.0, **sides} | {
            "ref_logp_chosen": None, "ref_logp_rejected": None, "ref_version": None})
    settings: dict[str, Any] = {"weights": "bfloat16", "tokens_per_forward": work.tokens_per_forward}
    if device == "cuda":
        settings |= {"tokens_per_forward": 16_384, "activation_checkpointing": architecture == "8b"}
    config = TrainingConfig(**settings)
    learner = Learner(make_strategy(model.eval(), config, device), config)
    throughput = Throughput(model, device)
    seconds = 0.0
    steps = [pairs[i : i + BATCH_PAIRS] for i in range(0, len(pairs), BATCH_PAIRS)]
    mfu = []
    for step in steps:
        begun = time.perf_counter()
        ready = learner.reference(step, "v0")
        seconds += time.perf_counter() - begun if work.ours_reference else 0.0
        metrics = learner.step(ready, 1e-6)
        seconds += metrics["seconds"]
        measured = throughput.of(metrics)
        mfu.append(measured["mfu"])
    tokens = sum(len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
    return {"seconds": seconds, "tokens": tokens, "mfu": statistics.median(mfu)}


def run_trl(work: Work, folder: str, architecture: str | None, device: str) -> dict[str, Any]:
    """Seconds of `DPOTrainer.train()` on all pairs once."""
    import tempfile

    from datasets import Dataset
    trl: Any = importlib.import_module("trl")  # an extra: the type checker may not find it

    model, tokenizer = load(folder, architecture, device)
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"]}]}
        | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in texts(work, tokenizer)
    ]
    with tempfile.TemporaryDirectory() as out:
        config = trl.DPOConfig(
            output_dir=out, per_device_train_batch_size=BATCH_PAIRS, gradient_accumulation_steps=1,
            max_steps=work.pairs // BATCH_PAIRS, learning_rate=1e-6, bf16=False, logging_steps=1, report_to=[],
            use_cpu=device == "cpu", max_length=4096, precompute_ref_log_probs=work.trl_precomputed,
            gradient_checkpointing=architecture == "8b", save_strategy="no", disable_tqdm=True,
            use_liger_kernel=device == "cuda" and not work.trl_precomputed,
        )
        trainer = trl.DPOTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        begun = time.perf_counter()
        trainer.train()
        return {"seconds": time.perf_counter() - begun}


def child(request: dict[str, Any]) -> None:
    """One measurement; its result is the last line of standard output."""
    import torch

    from pipelines.training.metrics import peak_memory_bytes

    work = Work(**request.pop("work"))
    side = {"ours": run_ours, "trl": run_trl}[request.pop("side")]
    result = side(work, request["folder"], request["architecture"], request["device"])
    result |= {"pairs_per_s": work.pairs / result["seconds"], "peak_gb": peak_memory_bytes(request["device"]) / 1e9}
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


def measure(side: str, work: Work, arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Run one side in a process of its own."""
    request = {"side": side, "work": asdict(work), "folder": folder, "device": arguments.device}
    request |= {"architecture": arguments.architecture}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(request)], capture_output=True, text=True, check=False,
        env=environment, timeout=3600,
    )
    if process.returncode:
        raise SystemExit(f"{side} on {work.name!r} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def compare(work: Work, arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Median of the repeats of both sides, which take turns."""
    found: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    for _ in range(arguments.repeats):
        for side, results in found.items():
            results.append(measure(side, work, arguments, folder))
            print(f"{work.name}: {side} {results[-1]['pairs_per_s']:.3f} pairs/s, {results[-1]['peak_gb']:.2f} GB",
                  file=sys.stderr, flush=True)
    line: dict[str, Any] = {"work": work.name}
    for side, results in found.items():
        line |= {f"{side}_pairs_per_s": round(statistics.median(r["pairs_per_s"] for r in results), 4),
                 f"{side}_peak_gb": round(statistics.median(r["peak_gb"] for r in results), 3)}
    line["mfu"] = round(statistics.median(r["mfu"] for r in found["ours"]), 3)
    line["speed_ratio"] = round(line["ours_pairs_per_s"] / line["trl_pairs_per_s"], 2)
    line["memory_ratio"] = round(line["ours_peak_gb"] / line["trl_peak_gb"], 3)
    return line


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), help="random weights; SmolLM2-135M when empty")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=int, action="append", help=f"0-{len(WORKS) - 1}: only these rows of the table")
    parser.add_argument("--out", type=Path, help="file for the result, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    from actors.checkpoints import resolve_model
    from benchmarks.evaluation import machine, write
    from pipelines.training import native

    folder = resolve_model("smollm2-135m-instruct")
    chosen = [WORKS[i] for i in arguments.work or range(len(WORKS))]
    rows = [compare(work, arguments, folder) for work in chosen]
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    report = {"bench": "dpo", "device": arguments.device, "architecture": arguments.architecture or "smollm2-135m"}
    report |= {"machine": machine(), "loops": native.library() is not None, "versions": versions}
    report |= {"batch_pairs": BATCH_PAIRS, "repeats": arguments.repeats, "rows": rows}
    report["speed_ratio"] = min(row["speed_ratio"] for row in rows)
    if arguments.out:
        write(arguments.out, report)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
