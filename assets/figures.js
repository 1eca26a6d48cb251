// Every figure can be opened large: drawn anew over the whole window, with larger letters, and saved
// as SVG or PNG. Gradio's own plotly draws it (`window.Plotly`, there once a figure was drawn).
(() => {
  const ICON = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M9.5 2H14v4.5M14 2 9 7M6.5 14H2V9.5M2 14l5-5"/></svg>';
  const GROWS = new Set("size thickness width cornerradius standoff ticklabelstandoff l r t b".split(" "));
  let source = null, drawn = null; // the block whose figure is shown, and its data when it was drawn

  const dialog = document.createElement("dialog");
  dialog.id = "figure";
  dialog.setAttribute("aria-labelledby", "figure-said");
  dialog.innerHTML =
    '<header><p id="figure-said"></p><button type="button" data-save="svg">SVG</button>' +
    '<button type="button" data-save="png">PNG</button><button type="button" data-close autofocus>Close</button></header><div></div>';
  document.body.append(dialog);
  const sheet = dialog.lastChild;
  const plotOf = (block) => block?.querySelector(".js-plotly-plot");

  // `factor` times the letters, lines, dots and margins; numbers that are drawn stay as they are.
  const grown = (value, factor, key = "") => {
    if (typeof value === "number" && GROWS.has(key)) {
      return key === "ticklabelstandoff" ? Math.round(value * factor) : value * factor; // it must be whole
    }
    if (Array.isArray(value)) {
      return key === "size" || typeof value[0] === "object" ? value.map((one) => grown(one, factor, key)) : value;
    }
    if (!value || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, grown(one, factor, name)]));
  };

  const draw = () => {
    const plot = plotOf(source);
    if (!plot?.data?.length) return;
    drawn = plot.data;
    const looks = getComputedStyle(document.body), ink = looks.getPropertyValue("--ink").trim();
    const width = sheet.clientWidth, height = sheet.clientHeight;
    const factor = Math.max(1.25, Math.min(2.2, width / 560, height / 340));
    const { width: _, height: __, ...own } = structuredClone(plot.layout);
    const data = grown(structuredClone(plot.data), factor), layout = grown(own, factor);
    for (const trace of data) if (trace.type === "bar" && trace.error_x) trace.error_x.color = ink;
    // Files have no page behind them, so that the colours are written into the figure.
    Object.assign(layout, { width, height, autosize: false, paper_bgcolor: looks.getPropertyValue("--card").trim() });
    layout.font = { ...layout.font, color: ink };
    if (layout.showlegend) {
      layout.legend = { ...layout.legend, font: { size: layout.font.size }, x: 0, y: 1.02, yanchor: "bottom" };
    }
    window.Plotly.react(sheet, data, layout, { displayModeBar: false });
  };

  const caption = (block) => {
    for (let at = block.previousElementSibling; at; at = at.previousElementSibling) {
      const said = at.matches(".caption") ? at : at.querySelector(".caption");
      if (said) return said.textContent.trim();
      if (plotOf(at)) break;
    }
    return block.id.replace("plot-", "");
  };

  const open = (block) => {
    source = block;
    dialog.querySelector("p").textContent = caption(block);
    dialog.showModal();
    draw();
  };

  dialog.addEventListener("click", (e) => {
    const format = e.target.dataset.save;
    if (format) {
      const { clientWidth: width, clientHeight: height } = sheet, scale = format === "png" ? 2 : 1;
      window.Plotly.downloadImage(sheet, { format, width, height, scale, filename: source.id.replace("plot-", "t2local-") });
    } else if ("close" in e.target.dataset) dialog.close();
  });
  dialog.addEventListener("keydown", (e) => e.stopPropagation()); // Esc leaves the drawers open
  dialog.addEventListener("close", () => {
    window.Plotly.purge(sheet);
    source = drawn = null;
  });
  addEventListener("resize", () => dialog.open && draw());

  // Figures come, change and go with their components: each block that has one gets a button, and
  // one that changes while it is shown large is drawn again.
  const look = () => {
    for (const plot of document.querySelectorAll(".block > .js-plotly-plot")) {
      const block = plot.parentElement;
      if (block.querySelector(":scope > .enlarge")) continue;
      const button = document.createElement("button");
      Object.assign(button, { type: "button", className: "enlarge", title: "Open large", innerHTML: ICON });
      button.setAttribute("aria-label", "open large");
      button.addEventListener("click", () => open(block));
      block.prepend(button);
    }
    for (const button of document.querySelectorAll(".enlarge")) {
      button.hidden = !plotOf(button.parentElement)?.data?.length;
    }
    const data = plotOf(source)?.data;
    if (dialog.open && data?.length && data !== drawn) draw();
  };
  let waits = false;
  new MutationObserver(() => {
    if (waits) return;
    waits = true;
    setTimeout(() => {
      waits = false;
      look();
    }, 200);
  }).observe(document.body, { childList: true, subtree: true });
})();
