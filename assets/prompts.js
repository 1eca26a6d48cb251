// The fields of a prompt's variables: their button is the event "fill" with what stands in them.
element.addEventListener("submit", (e) => {
  e.preventDefault();
  const values = {};
  for (const field of element.querySelectorAll("[data-variable]")) values[field.dataset.variable] = field.value;
  document.body.classList.remove("show-chats");
  trigger("fill", { values });
  document.querySelector("#message textarea")?.focus();
});
