"""What the model has while it samples for a step, and that it comes back whole."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gmpo_mm.config import load_config
from gmpo_mm.models.adapters import target_modules
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.rounding import ROUNDINGS
from gmpo_mm.training.off_policy import OffPolicySampling
