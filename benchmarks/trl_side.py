"""TRL's GMPOTrainer, configured for speed on a CPU, with its phases timed from outside."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from benchmarks.reporter import Reporter
from benchmarks.workload import REPOSITORY, Workload, read_problems
from gmpo_mm.rewards import load_reward_function


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which cannot be built where torchvision is missing."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_processor(workload: Workload) -> ImageOnlyProcessor:
    """Tokenizer and image processor of the model's folder, padding on the left as TRL asks."""
    tokenizer = AutoTokenizer.from_pretrained(workload.model, padding_side="left", truncation_side="left")
    least, most = workload.image_pixels
    images = Qwen2VLImageProcessorPil.from_pretrained(workload.model, size={"shortest_edge": least, "longest_edge": most})
    return ImageOnlyProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def build_dataset(workload: Workload, folder: Path) -> Dataset:
    """One row per problem: the conversation, its image, and the answer for the reward function."""
    rows: dict[str, list[Any]] = {"prompt": [], "image": [], "ground_truth": []}
    for problem in read_problems(folder):
        assert problem["problem"].startswith("<image>") and len(problem["images"]) == 1, "TRL puts one image first"
        content = problem["problem"].removeprefix("<image>")
        rows["prompt"].append([{"role": "user", "content": content}])
        rows["image"].append(PillowImage.open(folder / problem["images"][0]).convert("RGB"))
        rows["ground_truth"].append(problem["answer"])
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"prompt": [message], "image": Image(), "ground_truth": Value("string")})
    return Dataset.from_dict(rows, features=features)


def build_config(workload: Workload, output_dir: str) -> GMPOConfig:
    """The same update as ours; everything that only costs time is off."""
    return GMPOConfig(
        output_dir=output_dir,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=workload.samples_per_mini_batch,
        gradient_accumulation_steps=1,
        steps_per_generation=workload.mini_batches,
        num_generations=workload.samples,
        num_iterations=1,
        max_steps=workload.mini_batches * workload.total_rounds,
        max_completion_length=workload.new_tokens,
        generation_kwargs={"min_new_tokens": workload.new_tokens} if workload.exact_length else None,
        temperature=1.0,
        beta=0.0,
        epsilon=0.4,
        learning_rate=workload.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.seed,
    )


class RoundCallback(TrainerCallback):
    """Cuts the run into rounds of `mini_batches` optimizer steps and ends the update phase of each step."""

    def __init__(self, workload: Workload, reporter: Reporter) -> None:
        self.workload, self.reporter = workload, reporter
        self.rewards: list[float] = []
        self.responses: list[tuple[int, ...]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first round starts before the first batch is fetched."""
        self.reporter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the update, and the round where it ends."""
        self.reporter.clock.pop("update")
        if state.global_step % self.workload.mini_batches:
            return
        self.reporter.finish(
            reward=sum(self.rewards) / len(self.rewards),
            response_tokens=sum(map(len, self.responses)),
            samples=len(self.responses),
            distinct=len({(i // self.workload.samples, ids) for i, ids in enumerate(self.responses)}),
        )
        self.rewards, self.responses = [], []
        if state.global_step < args.max_steps:
            self.reporter.start()


def time_phases(trainer: GMPOTrainer, reporter: Reporter) -> None:
    """Sampling, rewards, old log-probabilities and update; a step's update ends in `RoundCallback.on_step_end`."""
    clock = reporter.clock
    clock.wrap(trainer, "_generate", "sampling")
    clock.wrap(trainer, "_calculate_rewards", "rewards")
    clock.wrap(trainer, "_prepare_inputs", "rest")
    clock.wrap(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda: "update" if torch.is_grad_enabled() else "old log-probs",
    )
    training_step = trainer.training_step

    def step(*args: Any, **kwargs: Any) -> Any:
        clock.push("update")
        return training_step(*args, **kwargs)

    trainer.training_step = step


def run(workload: Workload, folder: Path, reporter: Reporter) -> None:
    """Build the trainer, report, and train for the asked-for rounds."""
    transformers.utils.logging.disable_progress_bar()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(workload.model, dtype=torch.float32)
    if workload.freeze_vision:
        model.model.visual.requires_grad_(False)
    score = load_reward_function(str(REPOSITORY / workload.reward_function))
    callback = RoundCallback(workload, reporter)

    def reward(completions: list[Any], completion_ids: list[list[int]], ground_truth: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        lengths = [len(ids) for ids in completion_ids]
        scores = score(
            [
                {"response": text, "response_length": length, "ground_truth": answer}
                for text, length, answer in zip(texts, lengths, ground_truth, strict=True)
            ]
        )
        rewards = [float(entry["overall"]) for entry in scores]
        callback.rewards += rewards
        callback.responses += [tuple(ids) for ids in completion_ids]
        return rewards

    with tempfile.TemporaryDirectory() as output_dir:
        dataset = build_dataset(workload, folder)
        trainer = GMPOTrainer(
            model,
            reward_funcs=reward,
            args=build_config(workload, output_dir),
            train_dataset=dataset,
            processing_class=load_processor(workload),
            callbacks=[callback],
        )
        time_phases(trainer, reporter)
        prompts = prompt_ids(trainer, dataset, workload.prompts)
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        reporter.ready(prompts, {"trl": trl.__version__, "transformers": transformers.__version__}, trainable)
        trainer.train()


def prompt_ids(trainer: GMPOTrainer, dataset: Dataset, count: int) -> list[list[int]]:
    """Token ids of the first prompts as TRL builds them, to be compared with ours."""
    rows = [dataset[index] for index in range(count)]
    prompts = [trl.data_utils.prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in rows]
    return [list(map(int, ids)) for ids in trainer._tokenize_prompts(prompts)[0]]
