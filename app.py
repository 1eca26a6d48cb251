"""Starts t2local: arguments → Engine → page."""

import argparse
import sys

from t2local.ui.launch import run


def make_engine(options: argparse.Namespace) -> object:
    from t2local.engine.engine import Engine
    from t2local.engine.loading import at_start

    first = at_start(options.model, options.quantize, options.basis)
    how = (first.quantize, first.basis, first.targets, first.why, options.precision)
    return Engine(first.source, *how)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], make_engine))
