"""Keys of the schema that EasyR1 does not read, with the reason."""

from __future__ import annotations

EASYR1 = "engine easyr1: "
UNREAD = {
    "trainer.device": EASYR1 + "workers go to the GPUs of the Ray cluster",
    "trainer.dtype": EASYR1 + "worker.actor.fsdp.torch_dtype and mp_* set the precision",
    "trainer.threads": EASYR1 + "Ray gives each worker its cores",
    "worker.actor.logits_dtype": EASYR1 + "its own head, in worker.actor.fsdp.mp_param_dtype",
    "algorithm.drop_zero_advantage": EASYR1 + "every rank passes all of its rows; the gradient is the same",
    "worker.rollout.max_log_prob_gap": EASYR1 + "a gap is measured with worker.rollout.correction only, and ends no run",
}
"""Key -> why nothing reads it."""
WITHOUT_CRITIC = dict.fromkeys(
    ("worker.critic.", "trainer.critic_warmup"), EASYR1 + "only adv_estimator=gae trains a critic"
)
"""The same, but for adv_estimator=gae."""
