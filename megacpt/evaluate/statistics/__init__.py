# SPDX-License-Identifier: Apache-2.0
"""What scores of single items say of a difference between two models, and how sure it is."""
