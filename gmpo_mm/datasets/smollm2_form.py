"""Show SmolLM2-135M-Instruct the form of an answer: a few supervised steps before reinforcement learning.

    gmpo-mm data smollm2 --out models/smollm2-135m
    gmpo-mm data smollm2_form --model models/smollm2-135m --out models/smollm2-135m-form

Asked for a result in a box, the untouched model writes none, so no response would ever be rewarded. The training problems of
`gmpo-mm data word_problems` with their solutions, `4 * 6 = 24. 24 + 5 = 29. \\boxed{29}`, are shown to it once: by default 20
steps of 16 problems. The solutions are right, so this teaches some arithmetic too; `form.json` in the new folder says what
was done. All weights are trained, in about four minutes on one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gmpo_mm.datasets.preparing import new_folder
from gmpo_mm.errors import DataError

END = "<|im_end|>"


def teach(
    model_folder: Path, out: Path, steps: int, batch_size: int, rate: float, report: Callable[[int, float], None]
) -> list[float]:
    """Write the taught model to `out`; returns the loss of each step in nats a token.

    Raises DataError when `model_folder` is no model folder.
    """
    if not (model_folder / "config.json").is_file():
        raise DataError(f"{model_folder}: no model folder; make it with gmpo-mm data smollm2 --out {model_folder}")
    import torch
    import transformers

    from gmpo_mm.models.processing import load_processor
    from gmpo_mm.toys.countdown_demonstrations import make_batch
    from gmpo_mm.toys.warm_start import WarmStartConfig, train
    from gmpo_mm.toys.word_problems import make_problems

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the same numbers on every number of cores
    problems = make_problems("train", steps * batch_size)
    processor = load_processor(str(model_folder), is_vision=False, image_token_id=None)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)

    def batch_of(step: int) -> dict[str, torch.Tensor]:
        shown = problems[step * batch_size : (step + 1) * batch_size]
        prompts = [processor.chat_text([{"role": "user", "content": problem.text}]) for problem in shown]
        return make_batch(prompts, [problem.solution + END for problem in shown], processor.tokenizer)

    losses: list[float] = []

    def record(step: int, loss: float) -> None:
        losses.append(loss)
        report(step, loss)

    recipe = WarmStartConfig(
        steps=steps, batch_size=batch_size, learning_rate=rate, warmup_steps=min(5, steps), wrong_share=0.0
    )
    train(model, batch_of, recipe, record)
    model.save_pretrained(out)
    processor.tokenizer.save_pretrained(out)
    facts = {"model": str(model_folder), "data": "word_problems, train", "recipe": asdict(recipe), "losses": losses}
    (out / "form.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for path in out.iterdir():  # safetensors makes its file readable by its owner only
        path.chmod(path.stat().st_mode | (out.stat().st_mode & 0o444))
    return losses


def main(
    model: Annotated[Path, typer.Option(help="Folder of the untouched model.")] = Path("models/smollm2-135m"),
    out: Annotated[Path, typer.Option(help="Folder of the taught model.")] = Path("models/smollm2-135m-form"),
    steps: Annotated[int, typer.Option(min=1, help="Supervised steps.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Problems a step.")] = 16,
    rate: Annotated[float, typer.Option(min=1e-8, help="Largest learning rate; it rises for 5 steps, then falls to 0.")] = 2e-5,
) -> None:
    """Write the taught model."""

    def report(step: int, loss: float) -> None:
        typer.echo(f"step {step + 1}/{steps}: {loss:.3f} nats a token", err=True)

    with new_folder(out) as folder:
        losses = teach(model, folder, steps, batch_size, rate, report)
    typer.echo(f"{out}: {steps * batch_size} solutions shown once, {losses[0]:.2f} -> {losses[-1]:.2f} nats a token")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(help=__doc__, epilog="Example: gmpo-mm data smollm2_form --out models/smollm2-135m-form")(main)
