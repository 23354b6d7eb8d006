# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face hub, brought into its cache; never by a rank."""
