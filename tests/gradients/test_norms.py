# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from unlearnkit.data import cross_entropy
from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients import SquareSums

pytestmark = pytest.mark.usefixtures("backend")

drawn = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Normed(nn.Module):
    """A norm layer between two others, so that its weights and its input matter."""

    def __init__(self, norm, shape):
        super().__init__()
        self.norm, self.mix = norm, nn.Parameter(torch.rand(shape) + 0.5)
        self.head = nn.Linear(torch.Size(shape).numel(), 4)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(x * self.mix)).flatten(1))


def random_weights(norm):
    """Weights that are not one, and one of them zero: nothing may be divided by it."""
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    if getattr(norm, "weight", None) is not None:
        norm.weight.data.flatten()[0] = 0
    for name, buffer in norm.named_buffers():
        if "mean" in name:
            nn.init.normal_(buffer)
        elif "var" in name:
            nn.init.uniform_(buffer, 0.5, 2)
    return norm


def data(n, shape):
    return torch.randn(n, *shape), torch.randint(4, (n,))


@drawn
@given(n=st.integers(1, 4), shape=st.lists(st.integers(2, 4), min_size=1, max_size=3), k=st.data())
def test_layer_norm(agrees, n, shape, k):
    kept = shape[-k.draw(st.integers(1, len(shape))) :]
    norm = nn.LayerNorm(kept, bias=k.draw(st.booleans()))
    agrees(Normed(random_weights(norm), shape), data(n, shape))


@drawn
@given(
    n=st.integers(1, 4),
    shape=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    eps=st.sampled_from([None, 1e-3]),
)
def test_rms_norm(agrees, n, shape, eps):
    # without eps it is the dtype's own: a float64 truth of a float32 model has another
    dtypes = (torch.float64,) if eps is None else (torch.float64, torch.float32)
    model = Normed(random_weights(nn.RMSNorm(shape[-1:], eps=eps)), shape)
    agrees(model, data(n, shape), dtypes=dtypes)


@drawn
@given(n=st.integers(1, 4), groups=st.integers(1, 3), space=st.lists(st.integers(2, 3), max_size=3))
def test_group_norm(agrees, n, groups, space):
    shape = [2 * groups, *space]
    agrees(Normed(random_weights(nn.GroupNorm(groups, 2 * groups)), shape), data(n, shape))


@drawn
@given(n=st.integers(1, 4), space=st.lists(st.integers(2, 3), min_size=1, max_size=3), t=st.booleans())
def test_instance_norm(agrees, n, space, t):
    norm = INSTANCE[len(space)](3, affine=True, track_running_stats=t)
    agrees(Normed(random_weights(norm), [3, *space]), data(n, [3, *space]))


@drawn
@given(n=st.integers(1, 4), space=st.lists(st.integers(1, 3), max_size=3))
def test_batch_norm_in_eval_mode(agrees, n, space):
    norm = random_weights(BATCH[max(len(space), 1)](3))
    agrees(Normed(norm, [3, *space]), data(n, [3, *space]))


def test_batch_norm_in_train_mode_is_refused():
    model = Normed(nn.BatchNorm2d(3), (3, 2, 2)).train()
    engine = SquareSums(model, cross_entropy)
    with pytest.raises(UnsupportedModuleError, match=r"mixes.*samples.*model.eval\(\)"):
        engine.add(data(4, (3, 2, 2)), engine.zeros())


def test_batch_norm_without_running_statistics_is_refused_by_name():
    model = Normed(nn.BatchNorm2d(3, track_running_stats=False), (3, 2, 2)).eval()
    with pytest.raises(UnsupportedModuleError, match="norm is a BatchNorm without running stat"):
        SquareSums(model, cross_entropy)
