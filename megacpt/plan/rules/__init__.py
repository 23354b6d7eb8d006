# SPDX-License-Identifier: Apache-2.0
"""What settings must keep to, a file for each section; megacpt.plan.check asks all of them."""
