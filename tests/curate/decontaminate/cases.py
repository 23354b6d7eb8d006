# SPDX-License-Identifier: Apache-2.0
"""Items of words that mean nothing, so that nothing is found by chance."""

from __future__ import annotations

from megacpt.curate.decontaminate.items import SuiteItem
from tools.bench.decontamination import Filler


class Maker(Filler):
    def item(self, count: int) -> SuiteItem:
        """Of a question of ``count`` words with four options, of which the second is right."""
        options = tuple(self.words(4) for _ in range(4))
        question = self.words(count).capitalize() + "?"
        return SuiteItem(question=(question,), answer=(options[1],), options=options)
