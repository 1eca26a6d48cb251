"""The command line: arguments in, one engine or library call, one answer out."""
