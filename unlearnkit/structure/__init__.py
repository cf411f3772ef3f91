# SPDX-License-Identifier: BSD-3-Clause
"""What a model is made of, as one forward pass shows it."""
