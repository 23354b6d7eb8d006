# SPDX-License-Identifier: Apache-2.0
"""Documents that are, or nearly are, others."""
