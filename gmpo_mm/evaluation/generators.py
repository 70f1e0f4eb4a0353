"""Where answers come from: our sampler or vLLM in this process; `server.py` has the third, a server over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gmpo_mm.config import choose_sampler
from gmpo_mm.config.backends import SAMPLERS
from gmpo_mm.config.schema import Config
from gmpo_mm.data.picture_loader import PictureLoader
from gmpo_mm.data.prompts import EncodedPrompt, build_prompt, load_pictures, prompt_length
from gmpo_mm.data.records import Fault, Record, describe_faults
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.results import Protocol as SamplingProtocol
from gmpo_mm.models.loading import ModelDescription, context_tokens, describe_model, load_policy, resolve_device, resolve_dtype
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.protocol import Response, RolloutRequest, SamplingParams
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.usable_model import usable_model


@dataclass(frozen=True)
class Generated:
    """One response: its text, its length in tokens, and "stop" or, when it was cut off, "length"."""

    text: str
    tokens: int
    stop_reason: str


class Generator(Protocol):
    """Samples responses. Each depends on its problem's seed and its number only, never on what else is asked for."""

    name: str
    """What it was, for the result: `hf float32`, `vllm bfloat16`, `server URL MODEL`."""
    caveats: list[str]
    """What a reader of the result should know about how it was sampled."""

    def generate(
        self,
        records: Sequence[Record],
        protocol: SamplingProtocol,
        seeds: Sequence[int],
        on_done: Callable[[int, list[Generated]], None],
        note: Callable[[str], None] | None = None,
    ) -> None:
        """Sample `protocol.n` responses for every record.

        `on_done(i, responses)` is called in this thread, once for each record, as soon as its responses are there.
        """
        ...

    def close(self) -> None:
        """Free what the generator holds."""
        ...


@dataclass(frozen=True)
class RenderOptions:
    """How a record becomes a prompt."""

    format_prompt: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class PromptOptions(RenderOptions):
    """The same, and the chat template that stands in for the model's own."""

    chat_template: str | None = None

    def without_chat_template(self) -> RenderOptions:
        """What `build_prompt` takes; the chat template belongs to the tokenizer."""
        return RenderOptions(self.format_prompt, self.min_pixels, self.max_pixels)


class LocalModel:
    """A model that is there once for all benchmarks, and the `hf` or `vllm` sampler of the local engine."""

    def __init__(self, config: Config, progress: Progress) -> None:
        """Read the model of `config.worker.actor.model`, its weights only for `hf`; `start` starts the sampler.

        Raises ConfigError where `auto` would sample long responses on a GPU without vLLM.
        """
        self.config, self.progress = config, progress
        self.device = resolve_device(config.trainer.device)
        self.dtype = resolve_dtype(config.trainer.dtype, self.device)
        on_gpu, longest = self.device.type == "cuda", config.data.max_response_length
        backend, why = choose_sampler(config.worker.rollout.name, on_gpu=on_gpu, max_tokens=longest, key="backend")
        if why:
            progress.log(f"backend=auto: sampling with {backend} ({why})")
        model = config.worker.actor.model
        self.policy: PolicyModel | None = None
        self.described: ModelDescription | None = None
        with progress.stage(f"loading {model.model_path}"):
            self.backend = SAMPLERS[backend]
            if self.backend.package is None:
                self.policy, self.processor = load_policy(
                    model, device=self.device, compute_dtype=self.dtype, trains=False
                )
                self.context_tokens = context_tokens(self.policy.causal_lm.config)
            else:  # it loads the weights itself
                self.described = describe_model(model)
                self.processor = self.described.processor
                self.context_tokens = context_tokens(self.described.config)
        self.own_chat_template = self.processor.tokenizer.chat_template
        self.longest_prompt = self.longest_response = 1
        self.rollout: Any = None

    @property
    def name(self) -> str:
        """`hf float32` and the like."""
        return f"{self.rollout.name} {str(self.dtype).removeprefix('torch.')}"

    def use_template(self, prompts: PromptOptions) -> None:
        """Render the next prompts as `prompts` says. Raises ConfigError when neither it nor the model has a chat template."""
        tokenizer = self.processor.tokenizer
        template = prompts.chat_template or self.own_chat_template
        if template is None:
            raise ConfigError(
                f"model={self.config.worker.actor.model.model_path}: its tokenizer has no chat template; choose a template "
                "that brings its own: template=qwen_math, r1 or no"
            )
        # A tokenizer that puts its first token before plain text does so here too; a model's own template writes it itself.
        tokenizer.chat_template = "{{ bos_token }}" + template if prompts.chat_template and _adds_bos(tokenizer) else template

    def measure(self, records: Sequence[Record], prompts: PromptOptions, protocol: SamplingProtocol) -> list[int]:
        """Count every prompt's tokens and return them; ConfigError when prompt and response don't fit the model's context.

        DataError names all problems that can't be a prompt.
        """
        self.use_template(prompts)
        longest, where = 0, ""
        faults: list[Fault] = []
        counts = []
        with self.progress.stage("measuring prompts", len(records), "prompts") as stage:
            for done, record in enumerate(records, start=1):
                try:
                    tokens = prompt_length(record, self.processor, **asdict(prompts.without_chat_template()))
                except DataError as error:
                    faults.append(Fault(record.row, str(error)))
                    continue
                counts.append(tokens)
                if tokens > longest:
                    longest, where = tokens, record.where
                stage.update(done)
        if faults:
            raise DataError(describe_faults(records, faults))
        context = self.context_tokens
        if context is not None and longest + protocol.max_tokens > context:
            raise ConfigError(
                f"max_tokens={protocol.max_tokens}: with the longest prompt ({longest} tokens, {where}) that is more than the "
                f"{context} tokens of the model's context; set max_tokens to at most {context - longest}"
            )
        self.longest_prompt = max(self.longest_prompt, longest)
        self.longest_response = max(self.longest_response, protocol.max_tokens)
        return counts

    def start(self) -> None:
        """Start the sampler, large enough for everything that was measured."""
        self.config.data.max_prompt_length = self.longest_prompt
        self.config.data.max_response_length = self.longest_response
        model, known = self.config.worker.actor.model, self.policy or self.described
        assert known is not None
        if self.policy is None:
            model.model_path = usable_model(str(model.model_path), "model", self.progress.log, whole=True)
        request = RolloutRequest(
            self.config, self.device, self.dtype, known.forbidden_token_ids, known.eos_token_ids, trains=False,
            policy=self.policy,
        )  # fmt: skip
        title = self.backend.title
        with self.progress.stage(f"starting {title}") if title else nullcontext():
            self.rollout = self.backend.load()(request)

    def forget_images(self) -> None:
        """Drop the image features of a call's prompts."""
        if self.policy is not None:
            self.policy.forget_images()

    def close(self) -> None:
        """End the sampler's processes."""
        if self.rollout is not None:
            self.rollout.close()


