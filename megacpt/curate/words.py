# SPDX-License-Identifier: Apache-2.0
"""What a word is, to all steps that compare texts; csrc/words.h reads them.

1. A character whose compatibility form (NFKC) is one character counts as that one, and by simple
   case folding capital letters count as small ones.
2. A word is a run of letters, marks and digits (general categories L, M and N), as long as it gets;
   all else separates words and is left out.
3. In scripts that are written without blanks between words (Han, Hiragana, Katakana, Thai, Lao,
   Khmer, Myanmar) each letter, with the marks after it, is a word.

The same text in the normal forms C and D has different words. Characters are those of one version
of Unicode, whatever Python runs: what came later separates.
"""

from __future__ import annotations

from megacpt._C import UNICODE_VERSION

VERSION = 1
"""Of these rules and of the hashes that are made of words (csrc/word_hash.h, csrc/sketch.h): it
rises when a text gets others."""
STATED = {"words_version": VERSION, "unicode": UNICODE_VERSION}
"""For the account of a step whose verdicts depend on words."""
