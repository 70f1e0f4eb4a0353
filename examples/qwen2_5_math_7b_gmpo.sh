#!/usr/bin/env bash
# GMPO with Qwen2.5-Math-7B on MATH levels 3 to 5 on one node of 8 GPUs, through an installed EasyR1: Table 1, line 4 of the paper.
# The data first (docs/guides/paper_runs.md):
#   gmpo-mm data eval_suite hub --out data/eval_suite
#   gmpo-mm data math hub --math500 data/eval_suite/math500.parquet
set -euo pipefail
cd "$(dirname "$0")/.."
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-Math-7B}

python -m gmpo_mm.engines.easyr1 \
    config=configs/language/table1_line4_gmpo_qwen2_5_math_7b.yaml \
    worker.actor.model.model_path="${MODEL_PATH}" \
    worker.actor.offload.offload_params=true \
    worker.actor.offload.offload_optimizer=true \
    trainer.n_gpus_per_node=8 \
    "$@"
