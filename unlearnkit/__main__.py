# SPDX-License-Identifier: BSD-3-Clause
"""``python -m unlearnkit``."""

import sys

from unlearnkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
