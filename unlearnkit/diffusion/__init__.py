# SPDX-License-Identifier: BSD-3-Clause
"""Forgetting in generators: diffusion models that should no longer make what they were trained on."""

from unlearnkit.diffusion.loss import DiffusionLoss
from unlearnkit.diffusion.prompts import PromptedSamples, concept, prompt_embeddings, prompted

__all__ = ["DiffusionLoss", "PromptedSamples", "concept", "prompt_embeddings", "prompted"]
