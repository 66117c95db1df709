"""A transformers model behind the Engine protocol: small hosts, and exact log-probabilities for the reference.

Weights are held and multiplied as the trainer does it (`weights`, `dtype`), so that its numbers are the trainer's.
"""

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.checkpoints import weight_files
from actors.engine import Completion, EngineError, Request, UnsupportedRequest, WeightError
from pipelines.config import ModelConfig


class TorchEngine:
    """One model on one device; calls run one after another on its own thread."""

    def __init__(self, model: Any, tokenizer: Any, dtype: str):
        self._model: Any = model
        self._tokenizer, self._dtype = tokenizer, dtype
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch-engine")
        self._aborted: set[str] = set()
        self._running: set[str] = set()

    @classmethod
    async def start(cls, path: str, config: ModelConfig) -> "TorchEngine":
        """Load the checkpoint in folder `path` to the GPU if the replica has one, else to memory."""
        return await asyncio.to_thread(cls._load, path, config)

    @classmethod
    def _load(cls, path: str, config: ModelConfig) -> "TorchEngine":
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        from pipelines.training.lean import make_lean

        # Ray gives a worker as many threads as it reserves CPUs, at least one; fractions would leave it at one.
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, config.weights), local_files_only=True
        )
        model.eval().requires_grad_(False)
        if config.num_gpus:
            model.to("cuda")
        else:
            make_lean(model)  # as the trainer computes
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        # Sampling values are the recipe's alone: the checkpoint's own (penalties, top_k, ...) do not count.
        end = tokenizer.eos_token_id
        model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
        return cls(model, tokenizer, config.dtype)

    async def generate(self, request: Request) -> list[Completion]:
        """`request.n` completions; sample i depends on seed + i alone."""
        if request.structured:
            raise UnsupportedRequest("the transformers engine has no structured outputs; use engine=vllm")
        self._running.add(request.request_id)
        try:
            return await self._run(self._generate, request)
        finally:
            self._running.discard(request.request_id)
            self._aborted.discard(request.request_id)

    async def abort(self, request_id: str) -> None:
        """Stop at the next token."""
        if request_id in self._running:
            self._aborted.add(request_id)

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        """Per-token log-probabilities under the trainer's numerics."""
        return await self._run(self._score, prompt_ids, responses)

    async def load_weights(self, path: str) -> None:
        """Replace all weights in place; on an unfit checkpoint nothing is changed."""
        await self._run(self._load_weights, path)

    async def check_health(self) -> None:
        """A thread that is gone is the only way this engine can be ill."""
        if self._thread._shutdown:
            raise EngineError("the engine was shut down")

    async def shutdown(self) -> None:
        """Free the model."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._model = None

    async def _run(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _autocast(self) -> Any:
        import torch

        if getattr(torch, self._dtype) == self._model.dtype or self._model.dtype != torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._model.device.type, dtype=getattr(torch, self._dtype))

    def _score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        import torch

        from pipelines.training.logprobs import response_logprobs

        with torch.no_grad(), self._autocast():
            found = response_logprobs(self._model, [(prompt_ids, response) for response in responses])
            return [logps.tolist() for logps in found]

    def _generate(self, request: Request) -> list[Completion]:
        return [self._generate_one(request, index) for index in range(request.n)]

    def _generate_one(self, request: Request, index: int) -> Completion:
        import torch
        from transformers import StoppingCriteria

        engine = self

        class Aborted(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                stop = request.request_id in engine._aborted
                return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)

        seed = None if request.seed is None else request.seed + index
        if seed is not None:
            torch.manual_seed(seed)
        sampled = request.temperature > 0
        options: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
        prompt = torch.tensor([request.prompt_ids], device=self._model.device)
        with torch.no_grad(), self._autocast():
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request.max_tokens,
                do_sample=sampled,
                stopping_criteria=[Aborted()],
                stop_strings=request.stop or None,
                tokenizer=self._tokenizer,
                **(options if sampled else {}),
            )
        ids = output[0, prompt.shape[1] :].tolist()
        whole = text = self._tokenizer.decode(ids, skip_special_tokens=True)
        for stop in request.stop:
            text = text.split(stop, 1)[0]
        ended = len(ids) < request.max_tokens or ids[-1] == self._tokenizer.eos_token_id or text != whole
        reason = "abort" if request.request_id in self._aborted else "stop" if ended else "length"
        return Completion(index, text, ids, reason, seed, "")

    def _load_weights(self, path: str) -> None:
        import torch
        from safetensors.torch import load_file

        own = dict(self._model.named_parameters())
        loaded: dict[str, Any] = {}
        for shard in weight_files(path):
            loaded |= load_file(shard)
        tied = {"lm_head.weight"} if self._model.config.tie_word_embeddings else set()
        missing, extra = own.keys() - loaded.keys() - tied, loaded.keys() - own.keys() - tied
        wrong = [name for name in own.keys() & loaded.keys() if own[name].shape != loaded[name].shape]
        if missing or extra or wrong:
            raise WeightError(f"{path}: missing {sorted(missing)[:3]}, extra {sorted(extra)[:3]}, shape {wrong[:3]}")
        with torch.no_grad():
            for name, parameter in own.items():
                if name in loaded:
                    parameter.copy_(loaded[name])
