#!/usr/bin/env bash
# GMPO on Geometry3K with Qwen2.5-VL-7B-Instruct on one node of 8 GPUs, through an installed EasyR1: the paper's multimodal run.
# A script of EasyR1's own becomes one of these by its module's name and worker.actor.loss_type=gmpo.
set -euo pipefail
cd "$(dirname "$0")/.."
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct}

python -m gmpo_mm.engines.easyr1 \
    config=configs/geometry3k/gmpo_qwen2_5_vl_7b.yaml \
    worker.actor.model.model_path="${MODEL_PATH}" \
    worker.actor.offload.offload_params=true \
    worker.actor.offload.offload_optimizer=true \
    trainer.n_gpus_per_node=8 \
    trainer.experiment_name=qwen2_5_vl_7b_geo3k_gmpo \
    "$@"
