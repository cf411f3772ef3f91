# SPDX-License-Identifier: BSD-3-Clause
"""The methods: a file each."""

from unlearnkit.methods._trainer import Trainer
from unlearnkit.methods.ascent import GradientAscent, NegGradPlus
from unlearnkit.methods.assd import ASSD
from unlearnkit.methods.bad_teacher import BadTeacher
from unlearnkit.methods.boundary import BoundaryExpanding, BoundaryShrink
from unlearnkit.methods.find import find_forget_set
from unlearnkit.methods.finetune import FineTune, L1Sparse
from unlearnkit.methods.fisher_reset import FisherReset
from unlearnkit.methods.influence import InfluenceUnlearning
from unlearnkit.methods.jit import JiT
from unlearnkit.methods.prune import Prune
from unlearnkit.methods.random_label import RandomLabel, SalUn
from unlearnkit.methods.reset import DEL, ResetFinetune
from unlearnkit.methods.retrain import Retrain
from unlearnkit.methods.rlap import RLAP
from unlearnkit.methods.salun_soft import SalUnSoft
from unlearnkit.methods.scrub import SCRUB
from unlearnkit.methods.ssd import LFSSD, SSD
from unlearnkit.methods.warm_up import WarmUpFinder

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
    "FineTune",
    "FisherReset",
    "GradientAscent",
    "InfluenceUnlearning",
    "JiT",
    "L1Sparse",
    "NegGradPlus",
    "Prune",
    "RandomLabel",
    "ResetFinetune",
    "Retrain",
    "SalUn",
    "SalUnSoft",
    "Trainer",
    "WarmUpFinder",
    "find_forget_set",
]
