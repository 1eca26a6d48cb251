"""Starts t2local: arguments → Engine → page."""

import argparse
import sys

from t2local.ui.launch import run


def make_engine(options: argparse.Namespace) -> object:
    from t2local.engine.engine import Engine  # heavy: not for --help

    return Engine(options.model, quantize=options.quantize, basis=options.basis)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], make_engine))
