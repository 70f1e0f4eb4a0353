"""Lists of what people get wrong in a training file: YAML's traps, settings that contradict each other, wrong files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gmpo_mm.config.paths import BUNDLED_MODELS

ANY = ""
ROLLOUT, VALIDATION = "worker.rollout", "worker.rollout.val_override_config"
ACTOR, MODEL, OPTIM = "worker.actor", "worker.actor.model", "worker.actor.optim"
REWARD, KWARGS = "worker.reward.reward_function", "worker.reward.reward_function_kwargs"
Wrong = tuple[Any, ...]


def yaml_traps(base: str, changed: Callable[[str, Any], bytes]) -> Iterator[tuple[str, str | None, bytes]]:
    """(name, what the error names or None, the file)."""
    steps, rate = "max_steps: 60", "lr: 6.0e-5"
    section = r"algorithm:\n(  .*\n)+"

    def swapped(old: str, new: str) -> bytes:
        assert old in base
        return base.replace(old, new).encode()

    texts: list[tuple[str, str | None, bytes]] = [
        ("the base", None, base.encode()),
        ("a key twice", "lr", swapped(f"      {rate}", f"      {rate}\n      lr: 1.0e-3")),
        ("a section twice", "trainer", (base + "trainer:\n  max_steps: 3\n").encode()),
        ("a tab for spaces", ANY, swapped("  train_files", "\ttrain_files")),
        ("a tab after a value", None, swapped(steps, f"{steps}\t")),
        ("a merge key", None, swapped(f"      {rate}", "      <<: {lr: 6.0e-5}")),
        ("a merge key of a list", ANY, swapped(f"      {rate}", "      <<: [1]")),
        ("an anchor and its alias", None, swapped(rate, "lr: &lr 6.0e-5\n      weight_decay: *lr")),
        ("an alias of nothing", ANY, swapped(rate, "lr: *nothing")),
        ("an anchor that holds itself", ANY, swapped(f"    optim:\n      {rate}", "    optim: &a\n      lr: *a")),
        ("an anchor in a circle", ANY, (base + "x: &x [*x]\n").encode()),
        ("a quote that stays open", ANY, swapped("prompt_key: problem", 'prompt_key: "problem')),
        ("a bracket that stays open", ANY, swapped("[console, tensorboard]", "[console, tensorboard")),
        ("wrong indentation", ANY, swapped("  prompt_key", "   prompt_key")),
        ("Latin-1", ANY, base.encode().replace(b"problem", b"probl\xe8me")),
        ("Latin-1 in a remark", ANY, b"# caf\xe9\n" + base.encode()),
        ("UTF-16", ANY, base.encode("utf-16")),
        ("a byte order mark", None, b"\xef\xbb\xbf" + base.encode()),
        ("Windows line ends", None, base.replace("\n", "\r\n").encode()),
        ("a zero byte", ANY, base.encode() + b"\0"),
        ("a control character", ANY, swapped("prompt_key: problem", "prompt_key: 'pro\x07blem'")),
        ("an escaped control character", "prompt_key", swapped("prompt_key: problem", 'prompt_key: "pro\\x07blem"')),
        ("nothing", ANY, b""),
        ("a remark alone", ANY, b"# nothing\n"),
        ("null", ANY, b"null\n"),
        ("a list", ANY, b"- data\n- worker\n"),
        ("a text", ANY, b"hello\n"),
        ("a number", ANY, b"3\n"),
        ("two documents", ANY, (f"{base}---\n{base}").encode()),
        ("deep sections", ANY, ("data:\n" + "".join("  " * (i + 1) + "a:\n" for i in range(3000))).encode()),
        ("deep brackets", ANY, ("data: " + "[" * 3000 + "]" * 3000).encode()),
        ("very deep brackets", ANY, ("data: " + "[" * 100_000 + "]" * 100_000).encode()),
        ("deep braces", ANY, ("data: " + "{a: " * 20000 + "1" + "}" * 20000).encode()),
        ("a billion laughs", ANY, _laughs().encode()),
        ("a call of Python's", ANY, (base + "engine: !!python/object/apply:os.mkdir ['pwned']\n").encode()),
        ("a name of Python's", ANY, (base + "engine: !!python/name:os.system\n").encode()),
        ("an unknown tag", ANY, (base + "engine: !mine local\n").encode()),
        ("a binary tag", "engine", (base + "engine: !!binary aGVsbG8=\n").encode()),
        ("a set", "engine", (base + "engine: !!set {a, b}\n").encode()),
        ("a date", "max_steps", swapped(steps, "max_steps: 2026-01-01")),
        ("a decimal for an integer", "max_steps", swapped(steps, "max_steps: 60.0")),
        ("base 60", "1:30", swapped(steps, "max_steps: 1:30")),
        ("1_000", None, swapped(steps, "max_steps: 1_000")),
        ("a number in quotes", None, swapped(steps, "max_steps: '60'")),
        ("6e-5 without a point", None, swapped("6.0e-5", "6e-5")),
        ("6e5", "optim.lr", swapped("6.0e-5", "6.0e5")),
        ("a comma in a number", "lr", swapped("6.0e-5", "'6,0e-5'")),
        ("yes for true", None, swapped("disable_kl: true", "disable_kl: yes")),
        ("2 for true", "disable_kl", swapped("disable_kl: true", "disable_kl: 2")),
        ("on for a text", "engine", (base + "engine: on\n").encode()),
        ("a key with a dot", "worker.actor.optim.lr", (base + "worker.actor.optim.lr: 1.0e-3\n").encode()),
        ("a key with a dot in a section", "actor.optim.lr", swapped("  actor:\n", "  actor.optim.lr: 1.0\n  actor:\n")),
        ("a key with a space", "max_steps ", swapped(steps, "'max_steps ': 60")),
        ("a letter with an accent", "train\xe9r", (base + "train\xe9r: {max_steps: 1}\n").encode()),
        ("a section as a text", "algorithm", re.sub(section, "algorithm: grpo\n", base).encode()),
        ("a section as null", "algorithm", re.sub(section, "algorithm:\n", base).encode()),
        ("a section as a list", "algorithm", re.sub(section, "algorithm: [grpo]\n", base).encode()),
        ("a section that is missing", "algorithm", re.sub(section, "algorithm: ???\n", base).encode()),
        ("a long value", "loss_type", changed(f"{ACTOR}.loss_type", "g" * 100_000)),
        ("JSON", None, json.dumps(_plain(base)).encode()),
    ]
    for name, key, value in (
        ("a key that is not there", "max_steps", "${nowhere.x}"), ("another type", "max_steps", "${data.prompt_key}"),
        ("itself", "max_steps", "${trainer.max_steps}"), ("an unknown resolver", ANY, "${nope:1}"),
        ("an unset variable", ANY, "${oc.env:GMPO_NOT_SET}"), ("a section", "max_steps", "${data}"),
        ("nothing", ANY, "${}"), ("half", ANY, "'${oops'"), ("the missing value", "max_steps", "???"),
    ):  # fmt: skip
        texts.append((f"interpolation: {name}", key, swapped(steps, f"max_steps: {value}")))
    for key in ("1", "null", "true", "1.5", "? [a, b]\n", "''", "2026-01-01", "!!binary aGk=", "&a b", "{a: b}"):
        texts.append((f"the key {key!r}", ANY, (base + f"{key}: 2\n").encode()))
        texts.append((f"the key {key!r} in a section", ANY, swapped("algorithm:\n", f"algorithm:\n  {key}: 2\n")))
    yield from texts


def _plain(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _laughs() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines) + "\n"


def contradictions() -> Iterator[Wrong]:
    """(name, what the error names or None, *overrides): settings that can't go together, or that nothing knows."""
    loss, gmpo, lora = f"{ACTOR}.loss_type", f"{ACTOR}.gmpo", f"{MODEL}.lora"
    kl = "algorithm.disable_kl=false"
    update = "micro_batch_size_per_device_for_update"
    yield "mini-batch", "global_batch_size", f"{ACTOR}.global_batch_size=5"
    yield "mini-batch above the batch", "global_batch_size", f"{ACTOR}.global_batch_size=32"
    yield "micro-batch", update, f"{ACTOR}.dynamic_batching=false", f"{ACTOR}.{update}=7"
    yield "sampled batch", "mini_rollout_batch_size", "data.mini_rollout_batch_size=5"
    yield "batch above the data", "rollout_batch_size", "data.rollout_batch_size=1000", f"{ACTOR}.global_batch_size=1000"
    for estimator in ("grpo", "dr_grpo", "rloo", "grpo_passk"):
        yield f"n=1 with {estimator}", f"{ROLLOUT}.n", f"{ROLLOUT}.n=1", f"algorithm.adv_estimator={estimator}"
    yield "n=1 with remax", None, f"{ROLLOUT}.n=1", "algorithm.adv_estimator=remax", f"{ACTOR}.{update}=4"
    for name, value in (
        ("n", "0"), ("n", "1.5"), ("n", "true"), ("n", "null"), ("n", "many"), ("n", "[1]"), ("temperature", ".nan"),
        ("temperature", ".inf"), ("temperature", "-1"), ("temperature", "hot"), ("temperature", "1e-30"), ("top_p", "0"),
        ("top_p", ".nan"), ("top_p", "1.1"), ("top_k", "0"), ("top_k", "1.5"), ("max_tokens", "0"), ("max_tokens", "-1"),
    ):  # fmt: skip
        yield f"validation {name}={value}", f"{VALIDATION}.{name}", f"{VALIDATION}.{name}={value}"
    yield "validation misspelt", f"{VALIDATION}.temprature", f"{VALIDATION}.temprature=0"
    yield "validation key 1", VALIDATION, f"{VALIDATION}={{1: 2}}"
    for key, value in (("clip_ratio_low", 0.2), ("clip_ratio_dual", 3), ("loss_avg_mode", "token"), ("tau_positive", 1)):
        yield f"gmpo with {key}", key, f"{ACTOR}.{key}={value}"
    for key, value in (("log_clip_low", 0.2), ("log_clip_high", 0.2), ("clip", "sequence"), ("normalize", "false")):
        yield f"grpo with gmpo.{key}", f"gmpo.{key}", f"{loss}=default", f"{gmpo}.{key}={value}"
    yield "no clipping and a bound", "log_clip_high", f"{gmpo}.clip=none", f"{gmpo}.log_clip_high=0.4"
    for key, value in (
        (f"{gmpo}.clip", "tokens"), (loss, "gmop"), (loss, "nowhere.py:f"), (loss, "''"), ("algorithm.kl_penalty", "k3"),
        ("algorithm.kl_type", "adaptiv"), ("algorithm.adv_estimator", "grp0"), ("algorithm.adv_estimator", "GRPO"),
        ("algorithm.adv_estimator", "gae"), ("engine", "lokal"), ("engine", "''"), ("trainer.device", "gpu"),
        ("trainer.device", "cuda:99"), ("trainer.device", "cuda:99999999999999999999"), ("trainer.device", "cuda:-1"),
        ("trainer.dtype", "float16"), (f"{ROLLOUT}.name", "sglang"), ("trainer.logger", "[consol]"),
        ("trainer.logger", "[wandb]"), ("ray_address", "auto"), (f"{ACTOR}.seq_mean", "easyr1"),
        (f"{OPTIM}.strategy", "adamw_bf16"), (f"{OPTIM}.strategy", "sgd"), (f"{OPTIM}.lr_scheduler_type", "linear"),
        (f"{ACTOR}.old_log_probs", "old"), (f"{ROLLOUT}.correction", "some"), (f"{ACTOR}.logits_dtype", "half"),
        ("trainer.resume", "allways"), (f"{OPTIM}.lr_warmup_steps", 1000), (f"{OPTIM}.lr", "6e5"),
        (f"{ROLLOUT}.temperature", "1e-30"), (f"{ROLLOUT}.seed", -1), ("trainer.max_try_make_batch", 0),
        ("trainer.max_try_make_batch", -5), ("trainer.save_limit", 0), (f"{lora}.target_modules", "lm_head"),
    ):  # fmt: skip
        more = (f"{lora}.rank=4",) if "lora" in key else ()
        yield f"{key}={value}", key.rpartition(".")[2], f"{key}={value}", *more
    yield "1 - low below 0", "clip_ratio_low", f"{loss}=default", f"{ACTOR}.clip_ratio_low=1.5"
    yield "dual below 1", "clip_ratio_dual", f"{loss}=default", f"{ACTOR}.clip_ratio_dual=0.5"
    yield "mean unknown", "loss_avg_mode", f"{loss}=default", f"{ACTOR}.loss_avg_mode=mean"
    yield "top_p in training", "top_p", f"{ROLLOUT}.top_p=0.9"
    yield "top_k in training", "top_k", f"{ROLLOUT}.top_k=50"
    yield "top_p corrected", None, f"{ROLLOUT}.top_p=0.9", f"{ROLLOUT}.correction=truncated"
    yield "floor of truncated", "correction_floor", f"{ROLLOUT}.correction=truncated", f"{ROLLOUT}.correction_floor=0.5"
    yield "floor above cap", "correction_floor", f"{ROLLOUT}.correction=masked", f"{ROLLOUT}.correction_floor=7"
    yield ("sampler's as old", "correction", f"{ROLLOUT}.top_p=0.9", f"{ROLLOUT}.correction=truncated",
           f"{ACTOR}.old_log_probs=sampler")  # fmt: skip
    yield "greedy training", "temperature", f"{ROLLOUT}.temperature=0"
    yield "KL in the loss", "drop_zero_advantage", kl, "algorithm.use_kl_loss=true"
    yield "KL in the reward", None, kl
    yield "entropy", "drop_zero_advantage", f"{ACTOR}.entropy_coef=0.01"
    yield "kl_penalty full", "kl_penalty", kl, "algorithm.kl_penalty=full"
    yield "std of dr_grpo", "norm_adv_by_std", "algorithm.adv_estimator=dr_grpo", "algorithm.norm_adv_by_std=true"
    yield "std of rloo", "norm_adv_by_std", "algorithm.adv_estimator=rloo", "algorithm.norm_adv_by_std=false"
    yield "gamma", "gamma", "algorithm.adv_estimator=reinforce_plus_plus", "algorithm.gamma=0.9"
    filtering = "algorithm.online_filtering=true"
    yield "filter exchanged", "filter_low", filtering, "algorithm.filter_low=0.9", "algorithm.filter_high=0.1"
    yield "pixels exchanged", "min_pixels", "data.min_pixels=100", "data.max_pixels=50"
    yield "two run directories", "run_dir", "trainer.run_dir=a", "trainer.save_checkpoint_path=b"
    yield "two resumes", "load_checkpoint_path", "trainer.resume=must", "trainer.load_checkpoint_path=."
    yield "must and not", "find_last_checkpoint", "trainer.resume=must", "trainer.find_last_checkpoint=false"
    yield "validation alone, and not", "val_only", "trainer.val_only=true", "trainer.val_before_train=false"
    yield "validation of nothing", "val_files", "trainer.val_only=true", "data.val_files=''"
    yield "no validation", None, "data.val_files=''", "trainer.val_freq=-1", "trainer.val_before_train=false"
    for value in ("''", "' '", "../../etc", "a/../../b", "/etc", "~/x", ".", "..", "a//b", "x" * 300, "é" * 150, '"a\\0b"'):
        for name in ("experiment_name", "project_name"):
            yield f"{name}={value[:20]}", name, f"trainer.{name}={value}"


