"""verl on CPUs, for tests and small experiments: asked for with `trainer.device=cpu`, never taken by default.

`platform` is loaded into every process of such a run before verl settles its platform; `plugin` puts FSDP2 on gloo and a
sampler of transformers in the place of vLLM. What of verl it touches beside its registries is listed in `plugin.TOUCHED`.
"""
