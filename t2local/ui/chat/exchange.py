"""Export and import of chats, below their list: laid out here, and what it does."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from t2local.engine.chat_export import JSON, MARKDOWN, OPENAI, exported
from t2local.engine.chat_import import take_in
from t2local.engine.engine import Engine
from t2local.errors import T2LocalError
from t2local.ui.messages import as_text, shown
from t2local.ui.style import SAVE_IT

THIS, ALL = "this chat", "all chats"
FORMATS = [("whole, to import again", JSON), ("Markdown", MARKDOWN), ("OpenAI's messages", OPENAI)]
MOST_SKIPPED = 3  # that are told one by one


@dataclass(frozen=True)
class Exchange:
    """`download`: unseen, the path of the file to hand over."""

    which: gr.Radio
    format: gr.Radio
    export: gr.Button
    bring: gr.UploadButton
    download: gr.Textbox


def create_exchange() -> Exchange:
    with gr.Accordion("export and import", open=False, elem_id="exchange"):
        which = gr.Radio(
            [THIS, ALL], value=THIS, label="which", show_label=False, container=False,
            elem_id="export-which",
        )  # fmt: skip
        format = gr.Radio(
            FORMATS, value=JSON, label="format", show_label=False, container=False,
            elem_id="export-format",
        )  # fmt: skip
        export = gr.Button("Export", size="sm", elem_id="export-chats")
        bring = gr.UploadButton(
            "Import chats", file_types=[".json", ".jsonl", ".zip"], size="sm",
            elem_id="import-chats",
        )  # fmt: skip
        download = gr.Textbox(visible=False)
    return Exchange(which, format, export, bring, download)


class ExchangeEvents:
    """Binds an `Exchange`. `chat_id`: of the chat that is shown."""

    def __init__(self, engine: Engine, exchange: Exchange, chat_id: gr.State) -> None:
        self.engine, self.exchange, self.chat_id = engine, exchange, chat_id

    def bind(self) -> Dependency:
        """Gives the event of an import, after which the list of chats is another one."""
        part, quiet = self.exchange, {"show_progress": "hidden"}
        asked = {part.which, part.format, self.chat_id}
        exporting = part.export.click(shown(self.exported), asked, part.download, **quiet)
        exporting.success(None, part.download, None, js=SAVE_IT)
        return part.bring.upload(shown(self.brought), {part.bring}, None, **quiet)

    def exported(self, values: dict) -> str:
        """A file in the folder from which the page may serve files."""
        part, store = self.exchange, self.engine.chats
        if values[part.which] == ALL:
            chats = [store.load(found.id) for found in store.list()]
        else:
            chat = store.load_or_new(values[self.chat_id])
            chats = [chat] if chat.messages else []
        name, content = exported(chats, values[part.format])
        folder = Path(part.download.GRADIO_CACHE) / "chats"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_bytes(content)
        return str(path)

    def brought(self, values: dict) -> None:
        if not values[self.exchange.bring]:
            raise T2LocalError("No file was given; choose a file of chats.")
        saved, skipped = take_in(self.engine.chats, Path(values[self.exchange.bring]))
        gr.Info(as_text(f"{len(saved)} chat{'s' * (len(saved) != 1)} came in."))
        for line in skipped[:MOST_SKIPPED]:
            gr.Warning(as_text(line), title="One chat was left out")
        if more := len(skipped[MOST_SKIPPED:]):
            gr.Warning(f"{more} more could not be read.", title="Chats")