def files(folder: Path) -> Iterator[Wrong]:
    """(name, what the error names, *overrides); what they lead to is made below `folder`."""
    wrong = _broken_files(folder / "files")
    for key in ("data.train_files", "data.val_files"):
        short = key.partition(".")[2]
        yield f"{key} is not there", short, f"{key}=nowhere/rows.parquet"
        yield f"{key} is no folder", short, f"{key}=./nowhere"
        for name in ("empty_folder", "notes.txt", "broken.parquet", "zero.parquet", "norows.parquet", "empty.jsonl",
                     "broken.jsonl", "numbers.jsonl", "latin.jsonl", "folder.parquet", "columns.jsonl", "deep.jsonl",
                     "noanswer.jsonl", "cut.parquet", "wrong_image.jsonl", "zero_path.jsonl"):  # fmt: skip
            yield f"{key}={name}", name, f"{key}={wrong}/{name}"
        for split in ("@test", "@train[x:y]", "@train[:0]", "@"):
            yield f"{key} {split}", "train.parquet", f"{key}={folder}/data/train.parquet{split}"
    for value in ("null", "''", "'  '", "[a]"):
        yield f"data.train_files={value}", "train_files", f"data.train_files={value}"
    for key in ("prompt_key", "answer_key", "image_key"):
        yield f"data.{key}", key, f"data.{key}=nobody"
    for key in ("format_prompt", "override_chat_template"):
        for name in ("nowhere.jinja", "folder", "broken.jinja", "nocontent.jinja", "zero.jinja", "latin.jinja", "raises.jinja"):
            yield f"data.{key}={name}", key.rpartition("_")[2], f"data.{key}={wrong}/{name}"
    for name in ("nowhere", "notes.txt"):
        yield f"data.image_dir={name}", "image_dir", f"data.image_dir={wrong}/{name}"
    for value in ("null", "''", "./nowhere", "bundled:qwen", "a/b/c", "'not a name!'", "~nobody/model", '"a\\0b"'):
        yield f"model {value}", "model_path", f"{MODEL}.model_path={value}"
    for name, word in (
        ("notes.txt", "model_path"), ("empty_folder", "config.json"), ("model_broken", "config.json"),
        ("model_noweights", "safetensors"), ("model_pickle", "safetensors"), ("model_cut", "safetensors"),
        ("model_zero", "safetensors"), ("model_list", "config.json"), ("model_deep", "config.json"),
        ("model_latin", "config.json"), ("model_tokenizer", "tokenizer"),
    ):  # fmt: skip
        yield f"model {name}", word, f"{MODEL}.model_path={wrong}/{name}"
    yield "tokenizer", "tokenizer_path", f"{MODEL}.tokenizer_path=./nowhere"
    for value in ("null", "nowhere.py:compute_score", f"{wrong}/syntax.py:compute_score", f"{wrong}/reward.py:nope",
                  f"{wrong}/reward.py", f"{wrong}/folder:compute_score", f"{wrong}/reward.py:CONSTANT",
                  f"{wrong}/latin.py:compute_score", f"{wrong}/zero_byte.py:compute_score", f"{wrong}/exits.py:compute_score",
                  f"{wrong}/raises.py:compute_score", f"{wrong}/returns.py:compute_score"):  # fmt: skip
        yield f"reward {Path(value).name}", "reward", f"{REWARD}={value}"
    for text, word in (("nonsense=1", "nonsense"), ("format_weight=7", "format_weight"), ("timeout=soon", "timeout"),
                       ("format=xml", "format"), ("format_weight=[1]", "format_weight")):  # fmt: skip
        yield f"reward kwargs {text}", word, f"{KWARGS}.{text}"
    for value in (f"{wrong}/notes.txt", f"{wrong}/notes.txt/run", "/proc/run", '"a\\0b"', f"{wrong}/{'r' * 300}",
                  f"{wrong}/foreign", f"{wrong}/other_run", f"{wrong}/circle", "/dev/null/run"):  # fmt: skip
        yield f"run_dir {value[-20:]}", "run_dir", f"trainer.run_dir={value}"
    new = f"trainer.run_dir={folder}/new_run"
    for value in (f"{wrong}/empty_folder", "must", f"{wrong}/notes.txt", f"{wrong}/nowhere"):
        yield f"resume {Path(value).name}", "resume", f"trainer.resume={value}", new
    for name in ("syntax.py:plain", "reward.py:plain", "raises.py:plain", "latin.py:plain"):
        yield f"loss {name}", "loss_type", f"{ACTOR}.loss_type={wrong}/{name}"


