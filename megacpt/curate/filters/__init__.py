# SPDX-License-Identifier: Apache-2.0
"""Documents that are not worth training on, by what can be measured of each by itself."""
