# SPDX-License-Identifier: BSD-3-Clause
"""Image networks in the style of those in use: all weights must take the fast way, and be exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

N, K = 5, 4  # samples, classes


def images(size=8, channels=3):
    return [(torch.randn(n, channels, size, size), torch.randint(0, K, (n,))) for n in (N, 2)]


class Net(nn.Module):
    """Parts and weights, and a function that uses them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, tuple):
                part = nn.Parameter(torch.randn(part) * 0.5)
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs):
        return self._forward(self, *inputs)


ZOO = {}


def zoo(build):
    """Enter a function that returns a model and its batches, and perhaps a loss."""
    ZOO[build.__name__] = build
    return build


@zoo
def resnet_bottleneck():
    def forward(self, x):
        h = self.stem(x)
        h = F.relu(self.body(h) + self.short(h), inplace=True)
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))

    body = nn.Sequential(
        *(nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(2, 2, 3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(2, 8, 1, bias=False), nn.BatchNorm2d(8)),
    )
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2))
    return Net(forward, stem=stem, body=body, short=nn.Conv2d(4, 8, 1, 2), head=nn.Linear(8, K)), images()


@zoo
def densenet_and_inception():
    def forward(self, x):
        for layer in self.dense:
            x = torch.cat([x, layer(x).relu()], 1)
        x = torch.cat([self.wide(x), self.narrow(F.avg_pool2d(x, 3, 1, 1))], 1)
        return self.head(x.amax((2, 3)))

    dense = nn.ModuleList(nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3))
    wide, narrow = nn.Conv2d(9, 2, (1, 5), padding=(0, 2)), nn.Conv2d(9, 3, 1)
    return Net(forward, dense=dense, wide=wide, narrow=narrow, head=nn.Linear(5, K)), images()


@zoo
def mobilenet_with_squeeze_and_excitation():
    def forward(self, x):
        h = F.hardswish(self.norm(self.depth(self.up(x))), inplace=True)
        gate = F.hardsigmoid(self.expand(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((x + self.down(h * gate)).mean((2, 3)))

    parts = {
        "up": nn.Conv2d(3, 6, 1),
        "depth": nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False),
        "norm": nn.BatchNorm2d(6),
        "squeeze": nn.Conv2d(6, 2, 1),
        "expand": nn.Conv2d(2, 6, 1),
        "down": nn.Conv2d(6, 3, 1),
    }
    return Net(forward, head=nn.Linear(3, K), **parts), images()


@zoo
def convnext():
    def forward(self, x):
        h = self.norm(self.depth(x).permute(0, 2, 3, 1))
        h = self.down(F.gelu(self.up(h))) * self.scale
        return self.head((x + h.permute(0, 3, 1, 2)).mean((2, 3)))

    depth = nn.Conv2d(3, 3, 7, padding=3, groups=3)
    linear = {"up": nn.Linear(3, 12), "down": nn.Linear(12, 3), "head": nn.Linear(3, K)}
    return Net(forward, depth=depth, norm=nn.LayerNorm(3), scale=(3,), **linear), images()


@zoo
def unet():
    def forward(self, x):
        high = F.silu(self.enter(x))
        low = F.silu(self.norm(self.down(high)))
        return self.leave(torch.cat([high, self.up(low)], 1))

    parts = {
        "enter": nn.Conv2d(3, 4, 3, padding=1),
        "down": nn.Conv2d(4, 6, 3, 2, 1),
        "norm": nn.GroupNorm(2, 6),
        "up": nn.ConvTranspose2d(6, 4, 2, 2),
        "leave": nn.Conv2d(8, K, 1),
    }
    return Net(forward, **parts), [(torch.randn(n, 3, 8, 8), torch.randint(0, K, (n, 8, 8))) for n in (N, 2)]


@zoo
def diffusion_with_a_time_embedding():
    def forward(self, x, time):
        angle = time[:, None] * torch.logspace(0, -2, 4, dtype=x.dtype)
        code = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        return self.leave(F.silu(self.enter(x) + code[:, :, None, None]))

    def loss(model, batch):
        return (model(*batch[:2]) - batch[2]).square().mean((1, 2, 3))

    parts = {"enter": nn.Conv2d(3, 4, 3, padding=1), "leave": nn.Conv2d(4, 3, 3, padding=1)}
    time = nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 4))
    batches = [(torch.randn(n, 3, 6, 6), torch.rand(n), torch.randn(n, 3, 6, 6)) for n in (N, 2)]
    return Net(forward, time=time, **parts), batches, loss


