"""The config of a cleaning job: the rules, with their thresholds and the sources of these.

Gopher is Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1; its table A1 has the thresholds for
repetition. C4 is Raffel et al. 2020 (arXiv 1910.10683), section 2.2. Null turns a threshold off,
`enabled: false` a section. Words are separated by white space; in scripts without spaces (Chinese,
Japanese, Thai, ...) and in Hangul each character is a word.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bigtrain.config import Section
from bigtrain.config.paths import FolderPath, check_path

Count = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Ratio = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def _is_pattern(text: str) -> str:
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"not a regular expression of Python ({error}); correct it, and write it in single "
            "quotes so that YAML does not change its backslashes"
        ) from error
    if pattern.match(""):
        raise ValueError(
            "matches the empty text too, so it would match everywhere; use + instead of *"
        )
    return text


def _one_is_a_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


NamePattern = Annotated[str, AfterValidator(check_path)]
NamePatterns = Annotated[list[NamePattern], BeforeValidator(_one_is_a_list)]
Paths = Annotated[list[FolderPath], BeforeValidator(_one_is_a_list)]
PatternText = Annotated[str, AfterValidator(_is_pattern)]


class UnicodeRules(Section):
    """Changes the encoding of text, not its meaning. The rules apply in this order."""

    line_ends: bool = True
    """Replaces CR LF, and CR without LF, by LF."""
    control_characters: bool = True
    """Removes Unicode's category Cc except tab, LF and CR (see `line_ends`), lone surrogates,
    noncharacters, and the byte order mark. Keeps joiners and direction marks, which some scripts
    need."""
    nfc: bool = True
    """Composes characters: Unicode Normalization Form C (Unicode Standard Annex 15)."""


class C4LineRules(Section):
    """Drops lines, as C4 does with English web pages; keeps the other lines of the document."""

    enabled: bool = False
    """Whether these rules apply. Off by default: lines of headings, lists, verse and code end
    without punctuation."""
    terminal_punctuation: bool = True
    """A line must end with a full stop, exclamation or question mark, or end quotation mark, of
    any script. C4, section 2.2."""
    min_words: Count | None = 3
    """Minimum number of words of a line. C4, section 2.2 (its code in TensorFlow Datasets: 5)."""
    javascript: bool = True
    """Drops lines with the word Javascript; most ask the reader to enable it. C4, section 2.2."""
    policy: bool = True
    """Drops lines about terms of use, privacy policies and cookies, in English. C4, section 2.2."""


class C4PageRules(Section):
    """Drops documents, as C4 does with web pages."""

    enabled: bool = True
    """Whether these rules apply."""
    lorem_ipsum: bool = True
    """Drops documents with the placeholder text "lorem ipsum". C4, section 2.2."""
    curly_brace: bool = False
    """Drops documents with a "{", which is rare outside code. C4, section 2.2. Off by default:
    code is text too."""
    min_sentences: Count | None = None
    """Minimum number of sentences. C4, section 2.2: 5 (its code in TensorFlow Datasets: 3).
    Off by default: a poem or a definition may be one sentence."""


class RedactPattern(Section):
    """One pattern whose matches are replaced."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    """The name in the report: lower-case letters, digits and underscores."""
    pattern: PatternText
    """A regular expression of Python's `re`."""
    replacement: str = "|||REDACTED|||"
    """The text that replaces it, used literally; choose one that no pattern matches."""


