"""Writes tests/inspection/dumps with each project's own code, in an environment that has it:

python tests/inspection/write_dumps.py verl      verl 0.9.1: trainer.rollout_data_dir, of both trainers
python tests/inspection/write_dumps.py easyr1    EasyR1: generations.log of two validations
python tests/inspection/write_dumps.py trl       TRL 1.16: log_completions, messages and plain prompts
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dump_samples import ANSWERS, PROBLEMS, rows

HERE = Path(__file__).parent / "dumps"
MODEL = Path(__file__).parents[2] / "gmpo_mm" / "toys" / "bundled" / "qwen2_tiny"


def without_special_tokens(texts: list[str]) -> list[str]:
    """Through the tokenizer and back, as the trainers decode prompts and responses."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return [tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) for text in texts]


def verl() -> None:
    """JSON Lines of the older and of the newer trainer; the newer one's rows have keys of TransferQueue."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    prompts, outputs, answers, scores = map(list, zip(*rows(), strict=True))
    inputs, outputs = without_special_tokens(prompts), without_special_tokens(outputs)
    uids = [f"prompt{row // 2}_{row % 2}_0" for row in range(len(inputs))]
    for name, write, more in (
        ("verl_ray_trainer", RayPPOTrainer._write_generations, {"acc": [float(s >= 0.9) for s in scores]}),
        ("verl_v1", PPOTrainer._write_generations, {"uid": uids}),
    ):
        for step in (1, 2):
            write(inputs, outputs, answers, scores, more, str(HERE / name), step)


def easyr1() -> None:
    """Two validations through the trainer's own choice, order and logger."""
    from verl.trainer.ray_trainer import RayPPOTrainer
    from verl.utils.logger.gen_logger import AggregateGenerationsLogger

    folder = HERE / "easyr1"
    folder.mkdir(exist_ok=True)
    (folder / "generations.log").unlink(missing_ok=True)
    logger = AggregateGenerationsLogger(["file"], {"trainer": {"save_checkpoint_path": str(folder)}})
    prompts, outputs, answers, scores = map(list, zip(*rows(), strict=True))
    for step, changed in ((1, scores), (2, [1.0] * len(scores))):
        trainer = SimpleNamespace(
            config=SimpleNamespace(trainer=SimpleNamespace(val_generations_to_log=len(scores))),
            logger=SimpleNamespace(log_generation=logger.log), global_step=step,
        )  # fmt: skip
        texts = without_special_tokens(prompts), without_special_tokens(outputs)
        RayPPOTrainer._maybe_log_val_generations(trainer, *texts, answers, changed)


def trl() -> None:
    """Two steps of a real GRPOTrainer on the bundled model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def length(completions: list[Any], **columns: Any) -> list[float]:
        return [len(str(c if isinstance(c, str) else c[0]["content"])) / 16 for c in completions]

    def even(completions: list[Any], **columns: Any) -> list[float]:
        return [float(len(str(c)) % 2) for c in completions]

    for name, prompts in (
        ("trl_messages", [[{"role": "user", "content": problem}] for problem in PROBLEMS]),
        ("trl_plain", [f"{problem} " for problem in PROBLEMS]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            config = GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=2,
                max_steps=2, max_completion_length=8, log_completions=True, logging_steps=1, report_to="none",
                save_strategy="no", shuffle_dataset=False, disable_tqdm=True, seed=1,
                gradient_checkpointing=False,
            )  # fmt: skip
            trainer = GRPOTrainer(
                model=AutoModelForCausalLM.from_pretrained(MODEL), reward_funcs=[length, even], args=config,
                train_dataset=Dataset.from_dict({"prompt": prompts, "answer": list(ANSWERS)}),
                processing_class=AutoTokenizer.from_pretrained(MODEL, padding_side="left"),
            )  # fmt: skip
            trainer.train()
            shutil.copytree(Path(folder) / "completions", HERE / name / "completions", dirs_exist_ok=True)


if __name__ == "__main__":
    {"verl": verl, "easyr1": easyr1, "trl": trl}[sys.argv[1]]()
