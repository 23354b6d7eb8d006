# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def permute(indices: npt.NDArray[np.int64], *, size: int, key: int) -> npt.NDArray[np.int64]: ...
def advance_blend(
    remainders: Sequence[int], *, denominator: int, lags: Sequence[int], num_steps: int
) -> tuple[list[int], list[int]]: ...
