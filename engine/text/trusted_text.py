"""Text that knows which of its characters the template wrote.

A control token counts only where the template wrote all of it. What a request holds is plain `str`,
what the template's author wrote is `Text`: a `str` of the same characters with a mask beside it, one
byte a character. Operations carry the mask along. One that does not know how gives plain `str`, and
plain text is never a control token: what is not tracked is lost, not forged. To a template both look
the same, for the mask is an attribute that its sandbox hides.
"""

import re

PLAIN, TRUSTED, FINAL = 0, 1, 2  # FINAL: plain, and of the message that is to be continued


class Text(str):
    __slots__ = ("_mask",)

    def __new__(cls, value=""):
        text = str(value)
        return text if type(text) is Text else make(text, bytes(len(text)))

    def __str__(self):
        return self

    def __add__(self, other):
        return concat((self, other)) if type(other) in (str, Text) else NotImplemented

    def __radd__(self, other):
        return concat((other, self)) if type(other) is str else NotImplemented

    def __mul__(self, times):
        return make(str.__mul__(self, times), self._mask * times)

    __rmul__ = __mul__

    def __mod__(self, values):
        return percent(self, values)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return make(str.__getitem__(self, place), self._mask[place])
        character = str.__getitem__(self, place)
        return make(character, self._mask[place : place + 1] if place != -1 else self._mask[-1:])

    def __iter__(self):
        for i, character in enumerate(str.__iter__(self)):
            yield make(character, self._mask[i : i + 1])

    def strip(self, characters=None):
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters=None):
        text = str.lstrip(self, characters)
        return make(text, self._mask[len(self) - len(text) :])

    def rstrip(self, characters=None):
        text = str.rstrip(self, characters)
        return make(text, self._mask[: len(text)])

    def removeprefix(self, prefix):
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix):
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep=None, maxsplit=-1):
        return self._cut(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep=None, maxsplit=-1):
        return self._cut(str.rsplit(self, sep, maxsplit), sep, from_end=True)

    def splitlines(self, keepends=False):
        pieces = self._cut(str.splitlines(self, True), "")
        return pieces if keepends else [piece[: len(line)] for piece, line in zip(pieces, str.splitlines(self))]

    def partition(self, sep):
        return tuple(self._cut(str.partition(self, sep), ""))

    def rpartition(self, sep):
        return tuple(self._cut(str.rpartition(self, sep), ""))

    def _cut(self, pieces, sep, from_end=False):
        """The pieces of a split as Text. Between two of them `sep` is cut away; white space for None."""
        found, place = [], len(self) if from_end else 0
        for piece in reversed(pieces) if from_end else pieces:
            if sep is not None:
                begin = place - len(piece) if from_end else place
                place = begin - len(sep) if from_end else begin + len(piece) + len(sep)
            elif from_end:
                begin = place = self.rfind(piece, 0, place)
            else:
                begin = self.find(piece, place)
                place = begin + len(piece)
            found.append(make(piece, self._mask[begin : begin + len(piece)]))
        return found[::-1] if from_end else found

    def replace(self, old, new, count=-1):
        if count == 0 or not isinstance(old, str) or not isinstance(new, str):
            return make(str.replace(self, old, new, count), self._mask)
        if old == "":
            return uniform(self, str.replace(self, old, new, count), new)
        pieces = self.split(old, count)
        return join(new, pieces) if len(pieces) > 1 else self

    def join(self, items):
        return join(self, items)


def _same_length(name):
    """A method that maps characters. A case may lengthen a text; then only a uniform mask goes along."""
    method = getattr(str, name)

    def mapped(self):
        text = method(self)
        return make(text, self._mask) if len(text) == len(self) else uniform(self, text)

    mapped.__name__ = name
    return mapped


def _uniform(name):
    method = getattr(str, name)

    def filled(self, *args, **kwargs):
        return uniform(self, method(self, *args, **kwargs), *args, *kwargs.values())

    filled.__name__ = name
    return filled


for _name in ("upper", "lower", "title", "capitalize", "swapcase", "casefold"):
    setattr(Text, _name, _same_length(_name))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs", "translate"):
    setattr(Text, _name, _uniform(_name))


Text.__name__ = "str"  # in messages of errors too


def make(text, mask):
    result = str.__new__(Text, text)
    result._mask = mask
    return result


def trusted(text):
    return make(text, b"\1" * len(text))


def final(text):
    return make(text, b"\2" * len(text))


def mask_of(text):
    return text._mask if type(text) is Text else bytes(len(text))


def uniform(source, text, *others):
    """`text`, made of `source` and `others` in a way that is not followed: masked only if all agree."""
    value = source._mask[:1]
    for one in (source, *others):
        if isinstance(one, str):
            mask = mask_of(one)
            if mask.count(value) != len(mask):
                return text
        elif not isinstance(one, (int, type(None))):
            return text
    return make(text, value * len(text)) if value else text


def concat(texts):
    """"".join(texts), where each is a str."""
    return make("".join(texts), b"".join([t._mask if type(t) is Text else bytes(len(t)) for t in texts]))


def join(separator, items):
    texts, masks = [], []
    for item in items:
        if not isinstance(item, str):
            str.join(separator, [item])  # raises what str.join raises
        texts.append(item)
        masks.append(mask_of(item))
    return make(str.join(separator, texts), mask_of(separator).join(masks))


CONVERSION = re.compile(r"%[#0\- +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa%]")


def percent(pattern, values):
    """pattern % values. The pattern's own text and what a plain %s shows keep their masks."""
    text = str.__mod__(pattern, values)
    arguments = list(values) if isinstance(values, tuple) else [values]
    pieces, place, begin = [], 0, 0
    for match in CONVERSION.finditer(pattern):
        pieces.append(pattern[begin : match.start()])
        begin = match.end()
        if match.group().endswith("%"):
            pieces.append(make("%", mask_of(pattern[match.start() : match.start() + 1])))
            continue
        if place == len(arguments):
            return text
        argument = arguments[place]
        place += 1
        is_text = match.group() == "%s" and isinstance(argument, str)
        pieces.append(argument if is_text else str.__mod__(str(match.group()), (argument,)))
    pieces.append(pattern[begin:])
    followed = concat(pieces)
    return followed if str.__eq__(followed, text) else text
