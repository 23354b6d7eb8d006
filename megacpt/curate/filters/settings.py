# SPDX-License-Identifier: Apache-2.0
"""The settings of the filters.

The defaults of a section are the numbers of its paper. The sections of datatrove's filters have the
names of its own arguments; a setting that may be null is a limit of whole documents, and null takes
it away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from megacpt.config.limits import COUNT, NOT_NEGATIVE, Limits, limited

SHARE = Limits(at_least=0, at_most=1, remedy="use a share from 0 to 1, or null")


@dataclass(kw_only=True, slots=True)
class LengthConfig:
    min_characters: int | None = limited(1, limits=NOT_NEGATIVE)
    """Without blanks at both ends."""
    max_characters: int | None = limited(None, limits=COUNT)


@dataclass(kw_only=True, slots=True)
class LanguageConfig:
    keep: str = "en"
    """Codes of ISO 639-1, separated by commas."""
    min_score: float | None = limited(0.65, limits=SHARE)
    """How sure the model is; FineWeb (Penedo et al. 2024) has 0.65, of another model."""


@dataclass(kw_only=True, slots=True)
class RepetitionConfig:
    """Repetitions within a document, Table A1 of Rae et al. 2021 (Gopher); shares at most."""

    dup_line_frac: float | None = limited(0.3, limits=SHARE)
    """Lines that stood there before."""
    dup_para_frac: float | None = limited(0.3, limits=SHARE)
    dup_line_char_frac: float | None = limited(0.2, limits=SHARE)
    """Characters in such lines."""
    dup_para_char_frac: float | None = limited(0.2, limits=SHARE)
    top_2_gram: float | None = limited(0.2, limits=SHARE)
    """Characters in the two words that occur most often one after another."""
    top_3_gram: float | None = limited(0.18, limits=SHARE)
    top_4_gram: float | None = limited(0.16, limits=SHARE)
    duplicated_5_n_grams: float | None = limited(0.15, limits=SHARE)
    """Characters in five words that stood there before."""
    duplicated_6_n_grams: float | None = limited(0.14, limits=SHARE)
    duplicated_7_n_grams: float | None = limited(0.13, limits=SHARE)
    duplicated_8_n_grams: float | None = limited(0.12, limits=SHARE)
    duplicated_9_n_grams: float | None = limited(0.11, limits=SHARE)
    duplicated_10_n_grams: float | None = limited(0.10, limits=SHARE)


@dataclass(kw_only=True, slots=True)
class GopherConfig:
    """The quality rules of Rae et al. 2021 (Gopher), appendix A1.1."""

    min_doc_words: int | None = limited(50, limits=NOT_NEGATIVE)
    """Of other signs than punctuation."""
    max_doc_words: int | None = limited(100_000, limits=NOT_NEGATIVE)
    min_avg_word_length: float | None = limited(3.0, limits=NOT_NEGATIVE)
    max_avg_word_length: float | None = limited(10.0, limits=NOT_NEGATIVE)
    max_symbol_word_ratio: float | None = limited(0.1, limits=NOT_NEGATIVE)
    """``#`` for each word; ellipses for each word."""
    max_bullet_lines_ratio: float | None = limited(0.9, limits=SHARE)
    """Lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines_ratio: float | None = limited(0.3, limits=SHARE)
    max_non_alpha_words_ratio: float | None = limited(0.8, limits=SHARE)
    """Words with a letter, at least, whatever datatrove's name of it says."""
    min_stop_words: int | None = limited(2, limits=NOT_NEGATIVE)
    """Different ones."""
    stop_words: str = "the,be,to,of,and,that,have,with"
    """Separated by commas; these are English."""


@dataclass(kw_only=True, slots=True)
class C4Config:
    """The rules of Raffel et al. 2020 (C4), section 2.2, and of its code; they take out lines."""

    split_paragraph: bool = True
    """Judge lines; false: sentences."""
    remove_citations: bool = True
    """``[3]``, ``[edit]``, ``[citation needed]``."""
    filter_no_terminal_punct: bool = True
    """Take out lines that do not end like a sentence; FineWeb leaves them."""
    min_num_sentences: int | None = limited(5, limits=NOT_NEGATIVE)
    """In the lines that are left."""
    min_words_per_line: int = limited(3, limits=NOT_NEGATIVE)
    max_word_length: int = limited(1000, limits=COUNT)
    """A line with a longer one is taken out."""
    filter_lorem_ipsum: bool = True
    """Leave out documents with these words."""
    filter_javascript: bool = True
    """Take out lines with this word."""
    filter_curly_bracket: bool = True
    """Leave out documents with one: of code, nothing is left."""
    filter_policy: bool = True
    """Take out lines about cookies and terms of use."""


@dataclass(kw_only=True, slots=True)
class FineWebConfig:
    """The rules that Penedo et al. 2024 (FineWeb) added, section 3.6."""

    line_punct_thr: float | None = limited(0.12, limits=SHARE)
    """Of lines, as many must end like a sentence."""
    line_punct_exclude_zero: bool = False
    """Keep documents in which none does."""
    stop_chars: str = ".'\"!?"
    """Signs that end one: those that FineWeb was made with. datatrove's own are of all scripts now,
    but no quotation marks."""
    short_line_thr: float | None = limited(0.67, limits=SHARE)
    """Of lines, no more may be short."""
    short_line_length: int = limited(30, limits=NOT_NEGATIVE)
    char_duplicates_ratio: float | None = limited(0.01, limits=SHARE)
    """Of characters, no more may be in lines that stood there before."""
    new_line_ratio: float | None = limited(0.3, limits=NOT_NEGATIVE)
    """Line breaks for each word."""


@dataclass(kw_only=True, slots=True)
class PerplexityConfig:
    """What a model makes of the beginning of each document, in one pass on this machine."""

    model: str
    """A Hugging Face folder, most often that of the model to be trained."""
    min: float | None = limited(None, limits=NOT_NEGATIVE)
    """Less is known by heart, or says the same again and again."""
    max: float | None = limited(None, limits=NOT_NEGATIVE)
    """More is noise."""
    tokens: int = limited(512, limits=Limits(at_least=2, remedy="use 2 or more, such as 512"))
    """From the beginning of each document."""


@dataclass(kw_only=True, slots=True)
class PersonalConfig:
    """What points to a person is replaced; the document stays."""

    email: bool = True
    email_text: str = "email@example.com"
    ip: bool = True
    """Of IPv4 and IPv6, public addresses."""
    ip_text: str = "192.0.2.1"
    phone_region: str | None = None
    """Country of phone numbers without +, such as US; ``ZZ``: only those with +. null: none."""
    phone_text: str = "+1 202 555 0100"


@dataclass(kw_only=True, slots=True)
class FilterConfig:
    sources: str | None = None
    """Names, separated by commas; null: all that are trained on."""
    words: str = "eng"
    """Language by whose rules text is cut into words and sentences, as datatrove names it."""
    length: LengthConfig | None = field(default_factory=LengthConfig)
    language: LanguageConfig | None = None
    repetition: RepetitionConfig | None = field(default_factory=RepetitionConfig)
    gopher: GopherConfig | None = field(default_factory=GopherConfig)
    c4: C4Config | None = None
    fineweb: FineWebConfig | None = None
    perplexity: PerplexityConfig | None = None
    pii: PersonalConfig | None = None
