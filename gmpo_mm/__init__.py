"""GMPO and GRPO reinforcement learning of vision-language and language models, on top of EasyR1's configuration."""

__version__ = "0.1.0"
