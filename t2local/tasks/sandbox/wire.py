"""Plain values between a program's process and its tests' process, as bytes.

Numbers, text, bytes, tuples, lists, sets, dicts and dates cross as copies of exactly these types,
whatever subclass they were; of anything else only a number crosses, which stands for the object
in the program's process. Decoding runs no code of the sender, and what is nested too deeply is
refused before the stack is full. Standard library only, few imports.
"""

MOST_ITEMS = 200_000  # of one iterator
MOST_LEVELS = 400


def encode(value, handle_of):
    """Bytes of `value`; `handle_of(object) -> int` numbers what cannot cross."""
    parts = []
    _encode(value, parts.append, handle_of)
    return b"".join(parts)


def decode(data, from_handle):
    """The value of `data`; `from_handle(number)` makes what stands for a handle.

    Raises `ValueError`, or what the sizes and types in it cause, for what `encode` did not write.
    """
    value, end = _decode(data, 0, from_handle, MOST_LEVELS)
    if end != len(data):
        raise ValueError("bytes left over")
    return value


def _encode(value, put, handle_of):
    kind = type(value)
    if value is None or value is True or value is False:
        put({None: b"N", True: b"T", False: b"F"}[value])
    elif kind is int:
        _sized(put, b"i", b"%x" % value if value >= 0 else b"-%x" % -value)
    elif kind is float:
        _sized(put, b"f", float.hex(value).encode())
    elif kind is complex:
        put(b"c")
        _encode(value.real, put, handle_of)
        _encode(value.imag, put, handle_of)
    elif kind is str:
        _sized(put, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind in (bytes, bytearray):
        _sized(put, b"b" if kind is bytes else b"a", bytes(value))
    elif kind is range:
        _sequence(put, b"r", (value.start, value.stop, value.step), handle_of)
    elif kind in _SEQUENCES:
        _sequence(put, _SEQUENCES[kind], list(value), handle_of)
    elif kind is dict:
        _sequence(put, b"d", [part for pair in value.items() for part in pair], handle_of)
    else:
        _encode_other(value, put, handle_of)


def _encode_other(value, put, handle_of):
    for plain in (int, float, str, bytes, dict, tuple, list, set, frozenset):
        if isinstance(value, plain):
            return _encode(plain(value), put, handle_of)
    kind = type(value)
    if kind.__module__ == "itertools" or (
        kind.__module__ == "builtins" and kind.__name__ in _ITERATORS
    ):
        items = [item for item, _ in zip(value, range(MOST_ITEMS), strict=False)]
        return _sequence(put, b"g", items, handle_of)
    if (kind.__module__, kind.__name__) == _DEQUE:
        return _sequence(put, b"x", (*_DEQUE, list(value), value.maxlen), handle_of)
    if (kind.__module__, kind.__name__) in _REBUILT:
        _, arguments = value.__reduce__()[:2]
        return _sequence(put, b"x", [kind.__module__, kind.__name__, *arguments], handle_of)
    return _sized(put, b"h", b"%x" % handle_of(value))


def _rebuild(items):
    module, name, *arguments = items
    if (module, name) not in _REBUILT:
        raise ValueError("not a type that is rebuilt")
    return getattr(__import__(module), name)(*arguments)


def _sized(put, tag, body):
    put(tag + b"%d:" % len(body))
    put(body)


def _sequence(put, tag, items, handle_of):
    put(tag + b"%d:" % len(items))
    for item in items:
        _encode(item, put, handle_of)


def _decode(data, at, from_handle, levels):
    if not levels:
        raise ValueError("nested too deeply")
    tag, at = data[at : at + 1], at + 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"c":
        real, at = _decode(data, at, from_handle, levels - 1)
        imaginary, at = _decode(data, at, from_handle, levels - 1)
        return complex(real, imaginary), at
    colon = data.index(b":", at, at + 24)
    size, at = int(data[at:colon]), colon + 1
    if size < 0 or size > len(data):
        raise ValueError("a size out of range")
    if tag in b"ifsbah":
        return _scalar(tag, data[at : at + size], from_handle), at + size
    items = []
    for _ in range(size):
        item, at = _decode(data, at, from_handle, levels - 1)
        items.append(item)
    return _BUILDERS[tag](items), at


def _scalar(tag, body, from_handle):
    if tag == b"i":
        return int(body, 16)
    if tag == b"f":
        return float.fromhex(body.decode())
    if tag == b"s":
        return body.decode("utf-8", "surrogatepass")
    if tag == b"h":
        return from_handle(int(body, 16))
    return bytes(body) if tag == b"b" else bytearray(body)


_SEQUENCES = {tuple: b"t", list: b"l", set: b"S", frozenset: b"Z"}
_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_BUILDERS = {
    b"t": tuple,
    b"l": list,
    b"S": set,
    b"Z": frozenset,
    b"r": lambda items: range(*items),
    b"d": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
    b"g": iter,
    b"x": _rebuild,
}
_DEQUE = ("collections", "deque")
_REBUILT = (_DEQUE, ("decimal", "Decimal"), ("fractions", "Fraction"), ("datetime", "timedelta"))
_REBUILT += (("datetime", "date"), ("datetime", "time"), ("datetime", "datetime"))
_ITERATORS = ("generator", "map", "filter", "zip", "enumerate", "reversed", "range_iterator")
_ITERATORS += ("list_iterator", "list_reverseiterator", "tuple_iterator", "set_iterator")
_ITERATORS += ("str_iterator", "str_ascii_iterator", "dict_keys", "dict_values", "dict_items")
_ITERATORS += ("dict_keyiterator", "dict_valueiterator", "dict_itemiterator")
