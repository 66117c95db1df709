"""vLLM's AsyncLLM behind the Engine protocol: the engine that samples, judges and meta-judges."""

import asyncio
import os
import uuid
from typing import Any

from actors.engine import Completion, EngineError, Request, WeightError
from actors.vllm_worker import mark_owner
from pipelines.config import ModelConfig

NEXT_TOKENS = 128  # vLLM tells the log-probabilities of no more tokens at one place


class VllmEngine:
    """One AsyncLLM. Create with `await VllmEngine.start(...)` on the event loop that will use it."""

    def __init__(self, llm: Any):
        self._llm = llm

    @classmethod
    async def start(cls, path: str, config: ModelConfig) -> "VllmEngine":
        """Load the checkpoint in folder `path`; takes 25-45 s on CPU."""
        # Weights come from local folders; the engine must neither ask a hub nor report usage.
        os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_WORKER_MULTIPROC_METHOD="spawn")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        options: dict[str, Any] = {
            "model": path,
            "dtype": config.dtype,
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "enforce_eager": config.enforce_eager,
            "enable_prefix_caching": True,
            "worker_extension_cls": "actors.vllm_worker.WeightWorker",
            "generation_config": "vllm",  # sampling values are the recipe's alone
            "disable_log_stats": True,
        }
        if config.num_gpus:
            options["gpu_memory_utilization"] = config.gpu_memory_utilization
            options["tensor_parallel_size"] = max(1, int(config.num_gpus))
        else:
            options["kv_cache_memory_bytes"] = int((config.kv_cache_gib or 2.0) * 2**30)
            # A seeded request whose prefill is split makes vLLM rewind its random generator, which CPU generators
            # cannot do: the engine dies with "CPU Generator does not use offset". So prefills stay whole.
            options["enable_chunked_prefill"] = False
            options["max_num_batched_tokens"] = max(config.max_model_len, 2048)
            # By itself vLLM leaves one core to its front end: on two cores that is 480 tokens/s instead of 745.
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(config.threads or os.cpu_count() or 1) - 1}"
        mark_owner()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return cls(AsyncLLM.from_engine_args(AsyncEngineArgs(**options)))

    async def generate(self, request: Request) -> list[Completion]:
        """All `request.n` completions of one prompt in one engine request; the prompt is computed once."""
        final = None
        async for output in self._llm.generate(
            {"prompt_token_ids": request.prompt_ids}, _sampling_params(request), request.request_id
        ):
            final = output
        if final is None:
            raise EngineError(f"request {request.request_id}: the engine returned nothing")
        return [
            Completion(
                index=out.index,
                text=out.text,
                token_ids=list(out.token_ids),
                finish_reason=out.finish_reason if out.finish_reason in ("stop", "length") else "abort",
                seed=None if request.seed is None else request.seed + out.index,
                weight_version="",
            )
            for out in sorted(final.outputs, key=lambda out: out.index)
        ]

    async def abort(self, request_id: str) -> None:
        """Stop a request; its `generate` ends with finish reason `abort`."""
        await self._llm.abort(request_id)

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        """Per-token log-probabilities, each response from one prefill of prompt and response together.

        Where every response is one token, one prefill of the prompt answers for all of them.
        """
        first = [response[0] for response in responses if len(response) == 1]
        if 0 < len(first) == len(responses) <= NEXT_TOKENS:
            return [[logp] for logp in await self._score_next(prompt_ids, first)]
        return list(await asyncio.gather(*(self._score_one(prompt_ids, response) for response in responses)))

    async def _score_next(self, prompt_ids: list[int], tokens: list[int]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=tokens, detokenize=False)
        final = None
        async for output in self._llm.generate({"prompt_token_ids": prompt_ids}, params, f"score-{uuid.uuid4().hex}"):
            final = output
        if final is None or not final.outputs[0].logprobs:
            raise EngineError("the engine returned no log-probabilities of the next token")
        return [final.outputs[0].logprobs[0][token].logprob for token in tokens]

    async def _score_one(self, prompt_ids: list[int], response_ids: list[int]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        request_id = f"score-{uuid.uuid4().hex}"
        final = None
        async for output in self._llm.generate({"prompt_token_ids": prompt_ids + response_ids}, params, request_id):
            final = output
        if final is None or final.prompt_logprobs is None:
            raise EngineError("the engine returned no prompt log-probabilities")
        return [
            table[token].logprob
            for table, token in zip(final.prompt_logprobs[len(prompt_ids) :], response_ids, strict=True)
        ]

    async def load_weights(self, path: str) -> None:
        """Load new weights in place and forget everything computed with the old ones."""
        try:
            await self._llm.collective_rpc("load_appellate_weights", args=(path,))
        except Exception as error:
            raise WeightError(f"{path}: vLLM could not load the weights: {error}") from error
        if not await self._llm.reset_prefix_cache():
            raise WeightError(f"{path}: the prefix cache could not be reset, requests were still running")

    async def check_health(self) -> None:
        """Raise EngineError when the engine process is dead."""
        try:
            await self._llm.check_health()
        except Exception as error:
            raise EngineError(f"vLLM engine: {error!r}") from error

    async def shutdown(self) -> None:
        """End the engine process."""
        await asyncio.to_thread(self._llm.shutdown)


def _sampling_params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        seed=request.seed,
        stop=request.stop or None,
        skip_special_tokens=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(**request.structured) if request.structured else None,
    )
