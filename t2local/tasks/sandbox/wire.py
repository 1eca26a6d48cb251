"""Plain values between a program's process and its tests' process, as bytes.

Numbers, text, bytes, tuples, lists, sets, dicts and dates cross as copies of exactly these types,
whatever subclass they were; of anything else only a number crosses, which stands for the object
in the program's process. Decoding runs no code of the sender and needs no deeper stack for what
is nested more deeply. Standard library only, few imports.
"""

MOST_ITEMS = 200_000  # of one iterator
MOST_LEVELS = 480  # each takes `encode` two calls, of the thousand that Python allows


def encode(value, handle_of):
    """Bytes of `value`; `handle_of(object) -> int` numbers what cannot cross.

    Raises `ValueError` for what is nested too deeply.
    """
    parts = []
    _encode(value, parts.append, handle_of, MOST_LEVELS)
    return b"".join(parts)


def decode(data, from_handle):
    """The value of `data`; `from_handle(number)` makes what stands for a handle.

    Raises `ValueError`, or what the sizes and types in it cause, for what `encode` did not write.
    """
    at, unfinished = 0, []
    while True:
        tag, size, at = _head(data, at)
        if tag in _BUILDERS:
            if len(unfinished) == MOST_LEVELS:
                raise ValueError(_TOO_DEEP)
            unfinished.append((tag, size, []))
        else:
            value, at = _scalar(tag, data[at : at + size], from_handle), at + size
            if not unfinished:
                break
            unfinished[-1][2].append(value)
        value = _finished(unfinished)
        if not unfinished:
            break
    if at != len(data):
        raise ValueError("bytes left over")
    return value


def _finished(unfinished):
    """Put what is complete into what it is part of; gives the outermost value, once that is."""
    value = None
    while unfinished and len(unfinished[-1][2]) == unfinished[-1][1]:
        tag, _, items = unfinished.pop()
        value = _BUILDERS[tag](items)
        if unfinished:
            unfinished[-1][2].append(value)
    return value


def _encode(value, put, handle_of, levels):
    kind = type(value)
    if value is None or value is True or value is False:
        put({None: b"N", True: b"T", False: b"F"}[value])
    elif kind is int:
        _sized(put, b"i", b"%x" % value if value >= 0 else b"-%x" % -value)
    elif kind is float:
        _sized(put, b"f", float.hex(value).encode())
    elif kind is complex:
        put(b"c")
        _encode(value.real, put, handle_of, levels)
        _encode(value.imag, put, handle_of, levels)
    elif kind is str:
        _sized(put, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind in (bytes, bytearray):
        _sized(put, b"b" if kind is bytes else b"a", bytes(value))
    elif kind is range:
        _sequence(put, b"r", (value.start, value.stop, value.step), handle_of, levels)
    elif kind in _SEQUENCES:
        _sequence(put, _SEQUENCES[kind], list(value), handle_of, levels)
    elif kind is dict:
        _sequence(put, b"d", [part for pair in value.items() for part in pair], handle_of, levels)
    else:
        _encode_other(value, put, handle_of, levels)


def _encode_other(value, put, handle_of, levels):
    for plain in (int, float, str, bytes, dict, tuple, list, set, frozenset):
        if isinstance(value, plain):
            return _encode(plain(value), put, handle_of, levels)
    kind = type(value)
    if kind.__module__ == "itertools" or (
        kind.__module__ == "builtins" and kind.__name__ in _ITERATORS
    ):
        items = [item for item, _ in zip(value, range(MOST_ITEMS), strict=False)]
        return _sequence(put, b"g", items, handle_of, levels)
    name = (kind.__module__, kind.__name__)
    if name in _REBUILT and (parts := _REBUILT[name](value)) is not None:
        return _sequence(put, b"x", [*name, *parts], handle_of, levels)
    return _sized(put, b"h", b"%x" % handle_of(value))


def _date_parts(value):
    """None for a date in a time zone of somebody's own making, which stays with its maker."""
    zone = getattr(value, "tzinfo", None)
    name = (type(zone).__module__, type(zone).__name__)
    return value.__reduce_ex__(4)[1] if zone is None or name == _ZONE else None


def _rebuild(items):
    module, name, *arguments = items
    if (module, name) not in _REBUILT:
        raise ValueError("not a type that is rebuilt")
    return getattr(__import__(module), name)(*arguments)


def _sized(put, tag, body):
    put(tag + b"%d:" % len(body))
    put(body)


def _sequence(put, tag, items, handle_of, levels):
    if not levels:
        raise ValueError(_TOO_DEEP)
    put(tag + b"%d:" % len(items))
    for item in items:
        _encode(item, put, handle_of, levels - 1)


def _head(data, at):
    """Tag and size of what begins there, and where its body begins."""
    tag, at = data[at : at + 1], at + 1
    if tag in _CONSTANTS:
        return tag, 0, at
    if tag == b"c":
        return tag, 2, at
    colon = data.index(b":", at, at + 24)
    size, at = int(data[at:colon]), colon + 1
    if size < 0 or size > len(data) - at:
        raise ValueError("a size out of range")
    return tag, size, at


def _scalar(tag, body, from_handle):
    if tag in _CONSTANTS:
        return _CONSTANTS[tag]
    if tag == b"i":
        return int(body, 16)
    if tag == b"f":
        return float.fromhex(body.decode())
    if tag == b"s":
        return body.decode("utf-8", "surrogatepass")
    if tag == b"h":
        return from_handle(int(body, 16))
    return _BYTES[tag](body)


_SEQUENCES = {tuple: b"t", list: b"l", set: b"S", frozenset: b"Z"}
_BYTES = {b"b": bytes, b"a": bytearray}
_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_BUILDERS = {
    b"c": lambda items: complex(*items),
    b"t": tuple,
    b"l": list,
    b"S": set,
    b"Z": frozenset,
    b"r": lambda items: range(*items),
    b"d": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
    b"g": iter,
    b"x": _rebuild,
}
_ZONE = ("datetime", "timezone")
_REBUILT = {  # by module and name: what it is made of
    ("collections", "deque"): lambda value: (list(value), value.maxlen),
    ("decimal", "Decimal"): lambda value: (str(value),),
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("datetime", "date"): _date_parts,
    ("datetime", "time"): _date_parts,
    ("datetime", "datetime"): _date_parts,
    _ZONE: lambda value: value.__reduce__()[1],
}
_TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
_ITERATORS = ("generator", "map", "filter", "zip", "enumerate", "reversed", "range_iterator")
_ITERATORS += ("list_iterator", "list_reverseiterator", "tuple_iterator", "set_iterator")
_ITERATORS += ("str_iterator", "str_ascii_iterator", "dict_keys", "dict_values", "dict_items")
_ITERATORS += ("dict_keyiterator", "dict_valueiterator", "dict_itemiterator")