@zoo
def super_resolution():
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(4)),
        *(nn.Upsample(scale_factor=0.5, mode="bilinear"), nn.Conv2d(4, K, 1)),
    )
    return net, [(torch.randn(N, 3, 6, 6), torch.randint(0, K, (N, 6, 6)))]


@zoo
def weight_standardised_and_spectrally_normalised():
    def forward(self, x):
        variance, mean = torch.var_mean(self.conv.weight, (1, 2, 3), keepdim=True)
        weight = (self.conv.weight - mean) / (variance + 1e-5).sqrt() * self.gain
        return self.head(self.second(F.conv2d(x, weight, self.conv.bias).relu()).mean((2, 3)))

    second = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))
    return Net(
        forward, conv=nn.Conv2d(3, 4, 3), gain=(4, 1, 1, 1), second=second, head=nn.Linear(4, K)
    ), images()


@zoo
def film():
    def forward(self, x, code):
        scale, shift = self.code(code)[:, :, None, None].chunk(2, 1)
        return self.head((self.conv(x) * scale + shift).relu().mean((2, 3)))

    batches = [(x, torch.randn(len(x), 3), y) for x, y in images()]
    return Net(forward, conv=nn.Conv2d(3, 4, 3), code=nn.Linear(3, 8), head=nn.Linear(4, K)), batches


@zoo
def generalised_mean_pooling():
    def forward(self, x):
        power = self.power.exp()
        pooled = F.avg_pool2d(self.conv(x).clamp(min=1e-3).pow(power), 6).pow(1 / power)
        return self.head(pooled.flatten(1)) * self.temperature.exp()

    return Net(forward, conv=nn.Conv2d(3, 4, 3), power=(1,), temperature=(), head=nn.Linear(4, K)), images()


@zoo
def crops_of_an_image():
    def forward(self, x):
        crops = torch.cat([x, x.flip(3), x.transpose(2, 3)])  # [3 N, ...]
        return self.head(self.conv(crops).relu().mean((2, 3))).view(3, len(x), -1).mean(0)

    return Net(forward, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, K)), images()


@zoo
def frames_of_a_clip():
    def forward(self, x):  # [N, frames, C, H, W]
        frames = self.conv(x.flatten(0, 1)).relu().mean((2, 3)).view(*x.shape[:2], -1)
        state = torch.tanh(self.enter(frames[:, 0]) + self.start)
        for step in range(1, frames.shape[1]):
            state = torch.tanh(self.enter(frames[:, step]) + self.turn(state))
        return self.head(state)

    linear = {"enter": nn.Linear(4, 5), "turn": nn.Linear(5, 5), "head": nn.Linear(5, K)}
    batches = [(torch.randn(n, 3, 3, 5, 5), torch.randint(0, K, (n,))) for n in (N, 2)]
    return Net(forward, conv=nn.Conv2d(3, 4, 3), start=(5,), **linear), batches


@pytest.mark.parametrize("name", ZOO)
def test_all_weights_take_the_fast_way(check, name):
    net, batches, *loss = ZOO[name]()
    for parameter in net.parameters():
        if parameter.dim() < 2:  # norms begin as ones, biases as zeros
            nn.init.uniform_(parameter, 0.2, 0.8)
    check(net, *batches, **({"loss": loss[0]} if loss else {}))
