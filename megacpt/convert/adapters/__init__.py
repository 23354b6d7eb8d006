# SPDX-License-Identifier: Apache-2.0
"""Adapters as files: PEFT's folders, merged into their model, taken out of a full one."""
