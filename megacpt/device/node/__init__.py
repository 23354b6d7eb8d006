# SPDX-License-Identifier: Apache-2.0
"""One machine as a place to train: what it has, what it must have, and which one is bad."""
