"""The part of a vLLM engine that runs inside its worker processes: safe weight loading, and dying with the parent.

vLLM mixes `WeightWorker` into its worker class (`worker_extension_cls`) and calls it through `collective_rpc`.
"""

import ctypes
import multiprocessing
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, so that no engine outlives a killed replica."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # the parent died before the call above
        os.kill(os.getpid(), signal.SIGKILL)


if multiprocessing.parent_process() is not None:  # imported early in every worker process
    die_with_parent()


class WeightWorker:
    """Mixed into vLLM's worker: `self.model_runner` is vLLM's."""

    def load_appellate_weights(self, folder: str) -> int:
        """Load the safetensors shards of `folder` in place; returns the number of tensors."""
        from safetensors import safe_open

        count = 0

        def tensors():
            nonlocal count
            for shard in sorted(Path(folder).glob("*.safetensors")):
                with safe_open(shard, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                        count += 1
                        yield name, file.get_tensor(name)

        self.model_runner.reload_weights(weights_iterator=tensors())  # ty: ignore[missing-attribute]
        self._process_output_heads()
        return count

    def _process_output_heads(self) -> None:
        # A tied output head is no checkpoint tensor, so vLLM's reload skips its post-processing; on CPU the head then
        # keeps multiplying with the packed old weights (log-probability -1.21 where a fresh engine gives -1.44).
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for module in self.model_runner.get_model().modules():  # ty: ignore[missing-attribute]
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
