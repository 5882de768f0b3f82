// Sliders, choices and buttons with their words: native elements, so keyboard, touch and screen readers work.

import { element } from "./drawing.js";

/**
 * A slider with its label and its value in words.
 * `words(value)` says the value; `moved(value)` is called at each step. Returns { root, input, show }.
 */
export function slider({ name, label, low, high, step, value, words, moved }) {
  const input = element("input", { type: "range", id: name, min: low, max: high, step, value });
  const output = element("output", { for: name });
  const show = (shown) => {
    input.value = shown;
    output.textContent = words(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show(Number(input.value));
    moved(Number(input.value));
  });
  show(value);
  const root = element("div", { class: "slider" }, element("label", { for: name }, label), input, output);
  return { root, input, show };
}

/**
 * One choice of several, as radio buttons. `options` maps each value to its words.
 * Returns { root, show }.
 */
export function choice({ name, label, options, value, chosen }) {
  const root = element("fieldset", { class: "choice" }, element("legend", {}, label));
  const inputs = new Map();
  for (const [option, words] of Object.entries(options)) {
    const input = element("input", { type: "radio", name, value: option, checked: option === value });
    input.addEventListener("change", () => chosen(option));
    inputs.set(option, input);
    root.append(element("label", {}, input, element("span", {}, words)));
  }
  const show = (shown) => {
    inputs.get(shown).checked = true;
  };
  return { root, show };
}

/** A button with words, which does something. */
export function button(words, pressed, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, words);
  made.addEventListener("click", pressed);
  return made;
}

/** A line of words that a screen reader says when it changes. */
export function verdictLine() {
  return element("p", { class: "verdict", role: "status", "aria-live": "polite" });
}
