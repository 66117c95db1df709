"""The part of a vLLM engine that runs inside its worker processes: safe weight loading, and dying with the parent.

vLLM mixes `WeightWorker` into its worker class (`worker_extension_cls`) and calls it through `collective_rpc`.
"""

import os
import signal
import threading
import time

import psutil

from actors.checkpoints import weight_files

OWNER_VARIABLE = "APPELLATE_ENGINE_OWNER"  # "pid:start time" of the process that started the engine
PERIOD_S = 1.0


def mark_owner() -> None:
    """Called by the process that starts an engine: its worker processes end themselves when this process is gone."""
    me = psutil.Process()
    os.environ[OWNER_VARIABLE] = f"{me.pid}:{me.create_time()}"


def end_with_owner() -> None:
    """Watch the owner; once it is gone, end the engine's core process and this one.

    vLLM's core process does not notice a killed parent and offers no hook to run code in; its workers do it for it.
    """
    pid, _, started = os.environ.get(OWNER_VARIABLE, "").partition(":")
    if not pid or int(pid) == os.getpid():
        return

    def owner_alive() -> bool:
        try:
            return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1
        except psutil.NoSuchProcess:
            return False

    def watch() -> None:
        while owner_alive():
            time.sleep(PERIOD_S)
        core = os.getppid()
        if core > 1 and "EngineCore" in " ".join(psutil.Process(core).cmdline()):
            os.kill(core, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-owner", daemon=True).start()


end_with_owner()  # this module is imported by every worker process before it loads the model


class WeightWorker:
    """Mixed into vLLM's worker: `self.model_runner` is vLLM's."""

    def load_appellate_weights(self, folder: str) -> int:
        """Load the safetensors shards of `folder` in place; returns the number of tensors."""
        from safetensors import safe_open

        count = 0

        def tensors():
            nonlocal count
            for shard in weight_files(folder):
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
