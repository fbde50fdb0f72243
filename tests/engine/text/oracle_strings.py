"""Strings on which tokenizers are compared: the same ones in every run."""

import random

SCRIPTS = [
    "The quick brown fox jumps over the lazy dog.", "Où est passée la naïveté de l'été ?",
    "Größe, Fußgänger, ẞ und ß — «ja»", "Ελληνικά: η γλώσσα των θεών", "Съешь же ещё этих мягких булок",
    "שָׁלוֹם עֲלֵיכֶם", "السَّلامُ عَلَيْكُم ١٢٣٤", "हिन्दी में देवनागरी १२३", "বাংলা লিপি ৪৫৬", "தமிழ் எழுத்து ௧௨௩",
    "ภาษาไทยไม่มีวรรค ๑๒๓", "ພາສາລາວ", "မြန်မာဘာသာ", "ភាសាខ្មែរ ១២៣", "བོད་ཡིག ཨོཾ་མ་ཎི", "ქართული ენა", "Հայերեն լեզու",
    "አማርኛ ፊደል ፩፪፫", "中文没有空格，标点也是全角。", "日本語のひらがなとカタカナ、漢字。", "한국어 띄어쓰기 각각",
    "Tiếng Việt có dấu thanh", "Türkçe İstanbul ıİ", "ᚠᚢᚦᚨᚱᚲ ᐃᓄᒃᑎᑐᑦ ᏣᎳᎩ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𝒜𝓁𝓅𝒽𝒶", "🙂👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇪🇺",
    "1️⃣ ½ ⅓ Ⅷ ² ₃ ① ㊿ 一二三", "x² + y³ ≤ ∑ᵢ aᵢ · ∞", "… — – ‘q’ “q” «q» ‹q›", "Ａｂｃ１２３ ﬁ ﬂ ﬀ", "᠎a\u180e b",
    "a\u200bb\u200c\u200d\ufeffc\u00ad", "\u0340\u0341\u0343\u0344\u0374\u037e\u0387", "e\u0301\u0323 q\u0307\u0323 Å Å Å",
    "'ſ 'S 'LL 'Ll 'll 'VE 's's 'ſs I'M we'Re K'd", "가각힣 각 \u1100\u1161\u11a8", "\U00011935\U00011930 \U00016d67\U00016d67",
]
CODE = [
    "def f(x, *args, **kwargs):\n    return {k: v**2 for k, v in kwargs.items()}\n",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i] * b[i];  // dot\n}\r\n", "<div class=\"a b\">&nbsp;&amp;</div><!-- c -->",
    "SELECT * FROM t WHERE x >= 10 AND y != 'it''s';", "https://example.com/a/b?c=d&e=%20f#g", "user.name+tag@mail.example.org",
    "#!/bin/sh\nset -euo pipefail\necho \"$HOME\" | sed 's/a/b/g' > /dev/null 2>&1\n", "x=0x1F;y=1_000_000;z=3.14e-10;w=1,234.56",
    "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"\\u00e9\\n\"}}", "\\frac{a}{b} \\alpha_{i,j}^{2} $$x$$", "C:\\Users\\a\\b.txt",
]
CONTRACTIONS = ["I'm", "you're", "he's", "we'll", "they've", "I'd", "can't", "'tis", "'S", "'RE", "o'clock", "''s", "rock 'n' roll",
                "don’t", "it's's", " 's", "\n's", "1's", "'sx", "'lll"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1f", "\x85", "\u00a0", "\u1680", "\u180e", "\u2003",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", " \n ", "\t \t", "\n \n"]
NUMBERS = ["0", "7", "42", "123", "1234", "1234567890", "3.14159", "1e10", "½", "٣٤", "१२", "Ⅻ", "¹²³", "𝟘𝟙", "2024-01-31", "12:34:56"]


def _random_text(rng, alphabet, low, high):
    return "".join(chr(rng.choice(alphabet)) for _ in range(rng.randint(low, high)))


def _code_points(rng):
    """A random scalar value, each plane and each width of UTF-8 being likely."""
    low, high = rng.choice([(0, 0x7f), (0x80, 0x7ff), (0x800, 0xd7ff), (0xe000, 0xffff), (0x10000, 0x1ffff), (0x20000, 0x10ffff)])
    return rng.randint(low, high)


def make_strings(specials, seed=20240131):
    rng = random.Random(seed)
    words = [w for s in SCRIPTS + CODE for w in s.split(" ")]
    pieces = words + CONTRACTIONS + SPACES * 3 + NUMBERS + list("!?.,;:-_()[]{}<>'\"#$%&@/\\|~^`*+=")
    strings = [""] + SCRIPTS + CODE + CONTRACTIONS + SPACES + NUMBERS + specials
    strings += [a + b for a in SPACES for b in SPACES] + [f"a{s}b{s}{s}1{s}" for s in SPACES]
    strings += ["".join(rng.choices(pieces, k=rng.randint(2, 30))) for _ in range(1500)]
    strings += [" ".join(rng.choices(words, k=rng.randint(2, 40))) for _ in range(700)]
    strings += ["".join(chr(_code_points(rng)) for _ in range(rng.randint(1, 24))) for _ in range(1200)]
    strings += [_random_text(rng, range(0x20, 0x7f), 1, 60) for _ in range(500)]
    strings += [_random_text(rng, range(0, 0x100), 1, 40) for _ in range(200)]
    marks = list(range(0x300, 0x370)) + [0x61, 0x65, 0x3b1, 0x1100, 0x1161, 0x11a8, 0x1dfa, 0x16ff0, 0xf71, 0xf72, 0xf73, 0xf81]
    strings += [_random_text(rng, marks, 1, 30) for _ in range(300)]
    strings += ["a" + _random_text(rng, marks[:112], 200, 400) + "b" for _ in range(20)]
    strings += [c * n for c in ["a", " ", "\n", "1", "=", "é", "中", "🙂", " a", "ab", "\u0301", " \n", "'s"] for n in (17, 64, 500, 3000)]
    strings += ["".join(rng.choices(specials + words + [" ", "\n", "<|", "|>", "<", "im_"], k=rng.randint(1, 12))) for _ in range(600)]
    return strings


def every_assigned_code_point_strings():
    """Strings that hold every assigned character between neighbours that show its class."""
    scalars = [c for c in range(0x33480) if not 0xd800 <= c < 0xe000] + list(range(0xe0000, 0xe0200))
    return ["".join(f"a{chr(c)}a{chr(c)}! {chr(c)}1{chr(c)}1!{chr(c)} {chr(c)}  " for c in scalars[i:i + 512]) for i in range(0, len(scalars), 512)]
