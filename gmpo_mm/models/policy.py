"""A language or vision-language model as a policy: its parts, its prompts' embeddings, and log-probabilities of responses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from gmpo_mm.data.patches import pixel_values
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.fused_layers import fuse_layers
from gmpo_mm.models.packed import Group, PackedOutput
from gmpo_mm.models.packed_attention import PackedLayout, build_layout
from gmpo_mm.models.token_log_probs import token_log_probs
from gmpo_mm.models.two_part_attention import FLASH, AttentionKernel, choose_attention
from gmpo_mm.models.varlen_forward import varlen_log_probs
from gmpo_mm.models.varlen_layout import VarlenLayout, as_numpy, to_device
from gmpo_mm.models.varlen_vision import add_deepstack_at_places, supports, use_varlen_vision, vision_inputs


@dataclass
class ImageFeatures:
    """What the vision tower gives for one prompt: features (tokens, C), and DeepStack features for each early layer."""

    features: torch.Tensor
    deepstack: list[torch.Tensor] = field(default_factory=list)


class PolicyModel:
    """A causal model of transformers, taken apart into embedding, vision tower, decoder and output layer.

    The decoder is called on embeddings, so that a prompt and its pictures are encoded once for all of its responses.
    Matrix products run in `compute_dtype`. On the CPU the weights are float32; on a GPU they have the compute type, and the
    optimizer holds the float32 ones. With weights on a GPU a forward pass takes the path of `varlen_forward`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        forbidden_token_ids: Sequence[int] = (),
        eos_token_ids: Sequence[int] = (),
        compute_dtype: torch.dtype = torch.float32,
        config_files: Sequence[Path] = (),
        masters: dict[nn.Parameter, torch.Tensor] | None = None,
    ) -> None:
        """`config_files` are the model's configuration files as they were read, copied into its checkpoints.

        `masters` are the float32 weights of trained 16-bit parameters; the optimizer takes them over.
        """
        self.module = module
        self.config_files = config_files
        self.masters = masters or {}
        self.eos_token_ids = sorted(eos_token_ids)
        self.compute_dtype = compute_dtype
        unwrapped: Any = module
        if hasattr(module, "peft_config"):
            unwrapped = unwrapped.get_base_model()
        self.causal_lm = unwrapped
        self.backbone: Any = unwrapped.model
        self.vision: nn.Module | None = getattr(self.backbone, "visual", None)
        self.decoder: Any = self.backbone.language_model if self.vision is not None else self.backbone
        self.embedding: nn.Module = unwrapped.get_input_embeddings()
        self.lm_head: nn.Linear = unwrapped.get_output_embeddings()
        self.logits_dtype = torch.float32
        """Type of the logits on a GPU, `worker.actor.logits_dtype`."""
        self.forbid(forbidden_token_ids)
        self._frozen_features: dict[int, tuple[EncodedPrompt, ImageFeatures]] = {}
        self._positions: dict[int, tuple[EncodedPrompt, torch.Tensor]] = {}
        self._attention: Callable[..., torch.Tensor] | None = None
        self._varlen_vision = False
        attention = choose_attention(self.device, compute_dtype)
        if attention is not None:
            self.use_varlen_path(attention, FLASH if compute_dtype != torch.float32 else None)

    def forbid(self, token_ids: Sequence[int]) -> None:
        """Give these tokens, and no others, probability 0."""
        self.forbidden_token_ids = sorted(token_ids)
        self.forbidden_F = torch.tensor(self.forbidden_token_ids, dtype=torch.long, device=self.device)

    def take_masters(self) -> dict[nn.Parameter, torch.Tensor]:
        """Hand the float32 weights over; whoever takes them keeps them."""
        masters, self.masters = self.masters, {}
        return masters

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def config(self) -> Any:
        """The decoder's configuration."""
        return self.decoder.config

    @property
    def is_mixture_of_experts(self) -> bool:
        """Whether the decoder routes tokens to experts."""
        return bool(getattr(self.config, "num_experts", 0) or getattr(self.config, "num_local_experts", 0))

    def use_varlen_path(
        self, attention: Callable[..., torch.Tensor], vision_kernel: AttentionKernel | None = FLASH
    ) -> None:
        """Take the GPU's forward pass with this attention (see `VarlenLayout.attention`).

        Policies on a GPU do; tests and plans do without one. Without `vision_kernel` the vision tower keeps its attention.
        """
        self._attention = attention
        fuse_layers(self.decoder)
        add_deepstack_at_places(self.decoder)
        if self.vision is not None and vision_kernel is not None and supports(self.vision):
            use_varlen_vision(self.vision, vision_kernel)
            fuse_layers(self.vision)
            self._varlen_vision = True

    def autocast(self) -> AbstractContextManager:
        """Run matrix products in the compute type, where the weights have another one."""
        if self.compute_dtype in (torch.float32, self.lm_head.weight.dtype):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)

    # ---- images -------------------------------------------------------------------------------------------------------

    def vision_is_frozen(self) -> bool:
        """Whether there is a vision tower and training leaves all of it as it is."""
        return self.vision is not None and not any(p.requires_grad for p in self.vision.parameters())

    def encode_images(self, prompts: Sequence[EncodedPrompt]) -> list[ImageFeatures | None]:
        """Features of every prompt's pictures, each prompt encoded once; None for prompts without pictures.

        With a frozen vision tower the features of a step's prompts are kept until `forget_images`, so that sampling, the
        reference and every update share one encoding.
        """
        frozen = self.vision_is_frozen()
        found: list[ImageFeatures | None] = [None] * len(prompts)
        missing = []
        for i, prompt in enumerate(prompts):
            if prompt.patches is None:
                continue
            kept = self._frozen_features.get(id(prompt)) if frozen else None
            if kept is not None:
                found[i] = kept[1]
            else:
                missing.append(i)
        if missing:
            with torch.no_grad() if frozen else nullcontext():
                encoded = self._encode_images([prompts[i] for i in missing])
            for i, features in zip(missing, encoded, strict=True):
                found[i] = features
                if frozen:
                    self._frozen_features[id(prompts[i])] = (prompts[i], features)
        return found

    def forget_images(self) -> None:
        """Drop what is kept for the prompts of a step: their positions, and the features of a frozen vision tower."""
        self._frozen_features.clear()
        self._positions.clear()

    def _encode_images(self, prompts: Sequence[EncodedPrompt]) -> list[ImageFeatures]:
        patches = pixel_values([p.patches for p in prompts if p.patches is not None], self.device)
        if self._varlen_vision:
            images, deepstack = self._encode_on_device(patches, prompts)
            return self._by_prompt(prompts, images, deepstack)
        grids = torch.cat([p.image_grid_thw_N3 for p in prompts]).to(self.device)  # type: ignore[misc]
        output = self.backbone.get_image_features(patches, grids)
        if isinstance(output, (tuple, list)) and isinstance(output[0], torch.Tensor):  # transformers 4: one tensor an image
            images, deepstack = list(output), []
        elif isinstance(output, (tuple, list)):  # transformers 4, Qwen3-VL: (images, DeepStack features)
            images, deepstack = list(output[0]), list(output[1])
        else:
            images, deepstack = list(output.pooler_output), list(getattr(output, "deepstack_features", None) or [])
        deepstack = [torch.cat(list(d)) if isinstance(d, (tuple, list)) else d for d in deepstack]
        return self._by_prompt(prompts, images, deepstack)

    def _encode_on_device(
        self, patches: torch.Tensor, prompts: Sequence[EncodedPrompt]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Features of each picture, and of all pictures for each DeepStack layer, without a look at the device."""
        tower: Any = self.vision
        grids = tuple(tuple(g) for p in prompts for g in p.image_grid_thw_N3.tolist())  # type: ignore[union-attr]
        inputs = {
            key: to_device(value, self.device) if isinstance(value, torch.Tensor) else value
            for key, value in vision_inputs(tower, grids).items()  # type: ignore[arg-type]
        }
        # the grid itself is not read: everything that follows from it is in `inputs`
        output = tower(patches.to(tower.patch_embed.proj.weight.dtype), grid_thw=None, **inputs)
        sizes = [t * h * w // tower.spatial_merge_size**2 for t, h, w in grids]
        return list(output.pooler_output.split(sizes)), list(getattr(output, "deepstack_features", None) or [])

    @staticmethod
    def _by_prompt(
        prompts: Sequence[EncodedPrompt], images: list[torch.Tensor], deepstack: list[torch.Tensor]
    ) -> list[ImageFeatures]:
        per_image = [len(image) for image in images]
        split_deepstack = [layer.split(per_image) for layer in deepstack]
        result, done = [], 0
        for prompt in prompts:
            end = done + len(prompt.image_grid_thw_N3)  # type: ignore[arg-type]
            layers = [torch.cat(layer[done:end]) for layer in split_deepstack]
            result.append(ImageFeatures(torch.cat(images[done:end]), layers))
            done = end
        return result

    # ---- positions ----------------------------------------------------------------------------------------------------

    def prompt_positions(self, prompt: EncodedPrompt) -> torch.Tensor:
        """Rotary positions of a prompt's tokens: (3, S) for multimodal rotary embeddings, else (1, S)."""
        if id(prompt) not in self._positions:
            with unset_fake_temporarily():  # host work, also where the model has no contents
                self._positions[id(prompt)] = (prompt, self._prompt_positions(prompt))
        return self._positions[id(prompt)][1]

    def _prompt_positions(self, prompt: EncodedPrompt) -> torch.Tensor:
        ids = prompt.input_ids_S
        if self.vision is None:
            return torch.arange(len(ids))[None]
        if prompt.image_grid_thw_N3 is None:
            return torch.arange(len(ids)).expand(3, -1)
        kinds = {}
        if "mm_token_type_ids" in inspect.signature(self.backbone.get_rope_index).parameters:
            kinds["mm_token_type_ids"] = (ids == self.causal_lm.config.image_token_id).int()[None]
        positions, _ = self.backbone.get_rope_index(ids[None], image_grid_thw=prompt.image_grid_thw_N3, **kinds)
        return positions[:, 0]

    # ---- forward ------------------------------------------------------------------------------------------------------

    def embed_flat(
        self, prompts: Sequence[EncodedPrompt], flat_ids_N: torch.Tensor, prompt_starts: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings (1, N, C) of a flat row in which prompt i starts at `prompt_starts[i]`, and the decoder's extra inputs."""
        embeds_NC = self.embedding(flat_ids_N)
        encoded = self.encode_images(prompts)
        if all(features is None for features in encoded):
            return embeds_NC[None], {}
        image_token = self.causal_lm.config.image_token_id
        places, features, deepstack = [], [], []
        for prompt, start, found in zip(prompts, prompt_starts, encoded, strict=True):
            if found is not None:
                places.append(np.flatnonzero(as_numpy(prompt.input_ids_S) == image_token) + start)
                features.append(found.features)
                deepstack.append(found.deepstack)
        place = to_device(torch.from_numpy(np.concatenate(places)), self.device)
        embeds_NC = embeds_NC.index_copy(0, place, torch.cat(features).to(embeds_NC.dtype))
        if not deepstack[0]:
            return embeds_NC[None], {}
        layers = [torch.cat(layer) for layer in zip(*deepstack, strict=True)]
        if self._attention is not None:
            return embeds_NC[None], {"visual_pos_masks": place, "deepstack_visual_embeds": layers}
        mask_N = torch.zeros(len(flat_ids_N), dtype=torch.bool, device=self.device)
        mask_N[place] = True
        return embeds_NC[None], {"visual_pos_masks": mask_N[None], "deepstack_visual_embeds": layers}

    def decode_flat(
        self,
        embeds_1NC: torch.Tensor,
        positions_PN: torch.Tensor,
        layout: PackedLayout | VarlenLayout,
        cache: Any = None,
        **extra: Any,
    ) -> Any:
        """Run the decoder over a flat row; raises when the model's attention did not take the packed layout."""
        positions = positions_PN[:, None] if self.vision is not None else positions_PN
        before = layout.used
        output = self.decoder(
            inputs_embeds=embeds_1NC,
            position_ids=positions.to(self.device),
            # a 4-D mask is taken as it is: transformers then builds none of its own
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            packed_layout=layout,
            **extra,
        )
        if layout.used == before:
            raise ValueError(
                f"{type(self.causal_lm).__name__} does not hand the packed layout to its attention: its layers can't be "
                "packed; the local engine supports the Qwen2, Qwen2.5 and Qwen3 families"
            )
        return output

    def response_log_probs(
        self, groups: Sequence[Group], temperature: float = 1.0, with_router: bool = False
    ) -> PackedOutput:
        """Log-probabilities and entropies of all responses of some groups; B runs group by group.

        Each prompt and its pictures pass through the model once, and so does a response that a group holds several times;
        padding never does.
        """
        dropout = getattr(self.config, "attention_dropout", 0.0)
        if self.module.training and dropout:  # equal responses then differ
            return self._packed_log_probs(groups, [[1] * len(g.responses) for g in groups], temperature, with_router)
        distinct: list[Group] = []
        counts: list[list[int]] = []
        source_B: list[int] = []
        start = 0
        for group in groups:
            first: dict[bytes, int] = {}
            places = [first.setdefault(as_numpy(r).tobytes(), len(first)) for r in group.responses]
            distinct.append(Group(group.prompt, [group.responses[places.index(i)] for i in range(len(first))]))
            counts.append([places.count(i) for i in range(len(first))])
            source_B += [start + place for place in places]
            start += len(first)
        output = self._packed_log_probs(distinct, counts, temperature, with_router)
        return output if start == len(source_B) else output.spread(to_device(torch.tensor(source_B), self.device))

    def _packed_log_probs(
        self, groups: Sequence[Group], counts: Sequence[Sequence[int]], temperature: float, with_router: bool
    ) -> PackedOutput:
        """One packed forward pass; `counts` says how often each response stands in its group."""
        if self._attention is not None:
            return varlen_log_probs(self, groups, counts, temperature, with_router, self._attention)
        prompts = [g.prompt for g in groups]
        responses = [r for g in groups for r in g.responses]
        rows = [i for i, g in enumerate(groups) for _ in g.responses]
        prompt_lengths = [len(p.input_ids_S) for p in prompts]
        # the last token of a response is predicted, but predicts nothing
        layout = build_layout(prompt_lengths, rows, [max(0, len(r) - 1) for r in responses], self.device)
        flat_ids, positions, prompt_starts, weights, start = [], [], [], [], 0
        for group, group_counts in zip(groups, counts, strict=True):
            prompt_starts.append(start)
            parts = [group.prompt.input_ids_S, *(r[:-1] for r in group.responses)]
            prompt_positions = self.prompt_positions(group.prompt)
            after = int(prompt_positions.max()) + 1
            flat_ids += parts
            positions.append(prompt_positions)
            axes = len(prompt_positions)
            positions += [torch.arange(after, after + len(part)).expand(axes, -1) for part in parts[1:]]
            weights += [torch.full((len(p),), float(c)) for p, c in zip(parts, [sum(group_counts), *group_counts], strict=True)]
            start += sum(len(part) for part in parts)
        with self.autocast():
            embeds, extra = self.embed_flat(prompts, torch.cat(flat_ids).to(self.device), prompt_starts)
            if with_router:
                extra["output_router_logits"] = True
            output = self.decode_flat(embeds, torch.cat(positions, dim=1), layout, **extra)
            log_probs_BT, entropy_BT, mask_BT = self._score(output.last_hidden_state[0], layout, responses, temperature)
        packed = PackedOutput(log_probs_BT, entropy_BT, mask_BT)
        if with_router:
            packed.router_logits = tuple(layer.reshape(-1, layer.shape[-1]) for layer in output.router_logits)
            packed.router_weights_N = torch.cat(weights).to(self.device)
            packed.token_place_BU = layout.response_index_BT
        return packed

    def _score(
        self, hidden_NC: torch.Tensor, layout: PackedLayout, responses: Sequence[torch.Tensor], temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lengths = [len(r) for r in responses]
        width = max(lengths, default=0)
        mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
        last_prompt_R = layout.prompt_index_RP.gather(1, layout.prompt_mask_RP.sum(1, keepdim=True) - 1)[:, 0]
        source_BT = torch.cat([last_prompt_R[layout.response_row_B][:, None], layout.response_index_BT], dim=1)
        mask_BT = mask_BT.to(self.device)
        source_K = source_BT[:, :width][mask_BT]
        targets_K = torch.cat(list(responses)).to(self.device)
        log_probs_K, entropy_K = token_log_probs(
            hidden_NC.index_select(0, source_K), self.lm_head, targets_K, temperature, self.forbidden_token_ids
        )
        place = mask_BT.flatten().nonzero()[:, 0]
        blank = log_probs_K.new_zeros(mask_BT.numel())
        log_probs_BT = blank.index_copy(0, place, log_probs_K).view(mask_BT.shape)
        entropy_BT = blank.index_copy(0, place, entropy_K).view(mask_BT.shape)
        return log_probs_BT, entropy_BT, mask_BT

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The model without its LoRA adapter, i.e. the reference model of a LoRA run."""
        trained = {parameter: parameter.requires_grad for parameter in self.module.parameters()}
        with self.module.disable_adapter():  # type: ignore[operator]
            yield
        for parameter, is_trained in trained.items():  # peft leaves all adapters trained, those of a frozen tower too
            parameter.requires_grad_(is_trained)
