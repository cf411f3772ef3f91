# SPDX-License-Identifier: BSD-3-Clause
"""What a model and its surroundings are like, in words that can be compared afterwards."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearnkit.parameters import digest

State = dict[str, Any]


def model_state(model: nn.Module) -> State:
    """Return all of a model that must survive ``fit``: values, identities, flags, hooks."""
    state: State = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = path or "the model"
        state[f"the identity of module {where}"] = id(module)
        state[f"the training flag of {where}"] = module.training
        state[f"the attributes of {where}"] = sorted(vars(module))
        state |= _hooks(where, vars(module))
        for name, parameter in module._parameters.items():
            state |= _tensor(f"{path}.{name}".strip("."), parameter)
        for name, buffer in module._buffers.items():
            state |= _tensor(f"{path}.{name}".strip("."), buffer)
    return state


def _tensor(name: str, tensor: Tensor | None) -> State:
    if tensor is None:
        return {f"the absence of {name}": None}
    gradient = tensor.grad if tensor.is_leaf else None
    return {
        f"the identity of {name}": (id(tensor), tensor.data_ptr(), tensor.dtype, tensor.stride()),
        f"the values of {name}": digest(tensor),
        f"requires_grad of {name}": tensor.requires_grad,
        f"the .grad object of {name}": id(gradient),
        f"the values of {name}.grad": None if gradient is None else digest(gradient),
        f"the attributes of {name}": sorted(vars(tensor)),
        f"the hooks of {name}": [
            list(getattr(tensor, hooks, None) or ())
            for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks")
        ],
    }


def _hooks(where: str, attributes: State) -> State:
    return {
        f"{name.strip('_').replace('_', ' ')} of {where}": [(key, id(hook)) for key, hook in hooks.items()]
        for name, hooks in attributes.items()
        if name.endswith("_hooks") and isinstance(hooks, dict)
    }


def random_state() -> State:
    """Return the state of the caller's random number generators."""
    numpy: Any = np.random.get_state()
    kind, keys, *rest = numpy
    state = {
        "Python's random state": random.getstate(),
        "NumPy's random state": (kind, keys.tolist(), *rest),
        "torch's random state": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["CUDA's random state"] = [one.tolist() for one in torch.cuda.get_rng_state_all()]
    return state


def surroundings() -> State:
    """Return what is set for the whole process or thread."""
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "the number of threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN's flags": [
            getattr(torch.backends.cudnn, flag)
            for flag in ("enabled", "benchmark", "deterministic", "allow_tf32")
        ],
        "NumPy's error handling": np.geterr(),
        "the warning filters": list(warnings.filters),
        "the environment variables": dict(os.environ),
    }


def difference(before: State, after: State) -> str | None:
    """Name the first thing that is no longer as it was; None where all is."""
    for what in {**before, **after}:
        if what not in before:
            return f"{what} (new)"
        if what not in after or before[what] != after[what]:
            return what
    return None
