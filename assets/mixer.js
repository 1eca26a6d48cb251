// One slider an expert. `props.value` is {expert: alpha}; "input" while moving, "release" at rest.
const shownAs = (a) => (Math.abs(a) < 0.005 ? 0 : a).toFixed(2).replace("-", "−");
const set = (name, alpha, event) => {
  const rounded = Math.round(alpha * 100) / 100;
  props.value = { ...props.value, [name]: rounded };
  trigger(event);
};
element.addEventListener("input", (e) => {
  const name = e.target.dataset.expert;
  if (name === undefined) return;
  e.target.closest(".mix").querySelector("output").textContent = shownAs(+e.target.value);
  set(name, +e.target.value, "input");
});
element.addEventListener("change", (e) => {
  if (e.target.dataset.expert !== undefined) trigger("release");
});
element.addEventListener("dblclick", (e) => {
  const name = e.target.dataset.expert;
  if (name === undefined) return;
  set(name, 0, "input");
  trigger("release");
});
