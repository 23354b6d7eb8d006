# SPDX-License-Identifier: Apache-2.0
"""The layers that megatron-core is given in place of its own, or lacks."""
