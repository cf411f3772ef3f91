# SPDX-License-Identifier: BSD-3-Clause
"""Make a trained PyTorch model forget.

>>> from unlearnkit import ASSD
>>> # assd = ASSD().fit(model, forget_loader)
>>> # clean = assd.transform(model)
"""

from unlearnkit import metrics
from unlearnkit.config import show_config
from unlearnkit.data import Partition, next_token_loss
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import (
    CollapseWarning,
    DataError,
    DriftError,
    DriftWarning,
    EditMismatchError,
    FallbackWarning,
    IneffectiveWarning,
    NondeterminismWarning,
    SeparationWarning,
    UnlearnError,
    UnlearnWarning,
    UnsupportedModuleError,
)
from unlearnkit.finding import LabelIssues, MixtureFinder
from unlearnkit.importance import (
    CritMem,
    FisherDiagonal,
    FisherRatio,
    GradCAM,
    GradientActivation,
    GradientSaliency,
    Importance,
    LayerDepth,
    LogitNorm,
    RandomScore,
    Sensitivity,
    WeightedSaliency,
)
from unlearnkit.log import ForgetLog
from unlearnkit.methods import (
    ASSD,
    DEL,
    LFSSD,
    RLAP,
    SCRUB,
    SSD,
    BadTeacher,
    BoundaryExpanding,
    BoundaryShrink,
    FineTune,
    FisherReset,
    GradientAscent,
    InfluenceUnlearning,
    JiT,
    L1Sparse,
    NegGradPlus,
    Prune,
    RandomLabel,
    ResetFinetune,
    Retrain,
    SalUn,
    SalUnSoft,
    Trainer,
    WarmUpFinder,
    find_forget_set,
)
from unlearnkit.oracles import OracleBank
from unlearnkit.search import UnlearnSearch
from unlearnkit.selection import ParameterMask, select
from unlearnkit.structure import compact

__version__ = "0.1.0"

__all__ = [
    "ASSD",
    "DEL",
    "LFSSD",
    "RLAP",
    "SCRUB",
    "SSD",
    "BadTeacher",
    "BoundaryExpanding",
    "BoundaryShrink",
    "CollapseWarning",
    "CritMem",
    "DataError",
    "DriftError",
    "DriftWarning",
    "EditMismatchError",
    "FallbackWarning",
    "FineTune",
    "FisherDiagonal",
    "FisherRatio",
    "FisherReset",
    "ForgetLog",
    "GradCAM",
    "GradientActivation",
    "GradientAscent",
    "GradientSaliency",
    "Importance",
    "IneffectiveWarning",
    "InfluenceUnlearning",
    "JiT",
    "L1Sparse",
    "LabelIssues",
    "LayerDepth",
    "LogitNorm",
    "MixtureFinder",
    "NegGradPlus",
    "NondeterminismWarning",
    "OracleBank",
    "ParameterMask",
    "Partition",
    "Prune",
    "RandomLabel",
    "RandomScore",
    "ResetFinetune",
    "Retrain",
    "SalUn",
    "SalUnSoft",
    "Sensitivity",
    "SeparationWarning",
    "Trainer",
    "UnlearnError",
    "UnlearnSearch",
    "UnlearnWarning",
    "UnsupportedModuleError",
    "WarmUpFinder",
    "WeightEdit",
    "WeightedSaliency",
    "compact",
    "find_forget_set",
    "metrics",
    "next_token_loss",
    "select",
    "show_config",
]
