# SPDX-License-Identifier: Apache-2.0
"""Raw text as files hold it: found, cut into parts, read as documents. Free of torch."""
