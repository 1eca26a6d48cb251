"""A program in one process, its tests in another: what the tests know, the program cannot read.

`serve` runs the program and answers calls. `run_tests` runs the tests, whose unknown names stand
for the program's: a call crosses as plain values and comes back as plain values, so an object that
claims to equal everything is no answer, and patching `assert`, `sys.exit` or a builtin changes
nothing here. Names the tests' own side has (builtins, the `trusted` text) are never asked for.
The tests trust nothing that comes across: a reply that cannot be understood is the last one, and
no test passes after it. So an answer that cannot cross is refused where it is given, and fails
the test that asked for it alone. Standard library only; runs inside the launcher's processes.
"""

import _operator
import builtins
import marshal
import os
import sys

import wire

# Modules a program may have imported for its tests' use; both sides then have their own.
SHARED_MODULES = ("math", "cmath", "collections", "itertools", "functools", "operator", "re")
SHARED_MODULES += ("string", "statistics", "fractions", "decimal", "datetime", "heapq", "bisect")
SHARED_MODULES += ("random", "copy", "typing", "sys")

PARSES, PARSES_NOT, DEFINES, DEFINES_NOT, PASSED, FAILED = b"s", b"S", b"d", b"D", b"P", b"F"


MOST_BYTES = 2**27  # of one message


class Gone(BaseException):
    """The program has ended, or sends what no program would; no test may take it for a result."""

    __module__ = "builtins"  # as it is shown


class Pipe:
    """Whole messages over a pair of file descriptors; `EOFError` when the other side is gone."""

    def __init__(self, incoming, outgoing):
        self.incoming, self.outgoing = incoming, outgoing
        self.broken = False  # the other side can no longer be asked

    def send(self, body):
        data = len(body).to_bytes(8, "big") + body
        while data:
            data = data[os.write(self.outgoing, data) :]

    def receive(self):
        size = int.from_bytes(self._exactly(8), "big")
        if size > MOST_BYTES:
            raise ValueError("a message too long")
        return self._exactly(size)

    def exchange(self, body, from_handle):
        """The other side's reply to `body`. Raises `Gone`, from then on always."""
        if self.broken:
            raise Gone("the program can no longer be asked")
        self.broken = True
        try:
            self.send(body)
            reply = wire.decode(self.receive(), from_handle)
            kind, rest = reply[0], reply[1:]
            count = _REPLIES[kind]
        except Exception as error:
            raise Gone(f"the program ended without an answer ({type(error).__name__})") from None
        if len(rest) != count:
            raise Gone("the program's answer makes no sense")
        self.broken = False
        return kind, rest

    def _exactly(self, size):
        parts = []
        while size:
            part = os.read(self.incoming, min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


_REPLIES = {"object": 1, "value": 2, "raised": 2, "missing": 0, "module": 1, "from": 2}

# --- the program's side -------------------------------------------------------------------------


def serve(pipe, program, imports, entry_point, namespace):
    """Run `program`, say whether it ended well and defines `entry_point`, then answer for ever.

    `imports`: what the tests' setup imports. All else of it could hold an answer and stays there.
    """
    objects = []

    def handle_of(value):
        objects.append(value)
        return len(objects) - 1

    ended = _attempt(program, namespace)
    defines = callable(namespace.get(entry_point)) if entry_point else ended
    pipe.send(wire.encode((ended, bool(defines)), handle_of))
    _attempt(imports, namespace, quiet=True)
    while True:
        try:
            request = wire.decode(pipe.receive(), objects.__getitem__)
        except EOFError:
            return
        try:
            reply = _readable(wire.encode(_answer(request, namespace), handle_of))
        except BaseException as error:
            reply = wire.encode(("raised", _known_kind(error), _message(error)), handle_of)
        pipe.send(reply)


def _readable(reply):
    """The reply, which the other side will understand. Raises whatever it would stumble over.

    A `dict` of the program's own kind in a `set`, say: as a plain one it can be in none.
    """
    if len(reply) > MOST_BYTES:
        raise ValueError("an answer too long")
    wire.decode(reply, lambda _: object())
    return reply


def _attempt(source, namespace, quiet=False):
    try:
        exec(compile(source, "<program>", "exec"), namespace)
    except BaseException:
        if not quiet:
            kind, error, frames = sys.exc_info()
            error.__traceback__ = None if kind is SyntaxError else frames.tb_next
            sys.__excepthook__(kind, error, error.__traceback__)
        return False
    return True


def _answer(request, namespace):
    verb, *rest = request
    if verb == "global":
        return _look_up(rest[0], namespace)
    if verb == "get":
        return ("value", getattr(rest[0], rest[1]), ())
    if verb == "set":
        return ("value", setattr(*rest), ())
    if verb == "do":
        return ("value", _OPERATIONS[rest[0]](*rest[1:]), ())
    if verb == "builtin":
        return ("object", builtins.__dict__[rest[0]])
    if verb == "function":
        return ("object", type(_answer)(marshal.loads(rest[0]), namespace, "test", rest[1]))
    function, arguments, named = rest
    result = function(*arguments, **named)
    return ("value", result, (*arguments, *named.values()))


def _first_items(value):
    return [item for item, _ in zip(value, range(wire.MOST_ITEMS), strict=False)]


_OPERATIONS = {
    "bool": bool,
    "len": len,
    "str": str,
    "repr": repr,
    "items": _first_items,
    "item": _operator.getitem,
    "set item": _operator.setitem,
}


def _look_up(name, namespace):
    if name not in namespace:
        return ("missing",)
    value = namespace[name]
    if type(value) is type(sys):
        return ("module", value.__name__)
    home, own_name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if home in SHARED_MODULES and getattr(sys.modules.get(home), str(own_name), None) is value:
        return ("from", home, own_name)
    return ("value", value, ())


def _known_kind(error):
    """The nearest built-in error that `error` is one of: what the tests' side can raise."""
    kinds = type(error).__mro__
    return next(kind.__name__ for kind in kinds if builtins.__dict__.get(kind.__name__) is kind)


def _message(error):
    try:
        return str(error)[:500]
    except Exception:
        return ""


# --- the tests' side ----------------------------------------------------------------------------


class Remote:
    """Stands for an object of the program, which does what it is asked and answers in plain values.

    It has no operators, and `in` looks at its items here: a program must not say itself that its
    answer is the right one.
    """

    __slots__ = ("_ask", "_number")

    def __init__(self, ask, number):
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments, **named):
        return self._ask(("call", self, arguments, named), (*arguments, *named.values()))

    def __getattr__(self, name):
        return self._ask(("get", self, name))

    def __setattr__(self, name, value):
        self._ask(("set", self, name, value))

    def __bool__(self):
        return self._ask(("do", "bool", self))

    def __len__(self):
        return self._ask(("do", "len", self))

    def __str__(self):
        return self._ask(("do", "str", self))

    def __repr__(self):
        return self._ask(("do", "repr", self))

    def __iter__(self):
        return iter(self._ask(("do", "items", self)))

    def __getitem__(self, key):
        return self._ask(("do", "item", self, key))

    def __setitem__(self, key, value):
        self._ask(("do", "set item", self, key, value))


