"""`bench`: what is measured, each subject in its own module; they print and assert nothing."""
