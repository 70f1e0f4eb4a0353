"""The real update of a configuration, one micro-batch of it, on a device that need not be there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gmpo_mm.config import Config
from gmpo_mm.data.patches import LEVELS, ImagePatches
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.models import loading
from gmpo_mm.models.cards import CARDS, Card
from gmpo_mm.models.flops import ModelFlops, Work, work_of
from gmpo_mm.models.fused import observed
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.planning.account import Account, Peak
from gmpo_mm.planning.roofline import OPTIMIZER, VISION, OperatorTable
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, CutLimits, SampledGroup, cut_into_micro_batches
from gmpo_mm.training.optimizer import build_optimizer

TEXT_TOKENS = 128
"""Tokens of a prompt that are not its image's, where the image would fill the rest."""

LOG_PROBS, UPDATE, OPTIMIZER_STEP = "old and reference log-probs", "update", "optimizer step"
WEIGHTS, MASTERS, MOMENTS, GRADIENTS, REFERENCE = (
    "weights",
    "masters",
    "moments",
    "gradients",
    "reference model",
)


@dataclass(frozen=True)
class Lengths:
    """Tokens of every prompt, of its one image (0: none), and of every response."""

    prompt: int
    response: int
    image: int = 0


@dataclass
class MicroBatch:
    """What one micro-batch of one kind is: a mini-batch cut by the real code, and the first piece of it."""

    batch: Batch
    responses: int
    tokens: int
    pieces: int
    """Micro-batches that the mini-batch is cut into."""


@dataclass
class Measured:
    """What a configuration's pieces of work need, one micro-batch each. `held` are bytes by kind between the
    phases.

    `tables` and `peaks` go by phase; `flops` are the model FLOPs of the micro-batch of an update, and of one
    forward pass.
    """

    parameters: int
    trained: int
    sampled: int
    """Parameters that a sampler with weights of its own holds: adapters are merged in."""
    held: dict[str, int]
    peaks: dict[str, Peak]
    tables: dict[str, OperatorTable]
    update: MicroBatch
    forward: MicroBatch
    flops: float
    forward_flops: float
    reads: Counter[str]
    slope: float = math.nan
    """Bytes that a further token of the update's micro-batch costs at the peak."""
    counts: ModelFlops = field(default_factory=ModelFlops)


