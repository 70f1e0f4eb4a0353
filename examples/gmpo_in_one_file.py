r"""GMPO in one file: reinforcement learning of a small vision-language model, from sampling to the update.

    python examples/gmpo_in_one_file.py                  # half a minute to a minute on a CPU
    python examples/gmpo_in_one_file.py --loss grpo      # the same with the loss of GRPO

Read `main` first, then upwards. Equation numbers are those of "Geometric-Mean Policy Optimization" (arXiv
2507.20673). One step is:

1. sample a GROUP of answers to each of a few problems                        `Model.sample`
2. grade each answer: reward 1 if it is right, else 0                         `grade`
3. compare each answer with its group: its ADVANTAGE                          `group_advantages`
4. a few updates that make the better answers of each group more probable     `update`, `gmpo_loss`

The problems are pictures: read two numbers off a rectangle, a triangle or a line, and compute. The bundled
model reads the numbers well but was made to choose the wrong formula often. An answer looks like this:
`<think>4*6=24</think>\boxed{24}`. Model, problems and the reading of pictures come from gmpo_mm; the rest is
here. `gmpo-mm train` does the same for real models, with much that is left out here: other losses and
advantages, micro-batches, a faster forward pass, checkpoints, GPUs.

Names of tensors end in their axes: B answers, S tokens of a prompt, T tokens of an answer, V tokens of the
vocabulary, N groups of G answers, P patches of a picture, F numbers of a patch. `mask_BT` has shape (B, T).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, __version__
from transformers.utils import logging

from gmpo_mm.config import resolve_model_path
from gmpo_mm.models.loading import vision_token_ids
from gmpo_mm.models.processing import load_processor
from gmpo_mm.toys.synthetic_geometry import Problem, draw, make_problem

MODEL = "bundled:qwen2_5_vl_tiny"
PROBLEMS, GROUP = 16, 8  # a step samples 16 problems x 8 answers
PROBLEMS_AN_UPDATE = 4  # and makes 4 updates from them
LONGEST = 24  # tokens of an answer
LEARNING_RATE = 6e-5
LOG_CLIP = 0.4  # GMPO's clip of the log-ratio: the paper's (e^-0.4, e^0.4)
RATIO_CLIP = 0.2  # GRPO's clip of the ratio: (0.8, 1.2)
MAX_GRAD_NORM = 1.0
TEST_PROBLEMS, TEST_SAMPLES, TEST_TEMPERATURE = 64, 8, 0.5  # training samples at temperature 1


# ---- losses: one number an answer, from log-probabilities of its tokens ----------------------------------


def gmpo_loss(log_probs_BT: Tensor, old_BT: Tensor, advantages_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Equation (4), the paper's Algorithm 1, with a minus since optimizers minimise; (B,).

    Product and clip are taken in log space, as in the paper: a product of many ratios would overflow.
    |A| stands in each of the |o| factors, so the root gives it back once, and |A| sgn(A) = A.
    """
    log_ratio_BT = log_probs_BT - old_BT  # log rho = log pi(token) - log pi_old(token)
    clipped_BT = log_ratio_BT.clamp(-LOG_CLIP, LOG_CLIP)  # log clip(rho, e^-0.4, e^0.4)
    sign_B1 = advantages_B.sign()[:, None]  # sgn(A)
    # min[rho A, clip(rho) A]: where A > 0 the smaller of the two ratios, where A < 0 the larger
    chosen_BT = sign_B1 * torch.minimum(sign_B1 * log_ratio_BT, sign_B1 * clipped_BT)
    # {product over t of ratios} to the power 1/|o| = exp(mean over t of log-ratios)
    geometric_mean_B = torch.exp((chosen_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1))
    return -advantages_B * geometric_mean_B


