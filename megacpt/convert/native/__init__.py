# SPDX-License-Identifier: Apache-2.0
"""Native checkpoints as files: which rows lie where, read and written without a model."""
