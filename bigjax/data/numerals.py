"""Number words in English and French, written by rule: a translation task that every machine can make for itself."""

from bigjax.data.dataset import Dataset, random
from bigjax.data.pairs import pairs_dataset, stored_pairs
from bigjax.data.records import BadRecords
from bigjax.errors import UserError

MOST = 1_000_000
ENGLISH = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
FRENCH = [
    *("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze"),
    *("treize", "quatorze", "quinze", "seize"),
]
FRENCH_TENS = ["vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt"]


def english(number: int) -> str:
    """A number below a million in words, as in "two hundred and one thousand and twenty-three"."""
    if number < 20:
        return ENGLISH[number]
    if number < 100:
        tens, one = divmod(number, 10)
        return ENGLISH_TENS[tens - 2] + (f"-{ENGLISH[one]}" if one else "")
    size, word = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, size)
    return f"{english(many)} {word}" + (f"{' and ' if rest < 100 else ' '}{english(rest)}" if rest else "")


def french(number: int, last: bool = True) -> str:
    """The same in French, as in "deux cent un mille vingt-trois"; `last`: no "mille" follows, and plurals show."""
    if number < 17:
        return FRENCH[number]
    if number < 20:
        return f"dix-{FRENCH[number - 10]}"
    if number < 100:
        tens, one = divmod(number, 10)
        if tens in (7, 9):  # sixty and ten, four twenties and ten
            one += 10
        word = FRENCH_TENS[tens - 2]
        if one == 0:
            return f"{word}s" if tens == 8 and last else word
        return f"{word} et {FRENCH[one]}" if one in (1, 11) and tens < 8 else f"{word}-{french(one)}"
    size, word = (100, "cent") if number < 1000 else (1000, "mille")
    many, rest = divmod(number, size)
    text = word if many == 1 else f"{french(many, last=False)} {word}"
    if size == 100 and many > 1 and not rest and last:
        text += "s"
    return f"{text} {french(rest, last)}" if rest else text


def numerals(
    train_size: int = 20_000,
    validation_size: int = 500,
    test_size: int = 1000,
    vocab_size: int = 400,
    buckets: int = 2,
) -> Dataset:
    """English number words and the French ones, for as many numbers below a million; no number comes twice.

    Raises:
      UserError: there are not so many numbers, or a split is to have none.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    if min(sizes.values()) < 1 or sum(sizes.values()) > MOST:
        raise UserError(f"config.data: the splits need 1 number or more each, and {MOST:,} at most together.")
    numbers = iter(random(0, "numerals").permutation(MOST).tolist())
    texts = {}
    for name, size in sizes.items():
        some = [next(numbers) for _ in range(size)]
        texts[name] = stored_pairs((("", english(n), french(n)) for n in some), BadRecords("stop"))
    return pairs_dataset(texts, "bpe", vocab_size, 256, buckets, BadRecords("stop"))
