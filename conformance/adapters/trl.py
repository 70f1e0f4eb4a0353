"""TRL: the real `GRPOTrainer` (and `experimental.gmpo.GMPOTrainer`), built for each vector with its own
configuration.

Two methods are replaced: where a step's inputs come from, and the model's forward pass, which gives the
vector's log-probabilities. `training_step` is TRL's and transformers' own, so that their scaling of
micro-batches is part of it. TRL makes the weights of a sampler that differs between generating and scoring,
in no function of its own; `_sampler_weights` says them again, and what the loss does with them is TRL's.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import warnings
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer, __version__
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from conformance.torch_side import NotOffered, Rows, accumulate

NAME = f"TRL {__version__}"
TOLERANCE = 1e-6
"""TRL keeps temperatures as float32: 1.05 there is 1.05 + 5e-8."""
logging.getLogger("trl").setLevel(logging.ERROR)
disable_progress_bar()


class _GivenLogProbs:
    """A trainer whose inputs and log-probabilities are a vector's."""

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _get_per_token_logps_and_entropies(
        self, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        log_probs = self.given_log_probs  # type: ignore[attr-defined]
        return log_probs, torch.zeros_like(log_probs), None


class _GRPO(_GivenLogProbs, GRPOTrainer): ...


class _GMPO(_GivenLogProbs, GMPOTrainer): ...


def loss(config: dict[str, Any], batch: dict[str, Any], cut: list[list[int]]) -> dict[str, Any]:
    """Loss, gradient and clip share of the batch."""
    options = settings(config)
    sizes = {len(rows) for rows in cut}
    if len(sizes) > 1:
        raise NotOffered("micro-batches of one size only")
    trainer = _trainer(config["loss"] == "gmpo", sizes.pop(), len(cut), tuple(options.items()))
    trainer.use_vllm = "correction" in config

    def step(part: Rows, whole: Rows) -> Any:
        trainer.given_log_probs = part.log_probs
        trainer._metrics["train"].clear()
        ids = torch.ones(part.mask.shape, dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": part.mask.long(),
            "advantages": part.advantages_B,
            "num_items_in_batch": whole.mask.sum(),
            "old_per_token_logps": part.old_log_probs,
            "ref_per_token_logps": part.ref_log_probs,
        }
        if trainer.use_vllm:
            inputs["sampling_per_token_logps"] = part.sampler_log_probs
            inputs["importance_sampling_ratio"] = _sampler_weights(part, trainer.args)
        value = trainer.training_step(trainer.model, inputs, num_items_in_batch=None)  # with its own backward
        return value, _shares(trainer._metrics["train"])

    return accumulate(batch, cut, step)


def _sampler_weights(part: Rows, keys: GRPOConfig) -> torch.Tensor:
    """(B, T), or (B, 1) for the modes of sequences, as `_generate_and_score_completions` gives them."""
    unit, _, action = keys.vllm_importance_sampling_mode.partition("_")
    log_ratios = (part.old_log_probs - part.sampler_log_probs) * part.mask
    if unit == "sequence":
        log_ratios = log_ratios.sum(dim=-1, keepdim=True)
    ratios, low, high = (
        log_ratios.exp(),
        keys.vllm_importance_sampling_clip_min,
        keys.vllm_importance_sampling_clip_max,
    )
    if action == "truncate":
        return ratios.clamp(min=low, max=high)
    return torch.where((ratios >= (low or 0.0)) & (ratios <= high), ratios, 0.0)


def _shares(metrics: dict[str, list[float]]) -> dict[str, float]:
    names = {"high": "clip_ratio/high_mean", "low": "clip_ratio/low_mean", "any": "cispo_clip_ratio"}
    return {name: metrics[key][0] for name, key in names.items() if metrics.get(key)}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of `GRPOConfig` for a vector's configuration."""
    name, average = config["loss"], config.get("average", "")
    options: dict[str, Any] = {"beta": 0.0, **_correction(config)}
    if "kl" in config:
        if config["kl"]["kind"] != "k3":
            raise NotOffered("the KL is k3")
        options |= {"beta": config["kl"]["coef"], "use_bias_correction_kl": False}
    if name == "ppo":
        loss_type = {"tokens": "dapo", "sequences": "grpo", "fixed": "dr_grpo"}[average]
        options |= {"loss_type": loss_type, **_bounds(config), "delta": config["dual_clip"]}
        if average == "fixed":
            options["max_completion_length"] = config["max_tokens"]
    elif name == "gmpo":
        if config["clip"] != "token" or not config["normalize"]:
            raise NotOffered("Table 4's ablations")
        options |= {"epsilon": -config["log_ratio_min"], "epsilon_high": config["log_ratio_max"]}
    elif name in ("gspo", "luspo"):
        loss_type = "grpo" if name == "gspo" else "luspo"
        options |= {"loss_type": loss_type, "importance_sampling_level": "sequence"}
        options |= {**_bounds(config), "delta": config["dual_clip"]}
    elif name == "cispo" and average == "tokens" and config["ratio_min"] is None:
        options |= {"loss_type": "cispo", "epsilon_high": config["ratio_max"]}
    elif name == "sapo" and average == "sequences":
        options |= {"loss_type": "sapo", "sapo_temperature_pos": config["tau_positive"]}
        options["sapo_temperature_neg"] = config["tau_negative"]
    elif name == "vespo" and average == "tokens":
        options["loss_type"] = "vespo"
        for sign, end in (("positive", "pos"), ("negative", "neg")):
            options |= {f"vespo_{key}_{end}": config[f"{key}_{sign}"] for key in ("k", "lambda")}
    elif name in ("cispo", "sapo", "vespo"):
        raise NotOffered(f"{name} with average {average}, ratio_min {config.get('ratio_min')}")
    else:
        raise NotOffered(name)
    return options


def _correction(config: dict[str, Any]) -> dict[str, Any]:
    own = config.get("correction")
    if own is None:
        return {}
    modes = {"truncated": "token_truncate", "masked": "token_mask"}
    modes |= {"sequence_truncated": "sequence_truncate", "sequence_masked": "sequence_mask"}
    if own["kind"] not in modes or not own.get("counted", True):
        raise NotOffered(f"{own['kind']}, counted {own.get('counted', True)}")
    if config["loss"] == "gspo" and own.get("mean") == "geometric":
        raise NotOffered("the weight of a response is an arithmetic mean")
    return {
        "vllm_importance_sampling_mode": modes[own["kind"]],
        "vllm_importance_sampling_clip_max": own["cap"],
        "vllm_importance_sampling_clip_min": own.get("floor"),
    }


def _bounds(config: dict[str, Any]) -> dict[str, float]:
    low = float("inf") if config["ratio_min"] is None else 1 - config["ratio_min"]
    return {"epsilon": low, "epsilon_high": config["ratio_max"] - 1}


@functools.cache
def _model() -> tempfile.TemporaryDirectory[str]:
    """A folder with the smallest model and tokenizer that the trainer accepts; neither is called."""
    folder = tempfile.TemporaryDirectory(prefix="conformance-trl-")
    sizes: dict[str, Any] = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=1)
    LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1)).save_pretrained(folder.name)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>").save_pretrained(
        folder.name
    )
    return folder


@functools.lru_cache(maxsize=4)
def _trainer(gmpo: bool, rows: int, parts: int, options: tuple[tuple[str, Any], ...]) -> Any:
    folder = _model().name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = (GMPOConfig if gmpo else GRPOConfig)(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            num_generations=2,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=parts,
            **dict(options),
        )
        prompts = Dataset.from_dict({"prompt": ["a"]})
        trainer = (_GMPO if gmpo else _GRPO)(folder, _no_reward, config, train_dataset=prompts)
    trainer.current_gradient_accumulation_steps = parts
    trainer.model.train()
    return trainer


def _no_reward(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)
