"""How far training took a model from its start: the KL divergence per token, from responses of the trained model.

    python -m benchmarks.kl_to_start START MODEL [MODEL ...] --records data/word_problems/test.parquet

For each problem the trained model samples responses at temperature 1, from its whole distribution. Over their tokens the mean
of log p(trained) - log p(start) estimates KL(trained || start) in nats. A run directory stands for its newest checkpoint.
Needed after runs with `algorithm.disable_kl`, which keep no reference model.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
import transformers

from gmpo_mm.data.sources import read_rows
from gmpo_mm.runs.usable_model import usable_model


def load(name: str) -> Any:
    """A model's weights as they are trained, adapters merged."""
    return transformers.AutoModelForCausalLM.from_pretrained(usable_model(name, "model", whole=True), dtype=torch.float32)


def response_log_probs(model: Any, tokens_BS: torch.Tensor, mask_BS: torch.Tensor, prompt: int) -> torch.Tensor:
    """(B, S - prompt): the log-probability in nats of each token after the first `prompt` ones."""
    positions_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)
    logits_BSV = model(input_ids=tokens_BS, attention_mask=mask_BS, position_ids=positions_BS).logits[:, prompt - 1 : -1]
    return torch.log_softmax(logits_BSV, -1).gather(2, tokens_BS[:, prompt:, None]).squeeze(2)


@torch.no_grad()
def kl_and_length(start: Any, trained: Any, tokenizer: Any, problems: list[str], n: int, longest: int) -> tuple[float, float]:
    """Nats a token, and tokens a response, over `n` responses to each problem."""
    torch.manual_seed(0)
    gap = tokens = 0.0
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for begin in range(0, len(problems), 16):
        chats = [[{"role": "user", "content": problem}] for problem in problems[begin : begin + 16]]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        out_BS = trained.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=n, max_new_tokens=longest,
            eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        prompt = inputs["input_ids"].shape[1]
        ended_BT = (out_BS[:, prompt:] == end).int()
        kept_BT = ended_BT.cumsum(1) - ended_BT == 0  # up to the end token, itself included
        mask_BS = torch.cat([inputs["attention_mask"].repeat_interleave(n, 0), kept_BT.long()], 1)
        trained_BT, start_BT = (response_log_probs(model, out_BS, mask_BS, prompt) for model in (trained, start))
        gap += float(torch.where(kept_BT, trained_BT - start_BT, 0.0).sum())
        tokens += float(kept_BT.sum())
    return gap / tokens, tokens / (n * len(problems))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kl_to_start", description=__doc__)
    parser.add_argument("start")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--records", required=True, help="a file with a column `problem`")
    parser.add_argument("--n", type=int, default=4, help="responses a problem")
    parser.add_argument("--longest", type=int, default=48, help="tokens of a response at most")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    problems = list(read_rows(options.records).column("problem"))
    start = load(options.start)
    tokenizer = transformers.AutoTokenizer.from_pretrained(usable_model(options.start, "start", whole=True))
    for name in (options.start, *options.models):
        kl, length = kl_and_length(start, load(name), tokenizer, problems, options.n, options.longest)
        print(f"{name}: KL to the start {kl:.4f} nats a token, {length:.1f} tokens a response", flush=True)


if __name__ == "__main__":
    sys.exit(main())
