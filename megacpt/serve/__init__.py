# SPDX-License-Identifier: Apache-2.0
"""One model behind the OpenAI interface, for evaluations and to try it; not for production."""
