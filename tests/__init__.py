# SPDX-License-Identifier: Apache-2.0
"""Tests, a package so that helpers are imported by one name from any folder."""
