# SPDX-License-Identifier: BSD-3-Clause
"""``python -m unlearnkit.cli``, which is ``python -m unlearnkit``."""

import sys

from unlearnkit.cli._main import main

if __name__ == "__main__":
    sys.exit(main())
