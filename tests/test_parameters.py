# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import struct

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.parameters import (
    bits,
    copy_of,
    digest,
    named_buffers,
    named_modules,
    named_parameters,
    named_tensors,
    unwrap,
)


class Tied(nn.Module):
    """A tied head, a submodule that is called `module`, buffers of both kinds, a frozen part."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.again = self.module[0]
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("alias", self.kept)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("unset", None)
        self.module[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.module(self.embed(x)))


PARAMETERS = [
    "embed.weight",
    "module.0.weight",
    "module.0.bias",
    "module.1.weight",
    "module.1.bias",
]
STATISTICS = ["module.1.running_mean", "module.1.running_var", "module.1.num_batches_tracked"]


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.fixture
def process_group(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPINGS = {
    "plain": lambda m: m,
    "parallel": nn.DataParallel,
    "compiled": compiled,
    "compiled parallel": lambda m: compiled(nn.DataParallel(m)),
    "parallel compiled": lambda m: nn.DataParallel(compiled(m)),
    "twice": lambda m: nn.DataParallel(compiled(nn.DataParallel(m))),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_names_do_not_depend_on_wrappers(wrap):
    model = Tied()
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    assert list(named_parameters(wrapped)) == PARAMETERS
    assert list(named_buffers(wrapped)) == ["kept", "scratch", *STATISTICS]
    assert list(named_tensors(wrapped)) == [*PARAMETERS, "kept", *STATISTICS]
    assert named_modules(wrapped) == dict(model.named_modules())
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(tensor is own[name] for name, tensor in named_tensors(wrapped).items())


def test_names_of_a_distributed_model(process_group):
    model = Tied()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert unwrap(compiled(wrapped)) is model
    assert list(named_parameters(wrapped)) == PARAMETERS
    twin = copy_of(wrapped)
    assert type(twin) is type(wrapped)
    assert unwrap(twin) is not model


def test_names_agree_with_pytorch_on_a_plain_model():
    model = Tied()
    assert list(named_parameters(model)) == [name for name, _ in model.named_parameters()]
    assert list(named_buffers(model)) == [name for name, _ in model.named_buffers()]
    assert named_modules(model) == dict(model.named_modules())


def test_wrappers_inside_the_model_are_looked_through():
    model = nn.Sequential(compiled(nn.Linear(2, 2)), nn.DataParallel(nn.Linear(2, 2)))
    assert "0._orig_mod.weight" in dict(model.named_parameters())
    assert list(named_parameters(model)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert {name: type(module) for name, module in named_modules(model).items()} == {
        "": nn.Sequential, "0": nn.Linear, "1": nn.Linear,
    }  # fmt: skip


def test_a_module_met_twice_counts_once():
    part = nn.Linear(2, 2)
    model = nn.ModuleDict({"plain": part, "compiled": compiled(part)})
    assert list(named_parameters(model)) == ["plain.weight", "plain.bias"]


def test_trainable_leaves_frozen_parameters_out():
    names = list(named_parameters(Tied(), trainable=True))
    assert names == [name for name in PARAMETERS if name != "module.0.bias"]


def test_a_module_without_tensors_has_no_names():
    assert named_parameters(nn.ReLU()) == named_buffers(nn.ReLU()) == named_tensors(nn.ReLU()) == {}


@pytest.mark.parametrize("names", [named_parameters, named_tensors])
def test_lazy_parameters_say_what_to_do(names):
    with pytest.raises(UnsupportedModuleError, match=r"'0\.weight' .* run the model once"):
        names(nn.Sequential(nn.LazyLinear(3)))


def test_lazy_buffers_say_what_to_do():
    with pytest.raises(UnsupportedModuleError, match=r"'running_mean' .* run the model once"):
        named_buffers(nn.LazyBatchNorm1d())


# bits and digest


def test_bits_tell_signed_zeros_apart_and_nan_payloads():
    zeros = bits(torch.tensor([0.0, -0.0]))
    assert zeros[0] != zeros[1]
    nan = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32)
    assert bits(nan.view(torch.float32)).tolist() == nan.tolist()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.bool, [6]),
        (torch.bfloat16, [6]),
        (torch.float8_e4m3fn, [6]),
        (torch.uint16, [6]),
        (torch.float64, [6]),
        (torch.complex64, [6]),
        (torch.complex128, [6, 2]),
    ],
)
def test_bits_are_one_row_an_element(dtype, shape):
    words = bits(torch.zeros(2, 3).to(dtype))
    assert list(words.shape) == shape
    assert not words.is_floating_point()
    assert not words.is_complex()


def test_bits_follow_logical_order():
    tensor = torch.arange(6.0).view(2, 3)
    assert bits(tensor.t()).tolist() == bits(tensor.t().contiguous()).tolist()
    z = torch.randn(4, dtype=torch.complex128)
    assert bits(z.conj()).tolist() == bits(z.conj().resolve_conj()).tolist()
    assert bits(z[::2]).tolist() == bits(z)[::2].tolist()


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    permutation=st.randoms(use_true_random=False),
)
def test_digest_ignores_strides_and_nothing_else(shape, dtype, permutation):
    tensor = torch.randint(0, 2, shape).to(dtype)
    order = list(range(len(shape)))
    permutation.shuffle(order)
    strided = tensor.permute(order).contiguous().permute([order.index(i) for i in range(len(order))])
    assert digest(strided) == digest(tensor) == digest(nn.Parameter(tensor, requires_grad=False))
    assert digest(tensor) != digest(tensor.unsqueeze(0))
    assert digest(tensor) != digest(tensor.to(torch.float64))
    if tensor.numel():
        other = tensor.clone().view(-1)
        other[-1] = 1 - other[-1].to(torch.int8)
        assert digest(other.view(shape)) != digest(tensor)


def test_digest_is_stable_across_releases():
    # Saved edits hold digests: if this test fails, the version of their format must rise.
    content = b"torch.float32 [2, 3]" + struct.pack("<6f", *range(6))
    expected = hashlib.blake2b(content, digest_size=16).hexdigest()
    assert digest(torch.arange(6, dtype=torch.float32).view(2, 3)) == expected


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_digest_of_a_sparse_tensor_is_of_its_entries():
    index = torch.tensor([[1, 0, 1], [0, 1, 0]])
    summed = torch.sparse_coo_tensor(index, torch.tensor([1.0, 2.0, 3.0]), (2, 2))
    assert digest(summed) == digest(summed.coalesce())
    assert digest(summed) != digest(summed * 2)
    assert digest(summed.to_sparse_csr()) == digest(summed)


def test_digest_of_a_meta_tensor_says_what_to_do():
    with pytest.raises(UnsupportedModuleError, match=r"meta device.* load the model's weights"):
        digest(torch.empty(3, device="meta"))


# copy_of


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_copy_keeps_class_ties_and_shares_nothing(wrap):
    model = wrap(Tied())
    model.eval()
    x = torch.tensor([0, 1])
    expected = model(x)
    twin = copy_of(model)
    assert type(twin) is type(model)
    assert not unwrap(twin).training
    assert unwrap(twin).head.weight is unwrap(twin).embed.weight
    own, its = named_tensors(twin), named_tensors(model)
    assert {n: digest(t) for n, t in own.items()} == {n: digest(t) for n, t in its.items()}
    assert not {t.data_ptr() for t in own.values()} & {t.data_ptr() for t in its.values()}
    # A compiled copy must run its own weights, not those of the model it was copied from.
    with torch.no_grad():
        own["embed.weight"].zero_()
    assert torch.equal(model(x), expected)
    assert torch.equal(twin(x), torch.zeros_like(expected))


def test_copy_keeps_memory_format_and_drops_gradients():
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    twin = copy_of(model)
    assert twin.weight.stride() == model.weight.stride()
    assert twin.weight.grad is None
    assert model.weight.grad is not None


def pruned_by_torch(model):
    return prune.l1_unstructured(model, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("computed", [nn.utils.weight_norm, pruned_by_torch])
def test_weights_that_are_computed_are_computed_anew_in_the_copy(computed):
    model = computed(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    expected = model(x)
    twin = copy_of(model)
    assert torch.equal(twin(x), expected)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert not twin(x).nan_to_num().any()
    assert torch.equal(model(x), expected)


def test_what_cannot_be_copied_says_what_to_do():
    model = nn.Linear(2, 2)
    model.seen = [model(torch.zeros(1, 2))]
    with pytest.raises(UnsupportedModuleError, match=r"Linear cannot be copied: .*\n.*apply_"):
        copy_of(model)


def test_an_unrelated_bug_in_a_copy_is_not_hidden():
    class Odd(nn.Module):
        def __deepcopy__(self, memo):
            raise KeyError("odd")

    with pytest.raises(KeyError, match="odd"):
        copy_of(Odd())
