// Rows from chats: "drop_row", "discard_row" and "change_row" events; a text is changed in place.
const change = (row) => {
  if (row.querySelector("textarea")) return;
  const area = document.createElement("textarea");
  area.value = row.dataset.raw;
  area.setAttribute("aria-label", "What you wanted");
  const keep = document.createElement("button");
  keep.type = "button";
  keep.textContent = "Keep this";
  keep.addEventListener("click", () => trigger("change_row", { id: row.dataset.id, text: area.value }));
  area.addEventListener("keydown", (e) => {
    if (e.key === "Escape") [area, keep].forEach((part) => part.remove());
  });
  row.querySelector(".row-acts").before(area);
  row.querySelector(".row-acts").prepend(keep);
  area.focus();
};
// The list stays open when it is drawn anew.
let open = element.querySelector("details")?.open ?? false;
new MutationObserver(() => {
  const list = element.querySelector("details");
  if (list && list.open !== open) list.open = open;
}).observe(element, { childList: true, subtree: true });
element.addEventListener("click", (e) => {
  if (e.target.closest("summary")) open = !e.target.closest("details").open; // a click comes first
  const act = e.target.closest("[data-act]")?.dataset.act;
  if (act === "discard") trigger("discard_row", { file: e.target.closest("[data-file]").dataset.file });
  const row = e.target.closest(".taught-row");
  if (!row) return;
  if (act === "change") change(row);
  if (act === "drop") trigger("drop_row", { id: row.dataset.id });
});
