# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint gets to disk while training goes on."""