class RedactRules(Section):
    """Replaces personal data. The replacements are those of Dolma (arXiv 2402.00159)."""

    email: bool = False
    """E-mail addresses (the HTML standard's "valid e-mail address", with a dot in the domain)
    become |||EMAIL_ADDRESS|||."""
    ipv4: bool = False
    """IPv4 addresses (RFC 791: four decimal bytes, not in a longer number with dots) become
    |||IP_ADDRESS|||."""
    phone: bool = False
    """Telephone numbers in the international notation of ITU-T E.123 (+, country code, 7 to 15
    digits in groups) and the North American one, (415) 555-0100, become |||PHONE_NUMBER|||."""
    patterns: list[RedactPattern] = Field(default=[])
    """Your own patterns; applied after the rules above, in this order."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RedactRules":
        names = ["email", "ipv4", "phone", *(pattern.name for pattern in self.patterns)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"redact.patterns has the name {name} twice; give each pattern its own name"
                )
        return self


class LengthRules(Section):
    """Drops documents that are too short or too long."""

    enabled: bool = True
    """Whether these rules apply."""
    min_characters: Count | None = None
    """Minimum number of characters."""
    max_characters: Count | None = None
    """Maximum number of characters."""
    min_words: Count | None = 50
    """Minimum number of words. Gopher, A.1.1: between 50 and 100,000 words."""
    max_words: Count | None = 100_000
    """Maximum number of words. Gopher, A.1.1. Set null for books, which are longer."""

    @model_validator(mode="after")
    def _least_below_most(self) -> "LengthRules":
        for what in ("characters", "words"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least and most and least > most:
                raise ValueError(
                    f"length.min_{what}={least} is above length.max_{what}={most}, "
                    "so nothing would be kept; lower the first"
                )
        return self


class GopherQualityRules(Section):
    """Drops documents that are probably not running text. Gopher, A.1.1, quality filtering."""

    enabled: bool = True
    """Whether these rules apply."""
    min_mean_word_length: Ratio | None = 3.0
    """Minimum mean characters per word. Not checked for text mainly in scripts without spaces."""
    max_mean_word_length: Ratio | None = 10.0
    """Maximum mean characters per word. Not checked for text mainly in scripts without spaces."""
    max_symbol_ratio: Ratio | None = 0.1
    """Maximum number of hash signs per word, and of ellipses per word."""
    max_bullet_lines: Share | None = 0.9
    """Maximum fraction of lines that start with a bullet point."""
    max_ellipsis_lines: Share | None = 0.3
    """Maximum fraction of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Minimum fraction of words that contain a letter."""
    min_stop_words: Count | None = None
    """Minimum number of `stop_words` that occur; Gopher uses 2. Off by default: the words are
    English."""
    stop_words: list[str] = Field(default=["the", "be", "to", "of", "and", "that", "have", "with"])
    """Words that are frequent in running text, in lower case."""


class GopherRepetitionRules(Section):
    """Drops documents with much repeated text. Gopher, table A1: the largest fractions allowed.

    A line, paragraph or n-gram is a duplicate if it occurred before in the same document. Fractions
    of characters refer to all characters in words, for n-grams, or in lines and paragraphs. If most
    text is in scripts without spaces, an n-gram has 2n characters, because a Chinese word has about
    two characters.
    """

    enabled: bool = True
    """Whether these rules apply."""
    duplicate_lines: Share | None = 0.30
    """Fraction of lines."""
    duplicate_paragraphs: Share | None = 0.30
    """Fraction of paragraphs, which are separated by empty lines."""
    duplicate_line_characters: Share | None = 0.20
    """Fraction of characters in duplicate lines."""
    duplicate_paragraph_characters: Share | None = 0.20
    """Fraction of characters in duplicate paragraphs."""
    top_2_gram: Share | None = 0.20
    """Fraction of characters in the most frequent 2-gram."""
    top_3_gram: Share | None = 0.18
    """Fraction of characters in the most frequent 3-gram."""
    top_4_gram: Share | None = 0.16
    """Fraction of characters in the most frequent 4-gram."""
    duplicate_5_grams: Share | None = 0.15
    """Fraction of characters in duplicate 5-grams, each character counted once."""
    duplicate_6_grams: Share | None = 0.14
    """Fraction of characters in duplicate 6-grams."""
    duplicate_7_grams: Share | None = 0.13
    """Fraction of characters in duplicate 7-grams."""
    duplicate_8_grams: Share | None = 0.12
    """Fraction of characters in duplicate 8-grams."""
    duplicate_9_grams: Share | None = 0.11
    """Fraction of characters in duplicate 9-grams."""
    duplicate_10_grams: Share | None = 0.10
    """Fraction of characters in duplicate 10-grams."""


class ExactDuplicateRules(Section):
    """Drops documents whose cleaned text, ignoring white space, equals that of an earlier one.

    Compares 128-bit BLAKE2b hashes.
    """

    enabled: bool = True
    """Whether duplicates are searched for."""


class NearDuplicateRules(Section):
    """Drops documents that are similar to an earlier document that is kept: MinHash with bands.

    Two documents whose sets of shingles have Jaccard similarity s become candidates with
    probability 1 - (1 - s^(num_perm/bands))^bands: with the defaults 0.95 at s = 0.8, 0.06 at
    0.5. A candidate is dropped if the fraction of equal MinHash values reaches the threshold.
    """

    enabled: bool = True
    """Whether near-duplicates are searched for."""
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Estimated Jaccard similarity from which two documents count as duplicates. Lee et al. 2022
    (arXiv 2107.06499) use 0.8."""
    shingle_words: Annotated[int, Field(ge=1, le=64)] = 5
    """Consecutive words in one shingle; in scripts without spaces, characters. Lee et al. 2022
    and FineWeb (arXiv 2406.17557) use 5."""
    num_perm: Annotated[int, Field(ge=2, le=4096)] = 128
    """MinHash values of one document; 4 bytes each on disk while the job runs."""
    bands: Annotated[int, Field(ge=1, le=512)] = 16
    """Groups of MinHash values; documents that agree in all values of a group are compared. Must
    divide num_perm. FineWeb uses 14 groups of 8."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Chooses the hash functions."""

    @model_validator(mode="after")
    def _bands_divide(self) -> "NearDuplicateRules":
        if self.num_perm % self.bands:
            raise ValueError(
                f"near_duplicates.bands={self.bands} does not divide "
                f"near_duplicates.num_perm={self.num_perm}; try 16 and 128"
            )
        return self