class Names(dict):
    """The tests' globals: their own names, builtins, and beyond these the program's."""

    def __init__(self, ask, entry_point):
        super().__init__(__name__="__main__")
        self._ask, self._entry_point = ask, entry_point

    def __missing__(self, name):
        if name != self._entry_point and name in builtins.__dict__:
            raise KeyError(name)
        return self._ask(("global", name))


def run_tests(pipe, report, program, texts, entry_point):
    """`report` one byte each: does it parse, does it define the entry point, then every test.

    `texts`: "trusted", "setup" and "tests", as `process.run_tests` describes them.
    """
    try:
        compile(program, "<program>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return report(PARSES_NOT)
    report(PARSES)
    ended, defines = wire.decode(pipe.receive(), int)
    report(DEFINES if defines is True else DEFINES_NOT)
    if ended is not True:
        return None
    names = Names(_asker(pipe), entry_point)
    if texts["trusted"]:
        _attempt(texts["trusted"], names, quiet=True)
        names.pop(entry_point, None)
    well = not texts["setup"] or _attempt(texts["setup"], names)
    for test in texts["tests"]:
        report(PASSED if well and _attempt(test, names) and not pipe.broken else FAILED)
    return None


def _asker(pipe):
    def ask(request, arguments=()):
        body = wire.encode(request, number_of)
        kind, rest = pipe.exchange(body, lambda number: Remote(ask, number))
        if kind == "object":
            return rest[0]
        if kind == "value":
            _take_over(arguments, rest[1])
            return rest[0]
        if kind == "raised":
            raise _error(*rest)
        if kind == "missing" or rest[0] not in SHARED_MODULES:
            raise KeyError(request[1])
        return _shared(*rest)

    def number_of(value):
        if type(value) is not Remote:
            value = _over_there(value, ask)
        return object.__getattribute__(value, "_number")

    return ask


def _error(name, message):
    """The built-in error `name`, or the nearest that can be raised here.

    `StopIteration` would end the `map` or `for` of a test quietly, and what it has not looked at
    would pass; as out of a generator, a `RuntimeError` comes in its place.
    """
    known = builtins.__dict__.get(name) if type(name) is str else None
    if not (isinstance(known, type) and issubclass(known, Exception)):
        known = Exception
    if issubclass(known, (StopIteration, StopAsyncIteration)):
        return RuntimeError(f"the program raised {name}")
    if issubclass(known, UnicodeError):  # which is made of five parts, but need not be
        error = known.__new__(known)
        error.args = (message,)
        return error
    return Exception(message) if issubclass(known, ExceptionGroup) else known(message)


def _shared(module, name=None):
    """Our own copy of a module the program has imported, or of something public in it."""
    home = __import__(module)
    if name is None:
        return home
    if home is sys or type(name) is not str or name.startswith("_"):
        raise KeyError(name)
    return getattr(home, name)


def _over_there(value, ask):
    """A type, a built-in or a plain function that a test hands over: the program gets its like."""
    name = getattr(value, "__name__", "")
    if builtins.__dict__.get(name) is value:
        return ask(("builtin", name))
    if type(value) is type(_asker) and value.__closure__ is None:
        return ask(("function", marshal.dumps(value.__code__), value.__defaults__))
    raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the program")


def _take_over(arguments, changed):
    """What the program did to a list, set or dict it was given happens here too."""
    for own, other in zip(arguments, changed, strict=False):
        if type(own) is not type(other) or own == other:
            continue
        if type(own) is list:
            own[:] = other
        elif type(own) in (set, dict):
            own.clear()
            own.update(other)
