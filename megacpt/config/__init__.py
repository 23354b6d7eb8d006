# SPDX-License-Identifier: Apache-2.0
"""The typed configuration of a run. Sections are plain dataclasses; Hydra only fills them."""