class LocalGenerator:
    """A local model with the prompts of one benchmark."""

    def __init__(self, model: LocalModel, prompts: PromptOptions, samples_a_call: int) -> None:
        """`samples_a_call` responses are sampled at once."""
        self.model, self.prompts, self.samples_a_call = model, prompts, samples_a_call
        self.name = model.name
        self.caveats: list[str] = []

    def generate(
        self,
        records: Sequence[Record],
        protocol: SamplingProtocol,
        seeds: Sequence[int],
        on_done: Callable[[int, list[Generated]], None],
        note: Callable[[str], None] | None = None,
    ) -> None:
        """See Generator.generate."""
        self.model.use_template(self.prompts)
        params = SamplingParams(
            n=protocol.n, temperature=protocol.temperature, max_tokens=protocol.max_tokens, top_p=protocol.top_p,
            top_k=protocol.top_k,
        )  # fmt: skip
        a_call = max(1, self.samples_a_call // protocol.n)
        options = self.prompts.without_chat_template()
        limits = {"min_pixels": options.min_pixels, "max_pixels": options.max_pixels}
        pictures = PictureLoader(lambda i: load_pictures(records[i], self.model.processor, **limits))
        with closing(pictures):
            for start in range(0, len(records), a_call):
                end = min(start + a_call, len(records))
                pictures.expect(range(start, min(end + a_call, len(records))))  # the next call's, too
                prompts = [self._encode(records[i], i, pictures) for i in range(start, end)]
                responses = self.model.rollout.generate(prompts, params, seeds[start:end], note)
                for i, group in enumerate(responses, start=start):
                    on_done(i, [self._text(response, protocol.stop) for response in group])
                self.model.forget_images()

    def close(self) -> None:
        """Nothing to free: the model stays loaded for the next benchmark."""

    def _encode(self, record: Record, i: int, pictures: PictureLoader) -> EncodedPrompt:
        processor, template = self.model.processor, self.prompts.format_prompt
        return build_prompt(record, processor, format_prompt=template, pictures=lambda: pictures.take(i))

    def _text(self, response: Response, stops: Sequence[str]) -> Generated:
        ids = response.token_ids_T.tolist()
        text = self._decode(ids)
        ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
        if not ends:
            return Generated(text, len(ids), response.stop_reason)
        # What a sampler that stops there would have given: the text up to the stop, and its share of the tokens.
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            if any(stop in self._decode(ids[:middle]) for stop in stops):
                high = middle
            else:
                low = middle + 1
        return Generated(text[: min(ends)], low, "stop")

    def _decode(self, ids: list[int]) -> str:
        return self.model.processor.tokenizer.decode(ids, skip_special_tokens=True)


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning-of-sequence token before a plain text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
