# SPDX-License-Identifier: Apache-2.0
"""A curation on several machines: datatrove's pipelines, and what Slurm runs of them."""
