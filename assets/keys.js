// Keys of the chat, the message that waits for the end of an answer, and the list of keys on "?".
(() => {
  const KEYS = [
    ["Enter", "send; while an answer is written, wait for its end"],
    ["Shift + Enter", "a new line"],
    ["Esc", "stop the answer"],
    ["/", "to the message box"],
    ["↑", "in the empty box: edit your last message"],
    ["?", "this list"],
  ];
  const box = () => document.querySelector("#message textarea");
  const speaking = () => document.querySelector("#stop")?.offsetParent != null;
  const put = (text) => {
    const area = box();
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // The one message that waits.
  const waiting = document.createElement("div");
  waiting.id = "waiting";
  waiting.setAttribute("role", "status");
  waiting.innerHTML = "<span></span><button type=\"button\" aria-label=\"take it back\">✕</button>";
  waiting.hidden = true;
  let chat = null; // that it is for
  const shown = () => sessionStorage.getItem("t2local-chat");
  const text = waiting.querySelector("span");
  const release = () => {
    const said = text.textContent;
    text.textContent = "";
    waiting.hidden = true;
    return said;
  };
  waiting.querySelector("button").addEventListener("click", () => {
    put(release());
    box()?.focus();
  });
  const wait = (said) => {
    document.querySelector("#composer")?.before(waiting);
    text.textContent = text.textContent ? `${text.textContent}\n${said}` : said;
    chat = shown();
    waiting.hidden = false;
    put("");
  };
  setInterval(() => {
    const send = document.querySelector("#send");
    if (waiting.hidden || speaking() || !send || send.offsetParent == null || box().value) return;
    if (chat !== shown()) return; // until that chat is shown again
    put(release());
    setTimeout(() => send.click(), 60); // the page takes in the text first
  }, 150);

  const help = document.createElement("dialog");
  help.id = "keys";
  help.innerHTML = "<h3>Keys</h3><dl></dl><button type=\"button\">Close</button>";
  for (const [key, words] of KEYS) {
    const term = document.createElement("dt"), told = document.createElement("dd");
    term.innerHTML = "<kbd></kbd>";
    term.firstChild.textContent = key;
    told.textContent = words;
    help.querySelector("dl").append(term, told);
  }
  help.querySelector("button").addEventListener("click", () => help.close());
  document.body.append(help);

  const writing = (target) => target.closest?.("input, textarea, select, [contenteditable=true], dialog");
  document.addEventListener("keydown", (e) => {
    if (e.isComposing || e.ctrlKey || e.metaKey || e.altKey) return;
    const area = box();
    if (e.target === area) {
      if (e.key === "Enter" && !e.shiftKey && speaking() && area.value.trim()) {
        e.preventDefault();
        e.stopImmediatePropagation();
        wait(area.value);
      } else if (e.key === "ArrowUp" && !area.value) {
        const mine = [...document.querySelectorAll(".turn.user [data-act=edit]")].pop();
        if (!mine) return;
        e.preventDefault();
        mine.click();
      }
    }
    if (e.key === "Escape" && speaking() && (e.target === area || !writing(e.target))) document.querySelector("#stop").click();
    if (writing(e.target) || !area || area.offsetParent == null) return;
    if (e.key === "/") {
      e.preventDefault();
      area.focus();
    } else if (e.key === "?") help.showModal();
  }, true);

  // A page that is opened is ready to be written to; on a touch screen that would open the keyboard.
  if (matchMedia("(pointer: fine)").matches) {
    const until = Date.now() + 60_000;
    const first = setInterval(() => {
      const area = box();
      const idle = document.activeElement === document.body || document.activeElement == null;
      if (!idle || Date.now() > until) return clearInterval(first);
      if (!area || area.disabled || area.offsetParent == null) return;
      area.focus();
      clearInterval(first);
    }, 200);
  }
})();
