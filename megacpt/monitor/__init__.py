# SPDX-License-Identifier: Apache-2.0
"""What a run shows while it trains (file, terminal, wandb) and the report it leaves behind."""
