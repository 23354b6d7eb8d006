# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of frozen weights, laid over megatron-core's linear layers."""
