# SPDX-License-Identifier: Apache-2.0
"""Machines before a run: what each has, what it must have, and which one is bad."""
