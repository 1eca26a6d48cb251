// Page-wide behaviour: theme, tooltips, the drawers of a narrow screen, the link that skips to the
// message box, and the tab that a reload comes back to. No network, no library.
(() => {
  const KEY = "t2local-theme";
  const apply = (dark) => document.body.classList.toggle("dark", dark);
  const stored = localStorage.getItem(KEY);
  if (stored) apply(stored === "dark");

  const TAB = "t2local-tab"; // its name is noted when the page goes, and pressed when it is back
  const tabs = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")];
  addEventListener("pagehide", () => {
    const chosen = tabs().find((tab) => tab.classList.contains("selected"));
    if (chosen) sessionStorage.setItem(TAB, chosen.textContent.trim());
  });
  const linked = new URLSearchParams(location.search).has("recipe"); // which is for the chat
  const before = linked ? null : sessionStorage.getItem(TAB);
  const again = tabs().find((tab) => tab.textContent.trim() === before);
  if (again && !again.classList.contains("selected")) again.click();

  // On a phone the line of tabs is wider than the screen: the one that is chosen is always seen.
  // (`scrollIntoView` would make it the place that the Tab key goes on from.)
  const chosenIsSeen = () => {
    const chosen = tabs().find((tab) => tab.getAttribute("aria-selected") === "true");
    for (let box = chosen?.parentElement; box && box.id !== "tabs"; box = box.parentElement) {
      const off = chosen.getBoundingClientRect(), seen = box.getBoundingClientRect();
      box.scrollLeft += off.left + off.width / 2 - (seen.left + seen.width / 2);
    }
  };
  const line = document.querySelector("#tabs > .tab-wrapper");
  if (line) new MutationObserver(chosenIsSeen).observe(line, { subtree: true, attributeFilter: ["aria-selected"] });
  chosenIsSeen();

  // The first stop of a keyboard: past header, tabs and lists, to the message box.
  const skip = document.createElement("a");
  skip.id = "skip";
  skip.href = "#message";
  skip.textContent = "To the message box";
  document.body.prepend(skip);
  skip.addEventListener("click", (e) => {
    e.preventDefault();
    const chat = tabs().find((tab) => tab.textContent.trim() === "Chat");
    if (chat?.getAttribute("aria-selected") !== "true") chat?.click();
    document.body.classList.remove("show-chats", "show-wheel");
    const until = Date.now() + 3000; // a tab that is opened takes a moment to be there
    const go = () => {
      const area = document.querySelector("#message textarea");
      if (area && area.offsetParent !== null && !area.disabled) area.focus();
      else if (Date.now() < until) setTimeout(go, 50);
    };
    go();
  });

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const show = (target) => {
    tip.textContent = target.dataset.tip;
    tip.classList.add("on");
    const at = target.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left), innerWidth - tip.offsetWidth - 8);
    const below = at.bottom + 6 + tip.offsetHeight < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - tip.offsetHeight - 6)}px`;
  };
  const hide = () => tip.classList.remove("on");
  const pointed = (e) => {
    const target = e.target.closest?.("[data-tip]");
    target ? show(target) : hide();
  };
  for (const event of ["mouseover", "focusin", "click"]) document.addEventListener(event, pointed);
  document.addEventListener("scroll", hide, true);

  document.addEventListener("click", (e) => {
    if (e.target.closest?.("#new-chat")) document.body.classList.remove("show-chats");
    const act = e.target.closest?.("[data-page]")?.dataset.page;
    if (act === "theme") {
      const dark = !document.body.classList.contains("dark");
      apply(dark);
      localStorage.setItem(KEY, dark ? "dark" : "light");
    } else if (act === "close") document.body.classList.remove("show-chats", "show-wheel");
    else if (act) {
      const other = act === "show-chats" ? "show-wheel" : "show-chats";
      document.body.classList.remove(other);
      document.body.classList.toggle(act);
    }
  });
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    hide();
    document.body.classList.remove("show-chats", "show-wheel");
  });
})();