def longest(config: Config, model_config: Any) -> Lengths:
    """The longest prompts and responses that a configuration lets through, and the largest image."""
    data = config.data
    image = 0
    vision = getattr(model_config, "vision_config", None)
    if vision is not None:
        side = vision.patch_size * vision.spatial_merge_size
        largest = (data.max_pixels or 4194304) // side**2
        image = max(1, min(largest, data.max_prompt_length - min(TEXT_TOKENS, data.max_prompt_length // 2)))
    return Lengths(data.max_prompt_length, data.max_response_length, image)


# ---- model and batch -----------------------------------------------------------------------------


def build_policy(config: Config, model_config: Any, account: Account, dtype: torch.dtype) -> PolicyModel:
    """The policy of `worker.actor.model` as the loader would make it, without its weights' values."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    options = config.worker.actor.model
    is_vision = hasattr(model_config, "vision_config")
    kind = AutoModelForImageTextToText if is_vision else AutoModelForCausalLM
    with torch.device("meta"):
        model: Any = kind.from_config(model_config, dtype=torch.float32, attn_implementation="sdpa")
        loading.use_packed_attention(model)
        if options.freeze_vision_tower and is_vision:
            model.model.visual.requires_grad_(False)
        if options.lora.rank > 0:
            model = loading.add_configured_lora(model, options, is_vision)
        if options.enable_gradient_checkpointing:
            keeps = account.device.type == "cpu"  # as the loader says
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": keeps})
    with account.building():
        _put_on_device(model)
        masters = {}
        if account.device.type == "cuda" and dtype != torch.float32:  # else it only moves
            masters = loading.store_weights(model, account.device, dtype, sixteen_bit=True)
        return _as_policy(config, model, model_config, dtype, masters)


def _as_policy(
    config: Config, model: Any, model_config: Any, dtype: torch.dtype, masters: dict[Any, torch.Tensor]
) -> PolicyModel:
    ids = [getattr(model_config, name, None) for name in ("image_token_id", "video_token_id")]
    policy = PolicyModel(
        model, forbidden_token_ids=[i for i in ids if i is not None], compute_dtype=dtype, masters=masters
    )
    policy.logits_dtype = getattr(torch, config.worker.actor.logits_dtype)
    return policy


def _put_on_device(model: torch.nn.Module) -> None:
    """Replace tensors without a device by those of the surrounding account; tied weights stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = torch.nn.Parameter(_empty_like(parameter), parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else _empty_like(buffer)
        for name, value in vars(module).items():  # as original_inv_freq, which is no buffer
            if isinstance(value, torch.Tensor):
                setattr(module, name, _empty_like(value))


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def make_batch(config: Config, policy: PolicyModel, lengths: Lengths) -> Batch:
    """A mini-batch in which every prompt and every response has these lengths."""
    draw = torch.Generator().manual_seed(0)
    prompt = _prompt(policy, lengths)
    groups = []
    for _ in range(config.worker.actor.global_batch_size):
        ids = torch.randint(
            0,
            min(1000, policy.config.vocab_size),
            (config.worker.rollout.n, lengths.response),
            generator=draw,
        )
        responses = [Response(row, torch.zeros(lengths.response), "length") for row in ids]
        groups.append(
            SampledGroup(replace(prompt), responses, [""] * len(ids), [{"overall": 0.0}] * len(ids))
        )
    return _filled(Batch(groups), config)


def _filled(batch: Batch, config: Config) -> Batch:
    batch.advantages_BT = torch.ones(batch.mask_BT.shape)
    batch.old_log_probs_BT = torch.zeros(batch.mask_BT.shape)
    if not config.algorithm.disable_kl:
        batch.ref_log_probs_BT = torch.zeros(batch.mask_BT.shape)
    return batch


def _prompt(policy: PolicyModel, lengths: Lengths) -> EncodedPrompt:
    record: Any = None
    ids = torch.arange(lengths.prompt) % min(1000, policy.config.vocab_size)
    if not lengths.image:
        return EncodedPrompt(record, "", ids, ids.tolist(), (), None, None)
    config = policy.causal_lm.config
    vision: Any = config.vision_config
    height = max(1, math.isqrt(lengths.image))
    width = lengths.image // height
    merge = vision.spatial_merge_size
    grid = torch.tensor([[1, height * merge, width * merge]])
    ids[ids == config.image_token_id] = 0
    ids[1 : 1 + height * width] = config.image_token_id
    channels: Any = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    pixels = torch.zeros(int(grid.prod()), channels * vision.patch_size**2, dtype=torch.uint8)
    patches = ImagePatches(pixels, torch.zeros(channels, LEVELS), vision.temporal_patch_size)
    return EncodedPrompt(record, "", ids, ids.tolist(), (), patches, grid)


def first_micro_batch(config: Config, batch: Batch, limits: CutLimits) -> MicroBatch:
    """The first micro-batch that the real code cuts off a mini-batch, as a batch of its own."""
    pieces = cut_into_micro_batches(batch, range(len(batch)), limits)
    size = batch.group_size
    members: dict[int, list[Response]] = {}
    for row in pieces[0]:
        members.setdefault(row // size, []).append(batch.groups[row // size].responses[row % size])
    assert len({len(m) for m in members.values()}) == 1, "all groups are whole, or there is one"
    groups = [
        SampledGroup(batch.groups[i].prompt, m, [""] * len(m), [{"overall": 0.0}] * len(m))
        for i, m in members.items()
    ]
    own = _filled(Batch(groups), config)
    tokens = sum(g.tokens for g in own.group_of(range(len(own))))
    return MicroBatch(own, len(own), tokens, len(pieces))


# ---- the run -------------------------------------------------------------------------------------


class PlannedActor(Actor):
    """The actor, saying which phase it is in; `earlier` micro-batches have left gradients behind."""

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.account = account
        self.earlier = False

    def _accumulate(self, *args: Any, **kwargs: Any) -> Any:
        if self.earlier:
            self.fill_gradients()
        with self.account.phase_of(UPDATE):
            return super()._accumulate(*args, **kwargs)

    def _optimizer_step(self) -> Any:
        with self.account.phase_of(OPTIMIZER_STEP):
            return super()._optimizer_step()

    def fill_gradients(self) -> None:
        """Gradients as an earlier micro-batch leaves them."""
        for parameter in self._parameters():
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            parameter.grad = torch.zeros_like(parameter, dtype=dtype)
            self.account.register(GRADIENTS, [parameter.grad])


class Rehearsal:
    """A policy and its optimizer on a device that need not be there: says what micro-batches need."""

    def __init__(
        self, config: Config, model_config: Any, device: torch.device, dtype: torch.dtype, card: Card | None
    ) -> None:
        self.config = config
        vocabulary = int(model_config.get_text_config().vocab_size)
        self.card = card or CARDS["h100"]  # without one only launches and FLOPs are read
        self.account = Account(device, vocabulary, self.card.capability)
        self.policy = build_policy(config, model_config, self.account, dtype)
        self.module = self.policy.module
        self.tables = {
            phase: OperatorTable(self.card, vocabulary) for phase in (LOG_PROBS, UPDATE, OPTIMIZER_STEP)
        }
        self.tables[OPTIMIZER_STEP].region = OPTIMIZER
        self.account.register(WEIGHTS, _tensors_of(self.module))
        if not config.algorithm.disable_kl and config.worker.actor.model.lora.rank == 0:
            with self.account.building():  # frozen, in the compute type
                self._reference = [torch.empty(p.shape, dtype=dtype) for p in self.module.parameters()]
            self.account.register(REFERENCE, self._reference)
        self.actor = PlannedActor(
            self.policy,
            build_optimizer(self.policy, config.worker.actor.optim),
            update_config(config),
            account=self.account,
        )
        self._follow_gradients()
        self._follow_vision()
        self._make_states()
        self.account.observer = self._observe

    @property
    def standing(self) -> int:
        """Bytes of weights, optimizer states and gradients, whatever the micro-batch."""
        return self.account.live + self.gradient_bytes

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The account, with every function that is compiled on a GPU as one kernel."""
        with self.account, self._kernels():
            yield

    def _kernels(self) -> AbstractContextManager:
        compiled = self.account.device.type == "cuda" and self.config.worker.actor.use_torch_compile
        return observed(self._run_kernel) if compiled else nullcontext()

    def _run_kernel(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        table = self.tables.get(self.account.phase)
        counted = (
            nullcontext()
            if table is None or self.account.observer is None
            else table.fused(function.__name__)
        )
        with counted, self.account.one_kernel():
            return function(*args)

    def _observe(self, *operator: Any) -> None:
        table = self.tables.get(self.account.phase)
        if table is not None:
            table.add(*operator)

    def _follow_gradients(self) -> None:
        def register(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            self.account.register(GRADIENTS, [parameter.grad])

        for parameter in self.module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(register)

    def _follow_vision(self) -> None:
        """Book the vision tower apart: forward while it runs, backward from its features' gradient on."""
        vision = self.policy.vision
        if vision is None:
            return
        update = self.tables[UPDATE]

        def set_region(name: str) -> None:
            update.region = self.tables[LOG_PROBS].region = name

        def leave(module: Any, inputs: Any, output: Any) -> None:
            set_region("")
            features = getattr(output, "pooler_output", None)
            features = output if isinstance(output, torch.Tensor) else features
            if isinstance(features, torch.Tensor) and features.requires_grad:
                features.register_hook(lambda gradient: set_region(VISION))

        def enter(module: Any, inputs: Any) -> None:
            set_region(VISION)

        vision.register_forward_pre_hook(enter)
        vision.register_forward_hook(leave)

    def _make_states(self) -> None:
        """The optimizer's states, as after its first step."""
        optimizer = self.actor.optimizer
        with self.account:
            before = self.account.live
            self.actor.fill_gradients()
            self.gradient_bytes = self.account.live - before
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for state in optimizer.state.values():
            for name, tensor in state.items():
                if isinstance(tensor, torch.Tensor):
                    self.account.register(MASTERS if name == "master" else MOMENTS, [tensor])

    def _work_of(self, batch: Batch) -> Work:
        vision = getattr(self.policy.causal_lm.config, "vision_config", None)
        return work_of(batch.group_of(range(len(batch))), vision)

    def measure(self, lengths: Lengths, with_slope: bool = True) -> Measured:
        """One micro-batch of each kind at these lengths, and if asked the peak's growth with the
        micro-batch.
        """
        config, actor = self.config, self.actor
        limits = actor.config
        whole = make_batch(config, self.policy, lengths)
        update = first_micro_batch(config, whole, limits.update_limits)
        forward = first_micro_batch(config, whole, limits.forward_limits)
        self.account.peaks.clear()
        self.account.reads.clear()
        held = {kind: size for kind, size in self.account.kinds.items() if size}
        if needs_log_probs(config):
            with self._running(), self.account.phase_of(LOG_PROBS):
                actor.log_probs(forward.batch)
                self.policy.forget_images()
        self._run_update(update)
        counts = ModelFlops.of(self.module)
        measured = Measured(
            parameters=sum(p.numel() for p in self.module.parameters()),
            trained=sum(p.numel() for p in self.module.parameters() if p.requires_grad),
            sampled=sum(p.numel() for n, p in self.module.named_parameters() if ".lora_" not in n),
            held=held,
            peaks={
                k: Peak(p.total, {a: b for a, b in p.kinds.items() if b})
                for k, p in self.account.peaks.items()
                if k
            },
            tables=dict(self.tables),
            update=update,
            forward=forward,
            flops=counts.count(self._work_of(update.batch), backward=True),
            forward_flops=counts.count(self._work_of(forward.batch), backward=False),
            reads=Counter(self.account.reads),
            counts=counts,
        )
        if with_slope:
            measured.slope = self._slope(whole, measured)
        return measured

    def _run_update(self, micro: MicroBatch) -> None:
        self.tables[UPDATE].region = ""
        self.actor.earlier = micro.pieces > 1
        kl_coef = 0.0 if self.config.algorithm.disable_kl else self.config.algorithm.kl_coef
        with self._running():
            self.actor.update(micro.batch, kl_coef)
            self.policy.forget_images()

    def _slope(self, whole: Batch, measured: Measured) -> float:
        """Bytes a token of the update's micro-batch: the peak of one twice as large, or half as large."""
        first = measured.update
        responses = 2 * first.responses if first.pieces > 1 else first.responses // 2
        if responses < 1:
            return math.nan
        other = first_micro_batch(self.config, whole, CutLimits(samples=responses))
        if other.tokens == first.tokens:
            return math.nan
        before = self.actor.config
        self.actor.config = replace(before, update_limits=CutLimits(samples=responses))
        self.account.observer, self.account.peaks = None, {}
        other.pieces = first.pieces  # gradients of earlier micro-batches are there, or not, as before
        self._run_update(other)
        peak = self.account.peaks[UPDATE].total
        self.actor.config, self.account.observer = before, self._observe
        return (peak - measured.peaks[UPDATE].total) / (other.tokens - first.tokens)


def needs_log_probs(config: Config, sampler_is_exact: bool = False) -> bool:
    """Whether a step passes its responses through the policy or the reference before the update."""
    old = config.worker.actor.old_log_probs
    return old == "recompute" or (old == "auto" and not sampler_is_exact) or not config.algorithm.disable_kl


def _tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]

