"""The page's looks: theme, style and scripts from `assets/`, its templates, and the header line."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import LocalFont

from t2local.engine.access import LOGOUT
from t2local.engine.chats import MOST_BYTES
from t2local.engine.doors import Doors
from t2local.engine.requests import EngineStatus
from t2local.html import Templates
from t2local.paths import PROJECT_ROOT
from t2local.plots import theme
from t2local.ui.messages import TERMS, explained

READY_HINT = "Ask something …"
SEEING_HINT = f"Ask something, or show a picture of at most {MOST_BYTES // 2**20} MB …"
# In the browser: save the file at a path that the page serves.
SAVE_IT = """(path) => {
    const link = document.createElement("a");
    link.href = `gradio_api/file=${path}`;
    link.download = path.split(/[\\\\/]/).pop();
    link.click();
}"""


def size(n_bytes: int) -> str:
    """`1.1 GB`, `480 KB`: decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if n_bytes >= factor:
            value = n_bytes / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{n_bytes} B"


PAGE = Templates(
    Path(__file__).with_name("templates"), (theme.colour, size, explained), TERMS=TERMS
)


def login_html(action: str, said: str, named: bool = False) -> str:
    """The way in, a page of its own. `action`: where the password goes; `said`: what was wrong.

    `named`: each person has an account.
    """
    return PAGE.render("login.html", "login", action=action, said=said, named=named)


def header_html(status: EngineStatus, doors: Doors | None = None, who: str = "") -> str:
    """`who`: the name of the person whose page it is, where each has an account."""
    facts = (
        status.model_name,
        "base model, made to go on with a text" if status.base else "",
        held(status),
        f"{size(status.memory_bytes or status.resident_bytes)} of memory",
        status.device,
        status.why,
    )
    return PAGE.render(
        "page.html",
        "header",
        facts=[fact for fact in facts if fact] if status.ready else [],
        beside=status.beside,
        error=status.error,
        stage=status.stage,
        share=min(1.0, max(0.0, status.fraction)),
        warning=doors.warning if doors else "",
        who=who,
        log_out=f"{doors.root_path}{LOGOUT}" if doors and doors.asks else "",
    )


def hint(status: EngineStatus) -> str:
    """What the message box says: how to use it, or why it cannot be used yet."""
    if status.error:
        return "The model could not be loaded: see the message at the top."
    if not status.ready:
        return f"One moment, the model is loading: {status.stage} {100 * status.fraction:.0f} %"
    return SEEING_HINT if status.sees else READY_HINT


def held(status: EngineStatus) -> str:
    """How the weights are held: `float32`, `NF4`, `INT8`."""
    return status.dtype if status.quantization == "none" else status.quantization.upper()


def quiet_html(sentence: str) -> str:
    return PAGE.render("page.html", "quiet", sentence=sentence)


def note_html(sentence: str) -> str:
    return PAGE.render("page.html", "note", sentence=sentence)


def heading_html(words: str) -> str:
    return PAGE.render("page.html", "heading", words=words)


def caption_html(sentence: str) -> str:
    return PAGE.render("page.html", "caption", sentence=sentence)


# --- The page's looks: a quiet theme; its fonts come with gradio or the system.

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
    looks = gr.themes.Base(
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
    return looks.set(
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


# --- Reads what ships in `assets/`: style and the small scripts of the page's own components.

FOLDER = PROJECT_ROOT / "assets"


def asset(name: str) -> str:
    """The text of one file of `assets/`."""
    return (FOLDER / name).read_text(encoding="utf-8")
