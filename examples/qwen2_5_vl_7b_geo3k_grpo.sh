#!/usr/bin/env bash
# GRPO on Geometry3K with Qwen2.5-VL-7B-Instruct on one node of 8 GPUs, through an installed EasyR1:
# the baseline of the paper's multimodal run, beside qwen2_5_vl_7b_geo3k_gmpo.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct}

python -m gmpo_mm.engines.easyr1 \
    config=configs/geometry3k/grpo_qwen2_5_vl_7b.yaml \
    worker.actor.model.model_path="${MODEL_PATH}" \
    worker.actor.offload.offload_params=true \
    worker.actor.offload.offload_optimizer=true \
    trainer.n_gpus_per_node=8 \
    trainer.experiment_name=qwen2_5_vl_7b_geo3k_grpo \
    "$@"
