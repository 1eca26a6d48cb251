"""One decorator that turns a user's mistake into one message on the page.

A `try` around a generator function catches nothing, so generators get their own branch. Anything
but a `T2LocalError` is a programmer's mistake and passes through.
"""

import functools
import inspect
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from t2local.errors import T2LocalError


def shown(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback whose `T2LocalError` appears as a message on the page."""
    if inspect.isgeneratorfunction(callback):

        @functools.wraps(callback)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from callback(*args, **kwargs)
            except T2LocalError as error:
                raise as_message(error) from error

        return stream

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except T2LocalError as error:
            raise as_message(error) from error

    return call


def as_message(error: T2LocalError) -> gr.Error:
    """Plain text: a file name or a prompt in the sentence is never read as markup."""
    return gr.Error(escape(str(error)), duration=12, print_exception=False)
