// The list of chats: "pick", "visit", "rename", "pin", "tag", "untag", "remove", "undo" and "more" events, each
// with how many rows are to stay in it and what is searched. Titles and tags are written in place, removing asks
// where rows would go too, and a tag that is clicked goes into the search box.
const shown = () => element.querySelectorAll(".chat-row").length;
const box = () => document.querySelector("#chat-search input, #chat-search textarea");
const query = () => box()?.value ?? "";
const tell = (event, about) => trigger(event, { shown: shown(), query: query(), ...about });
const rowOf = (id) => [...element.querySelectorAll(".chat-row")].find((row) => row.dataset.id === id);

// The list is drawn anew over what is there, whose rows then stand for other chats. Afterwards the focus goes back
// to the row that had it, and the tags that are being written stay open.
let back = null; // the row's chat, and which part of it
let writing = null; // the chat, the field, and whether what is in it was sent
const backTo = (id, part) => { drawn.takeRecords(); back = { id, part, until: Date.now() + 3000 }; };
const drawn = new MutationObserver(() => {
  if (back) {
    const { id, part, until } = back;
    back = null;
    if (Date.now() < until) rowOf(id)?.querySelector(part)?.focus();
  }
  if (writing && !writing.field.isConnected) {
    const { id, field, sent } = writing, row = rowOf(id);
    writing = null;
    if (row) tagging(row, sent ? "" : field.value);
  }
});
drawn.observe(element, { childList: true, subtree: true, attributes: true, characterData: true });
const rename = (row) => {
  const title = row.querySelector(".chat-title");
  const field = document.createElement("input");
  field.value = title.textContent;
  field.setAttribute("aria-label", "New title");
  row.classList.add("renaming");
  row.prepend(field);
  field.focus();
  field.select();
  let closed = false;
  const close = (keep) => {
    if (closed) return;
    closed = true;
    row.classList.remove("renaming");
    const text = field.value.trim();
    field.remove();
    if (!keep || !text || text === title.textContent) return;
    backTo(row.dataset.id, "[data-act=rename]");
    tell("rename", { id: row.dataset.id, title: text });
  };
  field.addEventListener("keydown", (e) => {
    if (e.key === "Enter") close(true);
    if (e.key === "Escape") close(false);
  });
  field.addEventListener("blur", () => close(true));
};
// The tags of a row while they are written: a field, and each tag there is takes itself off.
const tagging = (row, text = "") => {
  if (writing) untagging();
  const title = row.querySelector(".chat-title").textContent;
  const form = document.createElement("form"), field = document.createElement("input"), done = document.createElement("button");
  form.className = "chat-tagging";
  field.value = text;
  field.placeholder = "a tag, then Enter";
  field.enterKeyHint = "done";
  field.setAttribute("aria-label", `Add a tag to ${title}`);
  done.type = "button";
  done.dataset.act = "tags";
  done.textContent = "Done";
  form.append(field, done);
  row.classList.add("tagging");
  row.append(form);
  for (const tag of row.querySelectorAll("[data-tag]")) {
    tag.dataset.act = "untag";
    tag.title = "Take this tag off";
    tag.setAttribute("aria-label", `Take the tag ${tag.dataset.tag} off ${title}`);
  }
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    if (!field.value.trim()) return untagging();
    writing.sent = true;
    tell("tag", { id: row.dataset.id, tag: field.value });
  });
  form.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    e.stopPropagation(); // the drawer of a narrow screen stays open
    untagging();
  });
  field.addEventListener("input", () => { writing.sent = false; });
  writing = { id: row.dataset.id, field, sent: false };
  if (!document.activeElement?.matches("input, textarea, select")) field.focus();
};
const untagging = () => {
  const row = writing.field.closest(".chat-row");
  writing = null;
  row.classList.remove("tagging");
  row.querySelector(".chat-tagging")?.remove();
  for (const tag of row.querySelectorAll("[data-tag]")) {
    tag.dataset.act = "filter";
    tag.title = "Show the chats with this tag";
    tag.removeAttribute("aria-label");
  }
  row.querySelector('.chat-acts [data-act="tags"]').focus();
};
// What is searched, with a tag or, where it is in it already, without.
const filter = (row, tag) => {
  const field = box(), word = `#${tag}`, words = query().split(/\s+/).filter(Boolean);
  const others = words.filter((one) => one.toLowerCase() !== word.toLowerCase());
  const text = (others.length < words.length ? others : [...words, word]).join(" ");
  backTo(row.dataset.id, `[data-tag="${CSS.escape(tag)}"]`);
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, text);
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
addEventListener("popstate", () => { // the browser's back and forth
  const id = new URLSearchParams(location.search).get("chat");
  if (id) tell("visit", { id });
});
element.addEventListener("click", (e) => {
  const row = e.target.closest(".chat-row");
  const button = e.target.closest("[data-act]");
  const act = button?.dataset.act;
  if (act === "more") tell("more", { shown: Number(button.dataset.shown) });
  if (act === "undo") tell("undo", { id: button.closest("[data-id]").dataset.id });
  if (!row || !act) return;
  if (act === "pick") {
    document.body.classList.remove("show-chats");
    tell("pick", { id: row.dataset.id });
  } else if (act === "rename") rename(row);
  else if (act === "pin") {
    backTo(row.dataset.id, "[data-act=pin]");
    tell("pin", { id: row.dataset.id, pinned: button.getAttribute("aria-pressed") !== "true" });
  } else if (act === "tags") row.classList.contains("tagging") ? untagging() : tagging(row);
  else if (act === "filter") filter(row, button.dataset.tag);
  else if (act === "untag") {
    tell("untag", { id: row.dataset.id, tag: button.dataset.tag });
  }
  else if (act === "ask") row.classList.add("asking");
  else if (act === "keep") row.classList.remove("asking");
  else if (act === "remove") {
    row.classList.remove("asking");
    tell("remove", { id: row.dataset.id, rows: button.dataset.rows ?? "keep" });
  }
});
