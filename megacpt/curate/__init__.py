# SPDX-License-Identifier: Apache-2.0
"""Raw text made fit for training: deduplicated, decontaminated, filtered, balanced, rewritten."""
