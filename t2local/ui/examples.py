"""Six prompts for an empty chat: one for each expert, two mixed ones, one for none of them."""

from dataclasses import dataclass

from t2local.plots import theme


@dataclass(frozen=True)
class Example:
    prompt: str
    shows: str
    colour: str


EXAMPLES = (
    Example(
        "A spider has 8 legs. How many legs do 7 spiders have together?",
        "math",
        theme.colour("math"),
    ),
    Example(
        "Write a Python function that returns the even numbers of a list.",
        "code",
        theme.colour("code"),
    ),
    Example(
        "Which object conducts electricity best: a wooden spoon, a copper wire or a glass cup?",
        "reasoning",
        theme.colour("reasoning"),
    ),
    Example(
        "Write a Python program that adds up 3.50, 4.25 and 1.75, and tell me the total.",
        "math and code together",
        theme.colour("code"),
    ),
    Example(
        "A plant grows 2 cm a day in the sun and 1 cm in the shade. Why, and how tall is it after "
        "3 days of each?",
        "reasoning and math together",
        theme.colour("reasoning"),
    ),
    Example("Hi! How are you doing today?", "small talk: no expert", theme.colour("other")),
)