def grpo_loss(log_probs_BT: Tensor, old_BT: Tensor, advantages_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Equation (1) without its KL term (beta = 0, as in the paper's runs), with a minus; (B,)."""
    ratio_BT = torch.exp(log_probs_BT - old_BT)  # rho
    clipped_BT = ratio_BT.clamp(1 - RATIO_CLIP, 1 + RATIO_CLIP)
    advantages_B1 = advantages_B[:, None]
    smaller_BT = torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    return -(smaller_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1)  # the ARITHMETIC mean over t


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {"gmpo": gmpo_loss, "grpo": grpo_loss}


# ---- prompts and answers as tensors ----------------------------------------------------------------------


@dataclass
class Prompts:
    """Prompts, padded on the left so that every answer starts in the same column, and their pictures."""

    ids_BS: Tensor
    mask_BS: Tensor
    pixels_BPF: Tensor
    grid_B3: Tensor

    def rows(self, rows: Tensor | slice) -> Prompts:
        """Some of them."""
        return Prompts(self.ids_BS[rows], self.mask_BS[rows], self.pixels_BPF[rows], self.grid_B3[rows])


@dataclass
class Answers:
    """Sampled answers. The mask is True on their tokens, end token included, and False on the padding."""

    tokens_BT: Tensor
    mask_BT: Tensor
    texts: list[str]


class Model:
    """The bundled model with tokenizer and optimizer: samples answers, and says how probable they are."""

    def __init__(self) -> None:
        logging.disable_progress_bar()  # of loading
        path = resolve_model_path(MODEL)
        self.net: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self.net.model.visual.requires_grad_(False)  # the part that sees is not trained
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
        self.image_token = self.net.config.image_token_id
        self.processor = load_processor(path, is_vision=True, image_token_id=self.image_token)
        self.tokenizer = self.processor.tokenizer
        # tokens that stand for pictures have probability 0 in answers
        self.forbidden = vision_token_ids(self.tokenizer, self.net.config)

    def encode(self, problems: Sequence[Problem], copies: int) -> Prompts:
        """Chat text and picture of each problem as tensors; `copies` rows a problem, side by side."""
        encoded: list[Any] = []
        for problem in problems:
            content = [{"type": "image"}, {"type": "text", "text": problem.text.removeprefix("<image>")}]
            text = self.processor.chat_text([{"role": "user", "content": content}])
            encoded.append(self.processor.encode(text, [draw(problem)]))
        width, pad = max(len(ids_S) for ids_S, *_ in encoded), self.tokenizer.pad_token_id
        ids_BS = torch.full((len(problems), width), pad)
        mask_BS = torch.zeros(len(problems), width, dtype=torch.bool)
        for row, (ids_S, *_) in enumerate(encoded):
            ids_BS[row, -len(ids_S) :], mask_BS[row, -len(ids_S) :] = ids_S, True
        pixels_BPF = torch.stack([patches.pixel_values for _, _, patches, _ in encoded])
        prompts = Prompts(ids_BS, mask_BS, pixels_BPF, torch.cat([grid for *_, grid in encoded]))
        return prompts.rows(torch.arange(len(problems)).repeat_interleave(copies))

    def inputs(self, prompts: Prompts, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """What transformers takes for `ids`, which are those of the prompts, or of prompts and answers."""
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        inputs |= {"pixel_values": prompts.pixels_BPF.flatten(0, 1), "image_grid_thw": prompts.grid_B3}
        if not __version__.startswith("4."):  # transformers 5 has to be given where the pictures stand
            inputs["mm_token_type_ids"] = (ids == self.image_token).int()
        return inputs

    @torch.no_grad()
    def sample(self, prompts: Prompts, temperature: float = 1.0) -> Answers:
        """One answer to each prompt, token by token from the model's distribution."""
        self.net.eval()
        ids = self.net.generate(
            **self.inputs(prompts, prompts.ids_BS, prompts.mask_BS), max_new_tokens=LONGEST,
            do_sample=True, temperature=temperature, top_k=0, top_p=1.0, suppress_tokens=self.forbidden,
        )  # fmt: skip
        tokens_BT = ids[:, prompts.ids_BS.shape[1] :]
        is_end_BT = (tokens_BT == self.tokenizer.eos_token_id).int()
        mask_BT = is_end_BT.cumsum(dim=1) - is_end_BT == 0  # no end token before this one
        return Answers(tokens_BT, mask_BT, self.tokenizer.batch_decode(tokens_BT, skip_special_tokens=True))

    def log_probs(self, prompts: Prompts, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """log pi(token | prompt, tokens before it) of each token of the answers, 0 on the padding; (B, T)."""
        ids = torch.cat([prompts.ids_BS, tokens_BT], dim=1)
        mask = torch.cat([prompts.mask_BS, mask_BT], dim=1)
        keep = tokens_BT.shape[1] + 1  # logits stand one token before the token that they are for
        output = self.net(**self.inputs(prompts, ids, mask), logits_to_keep=keep, use_cache=False)
        logits_BTV = output.logits[:, :-1]
        logits_BTV[..., self.forbidden] = float("-inf")
        log_probs_BT = logits_BTV.log_softmax(dim=-1).gather(2, tokens_BT[..., None])[..., 0]
        return torch.where(mask_BT, log_probs_BT, 0.0)


# ---- the algorithm ---------------------------------------------------------------------------------------


def grade(texts: Sequence[str], problems: Sequence[Problem]) -> Tensor:
    """Rewards (B,): 1 where the form is kept and the box holds the right answer, else 0."""
    golds = [problem.answer for problem in problems for _ in range(len(texts) // len(problems))]
    boxes = [re.fullmatch(r"<think>.*</think>\\boxed\{(\d+)\}", text) for text in texts]
    right = [box is not None and box[1] == gold for box, gold in zip(boxes, golds, strict=True)]
    return torch.tensor(right, dtype=torch.float64)


def group_advantages(rewards_B: Tensor) -> Tensor:
    """A = (reward - mean of its group) / standard deviation of its group (section 2 of the paper); (B,).

    A group that is all right or all wrong has advantages 0: there is nothing to compare.
    """
    rewards_NG = rewards_B.view(-1, GROUP)
    centred_NG = rewards_NG - rewards_NG.mean(dim=1, keepdim=True)
    return (centred_NG / (rewards_NG.std(dim=1, keepdim=True) + 1e-6)).flatten().float()


def update(model: Model, prompts: Prompts, answers: Answers, advantages_B: Tensor, loss: Loss) -> str:
    """All updates of one step. Returns what they saw: the ratios' range, and the gradients' mean norm."""
    with torch.no_grad():  # pi_old is the policy that sampled; it stays while pi changes
        old_BT = model.log_probs(prompts, answers.tokens_BT, answers.mask_BT)
    norms, log_ratios = [], []
    for start in range(0, len(old_BT), PROBLEMS_AN_UPDATE * GROUP):
        rows = slice(start, start + PROBLEMS_AN_UPDATE * GROUP)
        tokens_BT, mask_BT = answers.tokens_BT[rows], answers.mask_BT[rows]
        log_probs_BT = model.log_probs(prompts.rows(rows), tokens_BT, mask_BT)
        losses_B = loss(log_probs_BT, old_BT[rows], advantages_B[rows], mask_BT)
        losses_B.mean().backward()  # (1/G) sum over i, and the mean over problems, of equations (1) and (4)
        norms.append(torch.nn.utils.clip_grad_norm_(model.net.parameters(), MAX_GRAD_NORM))
        model.optimizer.step()
        model.optimizer.zero_grad()
        log_ratios.append((log_probs_BT.detach() - old_BT[rows])[mask_BT])
    ratios, norm = torch.cat(log_ratios).exp(), torch.stack(norms).mean()
    return f"token ratios {ratios.min():.2f} to {ratios.max():.2f}  gradient norm {norm:.2f}"


def pass_at_1(model: Model) -> float:
    """The share of right answers to test problems, in pictures that training never shows."""
    problems = [make_problem("test_pictures", index) for index in range(TEST_PROBLEMS)]
    answers = model.sample(model.encode(problems, TEST_SAMPLES), TEST_TEMPERATURE)
    return float(grade(answers.texts, problems).mean())


def main() -> None:
    """Measure, train, measure again."""
    parser = argparse.ArgumentParser(description="GMPO in one file: train the bundled model on the CPU.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the sampled answers")
    parser.add_argument("--loss", choices=LOSSES, default="gmpo")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps {options.steps}: give 1 or more")
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # the matrices are tiny: more threads would wait for one another
    started = time.monotonic()
    model = Model()
    before = pass_at_1(model)
    print(f"Pass@1 before: {before:.3f}", flush=True)
    for step in range(options.steps):
        problems = [make_problem("train", step * PROBLEMS + i) for i in range(PROBLEMS)]
        prompts = model.encode(problems, copies=GROUP)
        answers = model.sample(prompts)
        rewards_B = grade(answers.texts, problems)
        seen = update(model, prompts, answers, group_advantages(rewards_B), LOSSES[options.loss])
        print(f"step {step + 1:2}/{options.steps}  reward {rewards_B.mean():.3f}  {seen}", flush=True)
    print(f"Pass@1 before {before:.3f}, after {pass_at_1(model):.3f}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
