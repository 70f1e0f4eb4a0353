"""A stand-in for vLLM's engine on a GPU, where the real one can't run: it notes down calls and refuses
impossible ones.

`tests/vllm/test_memory.py` holds its methods against those of the real one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

SLEEP_TAGS = {"weights", "kv_cache"}


class EngineDouble:
    """`vllm.LLM` and its `llm_engine` in one; `calls` is shared with whoever builds it."""

    def __init__(self, calls: list[str], second_runner: bool, **options: Any) -> None:
        self.calls, self.options = calls, options
        self.asleep: set[str] = set()
        self.waiting: dict[str, tuple[dict[str, Any], Any]] = {}
        self.seeds: list[int | None] = []
        self.fails_to_wake: str | None = None
        self.vllm_config = SimpleNamespace(
            use_v2_model_runner=second_runner,
            scheduler_config=SimpleNamespace(max_num_batched_tokens=8192, max_num_seqs=256),
            cache_config=SimpleNamespace(block_size=16, num_gpu_blocks=1000),
        )
        self.llm_engine = self

    # ---- vllm.LLM

    def sleep(self, level: int = 1) -> None:
        assert self.options["enable_sleep_mode"] and not self.waiting and "weights" not in self.asleep
        self.calls.append(f"sleep {level}")
        self.asleep |= SLEEP_TAGS

    def wake_up(self, tags: list[str]) -> None:
        assert set(tags) <= self.asleep and self.calls[-1] == "empty cache"
        if self.fails_to_wake in tags:
            raise RuntimeError("CUDA out of memory")
        self.calls.append(f"wake {' '.join(tags)}")
        self.asleep -= set(tags)

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights" and "weights" not in self.asleep
        for _ in kwargs["weights_iterator"]:
            pass
        self.calls.append("reload")

    def apply_model(self, func: Any) -> None:
        pass

    # ---- vllm.v1.engine.llm_engine.LLMEngine

    def reset_prefix_cache(self) -> bool:
        return not self.waiting

    def reset_mm_cache(self) -> None:
        pass

    def reset_encoder_cache(self) -> None:
        self.calls.append("drop encoder cache")

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        assert not self.asleep, "requests wait for weights and cache"
        self.seeds.append(params.seed)
        self.waiting[name] = (prompt, params)

    def step(self) -> list[Any]:
        assert not self.asleep
        self.calls.append("step")
        finished = [
            SimpleNamespace(
                finished=True,
                request_id=name,
                prompt_token_ids=prompt["prompt_token_ids"],
                outputs=[
                    SimpleNamespace(
                        index=i,
                        token_ids=[5],
                        logprobs=[{5: SimpleNamespace(logprob=-0.5)}],
                        finish_reason="length",
                    )
                    for i in range(params.n)
                ],
            )
            for name, (prompt, params) in self.waiting.items()
        ]
        self.waiting.clear()
        return finished

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.waiting.pop(name, None)


def vllm_double(calls: list[str], second_runner: bool = True) -> Any:
    """What `import vllm` gives the backend."""
    return SimpleNamespace(
        LLM=lambda **options: EngineDouble(calls, second_runner, **options),
        SamplingParams=lambda **options: SimpleNamespace(**options),
        sampling_params=SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=2)),
    )
