# SPDX-License-Identifier: Apache-2.0
"""Documents that hold what a model will be measured with."""