class CleanConfig(Section):
    """A cleaning job: what to read, which rules to apply, where to write."""

    inputs: Annotated[Paths, Field(min_length=1)]
    """Folders, globs, files and URLs, as a list or one; of several duplicates the first is kept."""
    exclude: NamePatterns = Field(default=[])
    """Leaves out files whose path inside a folder matches, such as '*/tests/*'."""
    glob: NamePattern | None = None
    """Which files of a folder are read, such as '*.py', at any depth; default: all known kinds."""
    text_field: str = "text"
    """Field or column with the text, in JSON, Parquet, Arrow and webdataset tars."""
    id_field: str | None = None
    """Field or column with the document's id; kept in the output as `id`."""
    on_invalid: Literal["skip", "stop"] = "skip"
    """What to do with an invalid line or column: skip and count it, or stop with an error."""
    out: FolderPath
    """Folder for the cleaned parts and report.json."""
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    """Processes; the result is the same."""
    task_mb: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Input per part, in MB; by default 1/64 of the input, from 4 to 256 MiB."""

    unicode: UnicodeRules = UnicodeRules()
    """Characters. Rules apply in the order of these sections."""
    redact: RedactRules = RedactRules()
    """Personal data."""
    c4_lines: C4LineRules = C4LineRules()
    """Lines to drop."""
    length: LengthRules = LengthRules()
    """Length of documents."""
    c4_page: C4PageRules = C4PageRules()
    """Placeholders and code."""
    gopher_quality: GopherQualityRules = GopherQualityRules()
    """Symbols, lists, numbers."""
    gopher_repetition: GopherRepetitionRules = GopherRepetitionRules()
    """Repetition inside a document."""
    exact_duplicates: ExactDuplicateRules = ExactDuplicateRules()
    """Equal documents."""
    near_duplicates: NearDuplicateRules = NearDuplicateRules()
    """Almost equal documents."""
