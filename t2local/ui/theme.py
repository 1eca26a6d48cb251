"""The page's looks: a quiet theme; its fonts come with gradio or the system."""

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import LocalFont

FONT = ("IBM Plex Sans", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
WEIGHTS = (400, 700)  # the semibold file that comes with gradio lacks most letters
MONO = ("IBM Plex Mono", "Cascadia Code", "DejaVu Sans Mono", "monospace")

PINE = Color(
    "#eef6f4", "#d6e9e5", "#aed3cb", "#7fb8ad", "#4e988c", "#2c7a70",
    "#23655d", "#1d524c", "#18413d", "#12312e", "#0b1f1d", "pine",
)  # fmt: skip
STONE = Color(
    "#faf9f6", "#f3f1ec", "#e6e3dc", "#d2cec5", "#a7a298", "#77736b",
    "#57544e", "#3c3b38", "#262829", "#1a1d1f", "#121416", "stone",
)  # fmt: skip


def page_theme() -> gr.themes.Base:
    """Paper and pine by day, slate and mint by night; no font is fetched."""
    theme = gr.themes.Base(
        primary_hue=PINE,
        secondary_hue=PINE,
        neutral_hue=STONE,
        font=[LocalFont(FONT[0], weights=WEIGHTS), *(gr.themes.Font(name) for name in FONT[1:])],
        font_mono=[
            LocalFont(MONO[0], weights=WEIGHTS),
            *(gr.themes.Font(name) for name in MONO[1:]),
        ],
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_sm,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_800",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="*neutral_950",
        slider_color="*primary_500",
        slider_color_dark="*primary_300",
    )