def overrides() -> Iterator[Wrong]:
    """(name, what the error names, override): what is no override."""
    key = f"{ROLLOUT}.n"
    for text in (key, f"{key}:8", f"{key}=", f"{key}=[1", f"--{key}=8", f"+{key}=8", f"~{key}=8", f"{key}==8",
                 f"{key}=8 9", f" {key}x=8", f"{key}.=8", f"{key}.x=8", f".{key}=8", f"{key}=1:30"):  # fmt: skip
        yield f"override {text}", key, text
    for text, word in (("=8", "=8"), ("worker.rolout.n=8", "worker.rolout.n"), ("worker.rollout=8", "worker.rollout"),
                       ("worker[rollout].m=8", "worker[rollout].m"), ("", "''"), ("=", "="), ("\0=1", ANY),
                       ("trainer.experiment_nam=" + "x" * 100_000, "experiment_nam"),
                       ("data=" + "[" * 100_000, "data"), ("data..seed=1", "data"), ("worker=null", "worker"),
                       ("engine=!!python/name:os.system", "engine"), ("engine=${oops", "engine"),
                       ("trainer.max_steps=${oc.env:GMPO_NOT_SET}", "GMPO_NOT_SET")):  # fmt: skip
        yield f"override {text[:40]}", word, text


def _broken_files(folder: Path) -> Path:
    if folder.exists():  # made for another list of cases
        return folder
    for name in ("folder", "empty_folder", "folder.parquet", "foreign", "other_run"):
        (folder / name).mkdir(parents=True)
    latin = "caf\xe9".encode("latin-1")
    rows = [json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n"] * 20
    contents: dict[str, str | bytes] = {
        "notes.txt": "hello", "broken.parquet": "this is no parquet", "zero.parquet": "", "empty.jsonl": "",
        "broken.jsonl": '{"problem": "1+1", "answer": "2"}\n{"problem": \n', "numbers.jsonl": "1\n2\n3\n",
        "latin.jsonl": b'{"problem": "' + latin + b'", "answer": "2"}\n', "deep.jsonl": "[" * 100_000 + "\n",
        "columns.jsonl": '{"question": "1+1", "solution": "2"}\n' * 20,
        "noanswer.jsonl": "".join([*rows, '{"problem": "1 + 1?", "answer": null}\n']),
        "wrong_image.jsonl": '{"problem": "<image>1 + 1?", "answer": "2", "images": ["nowhere.png"]}\n' * 20,
        "zero_path.jsonl": '{"problem": "<image>1 + 1?", "answer": "2", "images": ["a\\u0000b.png"]}\n' * 20,
        "broken.jinja": "{{ content ", "nocontent.jinja": "hello", "zero.jinja": "", "latin.jinja": b"{{ content }}" + latin,
        "raises.jinja": "{{ content }}{{ 1 // 0 }}", "syntax.py": "def compute_score(:\n",
        "latin.py": b"# " + latin + b"\ndef compute_score(rows): pass\n", "zero_byte.py": b"x = 1\0\n",
        "reward.py": "CONSTANT = 3\ndef compute_score(rows):\n    return [{'overall': 0.0} for _ in rows]\n",
        "exits.py": "import sys\nsys.exit(3)\ndef compute_score(rows):\n    return []\n",
        "raises.py": "raise KeyError('x')\ndef compute_score(rows):\n    return []\ndef plain(): pass\n",
        "returns.py": "def compute_score(rows):\n    return {'overall': 'high'}\n",
        "foreign/config.yaml": "a: 1\n", "other_run/run.json": '{"state": "finished", "begun": true, "step": 3}',
        "other_run/config.yaml": "trainer: {max_steps: 3}\n",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    names = pa.array([], pa.string())
    pq.write_table(pa.table({"problem": names, "answer": names}), folder / "norows.parquet")
    whole = (folder.parent / "data/train.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[:-50])
    (folder / "circle").symlink_to(folder / "circle")
    for kind in ("broken", "list", "deep", "latin", "noweights", "pickle", "cut", "zero", "tokenizer"):
        _broken_model(folder / f"model_{kind}", kind)
    return folder


def _broken_model(model: Path, kind: str) -> None:
    shutil.copytree(BUNDLED_MODELS / "qwen2_5_vl_tiny", model)
    config = {"broken": b"{", "list": b"[1]", "deep": b"[" * 100_000, "latin": b'{"model_type": "caf\xe9"}'}
    weights = next(model.glob("*.safetensors"))
    if kind in config:
        (model / "config.json").write_bytes(config[kind])
    elif kind == "tokenizer":
        (model / "tokenizer.json").write_text('{"model": 3}')
    elif kind == "cut":
        os.truncate(weights, weights.stat().st_size - 3)
    elif kind == "zero":
        os.truncate(weights, 0)
    else:
        weights.unlink()
        if kind == "pickle":
            (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
