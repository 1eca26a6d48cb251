"""The Arena tab: two answers to one prompt, a blind vote, and how contenders stand."""
