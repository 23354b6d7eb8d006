# SPDX-License-Identifier: Apache-2.0
"""Servers that are asked over HTTP, such as models behind the OpenAI interface."""
