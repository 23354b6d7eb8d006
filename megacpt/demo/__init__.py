# SPDX-License-Identifier: Apache-2.0
"""The quickstart's model and text, taken from packages that ship them."""
