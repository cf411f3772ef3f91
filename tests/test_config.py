# SPDX-License-Identifier: BSD-3-Clause
from types import SimpleNamespace

import torch

from unlearnkit import config, ops


def test_names_versions_kernels_and_devices():
    found = config.configuration()
    assert found["versions"]["torch"] == torch.__version__
    assert found["kernels"]["native"] == str(ops.build_info()["native"])
    assert str(torch.get_num_threads()) in found["devices"]["cpu"]


def test_lists_every_cuda_device(monkeypatch):
    card = SimpleNamespace(name="H100", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    devices = config.configuration()["devices"]
    assert devices["cuda:0"] == devices["cuda:1"] == "H100, sm_90, 80 GiB"


def test_a_package_that_is_missing_is_said_to_be(monkeypatch):
    monkeypatch.setattr(config, "PACKAGES", ("no-such-package",))
    assert config.configuration()["versions"]["no-such-package"] == "not installed"


def test_show_config_prints_it_all(capsys):
    config.show_config()
    text = capsys.readouterr().out
    for section, rows in config.configuration().items():
        assert section in text
        for name, value in rows.items():
            assert f"  {name:<15}{value}\n" in text
