# SPDX-License-Identifier: BSD-3-Clause
"""Forgetting in generators: diffusion models that should no longer make what they were trained on."""

from unlearnkit.diffusion.evaluation import GeneratorEvaluation, evaluate_generator
from unlearnkit.diffusion.grid import sample_grid
from unlearnkit.diffusion.loss import DiffusionLoss
from unlearnkit.diffusion.metrics import class_share, features_of, frechet_distance
from unlearnkit.diffusion.prompts import PromptedSamples, concept, prompt_embeddings, prompted
from unlearnkit.diffusion.published import published_salun
from unlearnkit.diffusion.sampling import generate

__all__ = [
    "DiffusionLoss",
    "GeneratorEvaluation",
    "PromptedSamples",
    "class_share",
    "concept",
    "evaluate_generator",
    "features_of",
    "frechet_distance",
    "generate",
    "prompt_embeddings",
    "prompted",
    "published_salun",
    "sample_grid",
]
