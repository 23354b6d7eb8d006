# SPDX-License-Identifier: Apache-2.0
"""Texts for the tests of the filters: real ones, and of each rule some that it is made for."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

PROSE = (
    "The court held that the notice was given in time, and that the tenant had to leave. "
    "It did not say what would have become of the deposit if the letter had been lost. "
    "Nobody asked whether the landlord ought to have sent another one. "
    "Two of the judges wrote that they would have decided the other way. "
    "The case was sent back to the lower court with costs."
)
LISTS = "\n".join(f"item {n}" for n in range(200))
MADE = {
    "blank": " \n\t\n ",
    "punctuation": "... --- !!! ??? ,,, " * 20,
    "one_sign": "?",
    "short": "A short note to the reader.",
    "prose": PROSE,
    "long_words": " ".join(f"internationalisations{n}of" for n in range(80)) + ". The end of it.",
    "short_words": "a b c d e f g h the of to " * 20,
    "hashes": " ".join(f"#the #of tag{n}" for n in range(60)),
    "ellipses": " ".join(f"the waiting... of somebody{n}" for n in range(60)),
    "bullets": "\n".join(f"- the {n}th point of the list about thing {n}" for n in range(30)),
    "ends": "\n".join(f"Read the rest of article number {n} about it..." for n in range(30)),
    "numbers": "the of " + " ".join(str(n * 7919) for n in range(300)),
    "no_stop_words": " ".join(f"wort{n} satz{n} zeile{n}" for n in range(60)),
    "lines": "\n".join(["The same line of the text stands here again."] * 9 + [PROSE]),
    "paragraphs": "\n\n".join([PROSE, PROSE, "Something else that is said of the case.", PROSE]),
    "two_words": " ".join("of course" if n % 2 else f"word{n}" for n in range(120)) + " the end",
    "five_words": " ".join(f"one two three four five and then {n}" for n in range(25)),
    "lists": LISTS,
    "lorem": f"{PROSE}\nLorem ipsum dolor sit amet, consectetur.\n{PROSE}",
    "code": f"{PROSE}\nfunction f() {{ return 1; }}.\n{PROSE}",
    "scripts": f"{PROSE}\nPlease enable JavaScript to go on.\n{PROSE}\nMenu\nHome | About",
    "cookies": f"{PROSE}\nThis site uses cookies to know you.\nRead our privacy policy, please.",
    "citations": PROSE.replace("time,", "time,[3]").replace("leave.", "leave.[citation needed]."),
    "word_of_2000": f"{PROSE}\n{'x' * 2000} is a word of the line.",
    "no_punctuation": "\n".join(f"a heading of the {n}th page without its end" for n in range(30)),
    "breaks": "\n".join(f"The {n}th line." for n in range(80)),
    "long_lines": "\n".join(f"Chloromethylisothiazolinone{n} decomposes." for n in range(80)),
    "umlauts": "Die Kündigung ist dem Mieter am dritten Werktag zugegangen. " * 3 + PROSE,
}
WITHOUT_WORDS = {"blank", "punctuation", "one_sign"}
"""datatrove divides by their number of words."""
PAGES = Path(__file__).parents[3] / "docs"
REAL = {
    **{f"topic {name}": text for name, text in sorted(topics.items())[::12]},
    **{
        f"page {path.stem} {n}": section
        for path in sorted(PAGES.glob("*.md"))[::4]
        for n, section in enumerate(path.read_text(encoding="utf-8").split("\n## "))
    },
}
TEXTS = MADE | REAL
