"""The engines by the name that a model's settings give."""

from actors.engine import Engine
from pipelines.config import ModelConfig


async def start_engine(folder: str, config: ModelConfig) -> Engine:
    """The engine named by `config.engine` on the checkpoint in `folder`."""
    if config.engine == "vllm":
        from actors.vllm_engine import VllmEngine

        return await VllmEngine.start(folder, config)
    if config.engine == "simulated":
        from actors.simulated_engine import SimulatedEngine

        return await SimulatedEngine.start(folder, config)
    from actors.torch_engine import TorchEngine

    return await TorchEngine.start(folder, config)
