# SPDX-License-Identifier: BSD-3-Clause
"""BatchNorm where it is not what it seems: among other norms, of one transposed image, of a weight."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.gradients import SquareSums
from unlearnkit.gradients._straight import StraightBatchNorm


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def random_weights(layer):
    """Weights that are not one (one of them is zero), and statistics that have moved."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
        parameter.data.flatten()[0] = 0
    if getattr(layer, "running_mean", None) is not None:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


def test_all_norms_in_one_network(check):
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), random_weights(nn.BatchNorm2d(6)), nn.ReLU(inplace=True)),
        random_weights(nn.GroupNorm(2, 6)),
        random_weights(nn.InstanceNorm2d(6, affine=True)),
        *(nn.LocalResponseNorm(2), nn.Flatten()),
        random_weights(nn.BatchNorm1d(24)),
        random_weights(nn.SyncBatchNorm(24)),
        random_weights(nn.RMSNorm(24)),  # eps: that of the dtype
        *(nn.Linear(24, 6), random_weights(nn.LayerNorm(6)), nn.Linear(6, 4)),
    )
    check(net, (torch.randn(3, 3, 4, 4), torch.tensor([0, 1, 2])))


def test_a_bias_before_a_norm_layer_has_no_gradient(check):
    for dtype in (torch.float64, torch.float32):
        net = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
        check(net, (torch.randn(4, 5), torch.tensor([0, 1, 2, 0])), dtype=dtype)


class Tokens(nn.Module):
    """The stem of a hybrid network: an image becomes tokens right after its norm."""

    def __init__(self, inplace):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), random_weights(nn.BatchNorm2d(6))
        self.relu, self.head = nn.ReLU(inplace=inplace), nn.Linear(6, 4)

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)  # [N, T, C]
        return self.head(h * torch.linspace(0, 1, h.shape[1], dtype=x.dtype)[:, None]).mean(1)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_batch_of_one_transposed_image(inplace):
    # torch 2.13 reads the gradient of such an output in the wrong order, if the batch is of one: here in a
    # batch of its own twice, the sample has its true gradient
    net = Tokens(inplace).double().eval()
    x, y = torch.randn(3, 3, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2])
    true = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for index in range(3):
        twice = torch.tensor([index, index])
        found = torch.autograd.grad(loss(net, (x[twice], y[twice]))[0], list(net.parameters()))
        for total, gradient in zip(true.values(), found, strict=True):
            total += gradient**2
    together, apart = SquareSums(net, loss), SquareSums(net, loss)
    of_three, of_ones = together.zeros(), apart.zeros()
    together.add((x, y), of_three)
    for index in range(3):
        apart.add((x[index : index + 1], y[index : index + 1]), of_ones)
    assert not together.fallback
    assert not apart.fallback
    for name, value in true.items():
        assert torch.allclose(of_three[name], value, rtol=1e-9, atol=1e-20), name
        assert torch.allclose(of_ones[name], value, rtol=1e-9, atol=1e-20), name


def test_inside_the_mode_a_plain_backward_pass_is_right():
    norm = random_weights(nn.BatchNorm2d(6)).double().eval()
    x = torch.randn(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 4, 6, dtype=torch.float64)
    with StraightBatchNorm():
        total = (norm(x).flatten(2).transpose(1, 2) * weights).sum()
    total.backward()
    assert torch.allclose(norm.bias.grad, weights.sum((0, 1)))


def test_weights_are_standardised_not_samples(check, model):
    # as timm does: the batch norm of a weight, in train mode
    def forward(self, x):
        flat = self.conv.weight.reshape(1, len(self.conv.weight), -1)
        weight = F.batch_norm(flat, None, None, weight=(self.gain * 0.3).view(-1), training=True)
        return self.head(F.conv2d(x, weight.reshape_as(self.conv.weight), self.conv.bias).mean((2, 3)))

    parts = {"conv": nn.Conv2d(3, 6, 3), "head": nn.Linear(6, 4)}
    net = model(forward, gain=nn.Parameter(torch.rand(6, 1, 1, 1)), **parts)
    check(net, (torch.randn(3, 3, 5, 5), torch.tensor([0, 1, 2])))
