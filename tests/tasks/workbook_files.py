"""Writes .xlsx and .ods files by hand, as small as the formats allow."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
DATE_STYLE = 1

# A number with its style, or a cell's attributes and content as they are written.
Cell = str | float | bool | None | tuple[float, int] | tuple[str, str]
FIRST_OWN_STYLE = 2  # of the formats given


def xlsx(
    sheets: Mapping[str, Sequence[Sequence[Cell]]],
    far: bool = False,
    formats: Sequence[str] = (),
    properties: str = "",
) -> bytes:
    """A workbook of such sheets; `(days, DATE_STYLE)` is a date, `None` no cell.

    `far`: each sheet's last cell is filled too. `formats`: codes of the styles from
    `FIRST_OWN_STYLE` on. `properties`: attributes of the workbook.
    """
    named = list(enumerate(sheets, 1))
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/></Types>',
        "_rels/.rels": _relations([("r1", "officeDocument", "xl/workbook.xml")]),
        "xl/_rels/workbook.xml.rels": _relations(
            [(f"r{i}", "worksheet", f"worksheets/sheet{i}.xml") for i, _ in named]
            + [("styles", "styles", "styles.xml")]
        ),
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}">'
        f"<workbookPr {properties}/><sheets>"
        + "".join(f'<sheet name="{escape(n)}" sheetId="{i}" r:id="r{i}"/>' for i, n in named)
        + "</sheets></workbook>",
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><numFmts>'
        + "".join(
            f'<numFmt numFmtId="{164 + i}" formatCode={quoteattr(code)}/>'
            for i, code in enumerate(formats)
        )
        + '</numFmts><cellStyleXfs><xf numFmtId="9"/></cellStyleXfs>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/>'
        + "".join(f'<xf numFmtId="{164 + i}"/>' for i in range(len(formats)))
        + "</cellXfs></styleSheet>",
    }
    for i, name in named:
        rows = "".join(_row(number, cells) for number, cells in enumerate(sheets[name], 1))
        rows += '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>' * far
        parts[f"xl/worksheets/sheet{i}.xml"] = (
            f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'
        )
    return zipped(parts)


def ods(rows: Sequence[Sequence[str | float | tuple[str, str]]]) -> bytes:
    """An OpenDocument spreadsheet with one sheet; a pair is a cell's attributes and content."""

    def cell(value: str | float | tuple[str, str]) -> str:
        if isinstance(value, tuple):
            return f"<table:table-cell {value[0]}>{value[1]}</table:table-cell>"
        if isinstance(value, str):
            text = f"<text:p>{escape(value)}</text:p>"
            return f'<table:table-cell office:value-type="string">{text}</table:table-cell>'
        return f'<table:table-cell office:value-type="float" office:value="{value}"/>'

    body = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
    space = "urn:oasis:names:tc:opendocument:xmlns"
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f'<m:manifest xmlns:m="{space}:manifest:1.0"/>',
            "content.xml": (
                f'<office:document-content xmlns:office="{space}:office:1.0" '
                f'xmlns:table="{space}:table:1.0" xmlns:text="{space}:text:1.0" '
                'xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:'
                'calcext:1.0">'
                f'<office:body><office:spreadsheet><table:table table:name="S">{body}'
                "</table:table></office:spreadsheet></office:body></office:document-content>"
            ),
        }
    )


def zipped(parts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def _relations(entries: Sequence[tuple[str, str, str]]) -> str:
    listed = "".join(
        f'<Relationship Id="{i}" Type="{OFFICE}/{kind}" Target="{target}"/>'
        for i, kind, target in entries
    )
    return f'<Relationships xmlns="{PACKAGE}/relationships">{listed}</Relationships>'


def _row(number: int, cells: Sequence[Cell]) -> str:
    written = "".join(
        _cell(f"{chr(65 + i)}{number}", cell) for i, cell in enumerate(cells) if cell is not None
    )
    return f'<row r="{number}">{written}</row>'


def _cell(place: str, cell: Cell) -> str:
    match cell:
        case bool():
            return f'<c r="{place}" t="b"><v>{int(cell)}</v></c>'
        case str():
            text = f'<t xml:space="preserve">{escape(cell)}</t>'
            return f'<c r="{place}" t="inlineStr"><is>{text}</is></c>'
        case (str() as given, str() as content):
            return f'<c r="{place}" {given}>{content}</c>'
        case (value, style):
            return f'<c r="{place}" s="{style}"><v>{value}</v></c>'
    return f'<c r="{place}"><v>{cell}</v></c>'
