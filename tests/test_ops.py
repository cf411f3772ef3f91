# SPDX-License-Identifier: BSD-3-Clause
"""What holds for every operator."""

from unlearnkit import ops


def test_build_info_says_whether_there_is_a_compiled_module():
    assert isinstance(ops.build_info()["native"], bool)
