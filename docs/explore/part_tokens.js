// Part 5: one text in the model, token by token: whom each looks at, how long its state is, and what it loses.

import { choice, slider, verdictLine } from "./controls.js";
import { axisBelow, axisLeft, decadeTicks, drawAtEachWidth, drawingIn, element, lineThrough, linearScale, roundTicks, shape } from "./drawing.js";
import { numberSetting, wordSetting } from "./state.js";

export function tokensSettings(numbers) {
  const longest = Math.max(...Object.values(numbers.texts).map((text) => text.tokens.length));
  return {
    "tokens.text": wordSetting("facts", Object.keys(numbers.texts)),
    "tokens.layer": numberSetting(numbers.silenced_layer, 0, numbers.layers - 1),
    "tokens.change": wordSetting("skip", ["none", "skip", "silence"]),
    "tokens.position": numberSetting(0, 0, longest - 1),
  };
}

/** The shares of attention that a position of a layer gives to itself and to those before it: 0 to 1 each. */
export function attentionOf(letters, position) {
  const start = (position * (position + 1)) / 2;
  return Array.from({ length: position + 1 }, (_, looked) => {
    const place = 2 * (start + looked);
    return Number.parseInt(letters.slice(place, place + 2), 16) / 255;
  });
}

/** The losses of a text's tokens, from its second on, with a change: "none", "skip" a layer, or "silence". */
export function lossesWith(text, kind, layer) {
  return { none: text.loss, skip: text.without[layer], silence: text.silenced }[kind];
}

function meanOf(values) {
  return values.reduce((total, value) => total + value, 0) / values.length;
}

/** A token as it can be read: spaces and line ends are shown. */
export function readable(token) {
  return token.replaceAll("\n", "↵").replaceAll(" ", "·");
}

/** What the change costs, and what the chosen token does, in sentences. */
export function tokensVerdict(numbers, text, kind, layer, position) {
  const before = meanOf(text.loss);
  const losses = lossesWith(text, kind, layer);
  const changes = {
    none: `Nothing is changed: the loss is ${before.toFixed(2)} nats per token.`,
    skip: `Without layer ${layer} the loss is ${meanOf(losses).toFixed(2)} nats per token instead of ${before.toFixed(2)}.`,
    silence:
      `The MLP of layer ${numbers.silenced_layer} writes nothing at the first token, and the loss is ` +
      `${meanOf(losses).toFixed(2)} nats per token instead of ${before.toFixed(2)}.`,
  };
  const shares = attentionOf(text.attention[layer], position);
  const most = shares.indexOf(Math.max(...shares));
  const own = position
    ? `Its own loss is ${losses[position - 1].toFixed(2)} instead of ${text.loss[position - 1].toFixed(2)}.`
    : "It is the first, so no loss is counted for it.";
  const looks = position
    ? `In layer ${layer} of the dense model it looks most at token ${most}, “${readable(text.tokens[most])}”, with ` +
      `${Math.round(100 * shares[most])}% of its attention.`
    : "It can look at nothing but itself.";
  const others = text.tokens.slice(1).map((_, index) => attentionOf(text.attention[layer], index + 1)[0]);
  return (
    `${changes[kind]} Token ${position}, “${readable(text.tokens[position])}”: ${own} ${looks} ` +
    `In layer ${layer} the other tokens give the first one ${Math.round(100 * meanOf(others))}% of their attention, on average.`
  );
}

export function startTokens(place, state, numbers) {
  const strip = element("div", { class: "strip", role: "group", "aria-label": "The tokens of the text" });
  const charts = element("div", { class: "pair" });
  const map = element("div", { class: "chart" });
  const norms = element("div", { class: "chart" });
  charts.append(map, norms);
  const verdict = verdictLine();
  const textChoice = choice({
    name: "tokens-text",
    label: "Text",
    options: Object.fromEntries(Object.keys(numbers.texts).map((name) => [name, name])),
    value: state.get("tokens.text"),
    chosen: (name) => {
      state.set("tokens.text", name);
      fillStrip();
      show();
    },
  });
  const layer = slider({
    name: "tokens-layer",
    label: "Layer",
    low: 0,
    high: numbers.layers - 1,
    step: 1,
    value: state.get("tokens.layer"),
    words: String,
    moved: (value) => {
      state.set("tokens.layer", value);
      show();
    },
  });
  const changeChoice = choice({
    name: "tokens-change",
    label: "Change",
    options: {
      none: "nothing",
      skip: "skip this layer",
      silence: `silence layer ${numbers.silenced_layer}'s MLP at the first token`,
    },
    value: state.get("tokens.change"),
    chosen: (kind) => {
      state.set("tokens.change", kind);
      show();
    },
  });
  const hint = element("p", { class: "hint" }, "The stronger a token's colour, the more its own loss rises (full colour: 6 nats or more). Point at a token, or press it, to see what it does. Both pictures are of the dense model, and the dotted line is behind the chosen layer.");
  place.replaceChildren(textChoice.root, layer.root, changeChoice.root, strip, hint, verdict, charts);
  fillStrip();
  drawAtEachWidth(map, show);

  function text() {
    return numbers.texts[state.get("tokens.text")];
  }
  function position() {
    return Math.min(state.get("tokens.position"), text().tokens.length - 1);
  }
  function look(index) {
    state.set("tokens.position", index);
    show();
  }
  function fillStrip() {
    strip.replaceChildren(
      ...text().tokens.map((token, index) => {
        const made = element("button", { type: "button", class: "token" }, readable(token));
        made.addEventListener("click", () => look(index));
        made.addEventListener("focus", () => look(index));
        made.addEventListener("pointerenter", (event) => {
          if (event.pointerType === "mouse") {
            look(index);
          }
        });
        return made;
      }),
    );
  }
  function show() {
    const at = position();
    const kind = state.get("tokens.change");
    const losses = lossesWith(text(), kind, state.get("tokens.layer"));
    Array.from(strip.children).forEach((made, index) => {
      const rise = index ? losses[index - 1] - text().loss[index - 1] : 0;
      made.style.setProperty("--rise", Math.min(1, Math.max(0, rise / 6)).toFixed(3));
      made.setAttribute("aria-current", index === at ? "true" : "false");
    });
    verdict.textContent = tokensVerdict(numbers, text(), kind, state.get("tokens.layer"), at);
    drawAttention(map, text(), state.get("tokens.layer"), at);
    drawNorms(norms, text(), state.get("tokens.layer"), at);
  }
}

/** The attention map of a layer: a row for each token that looks, a column for each that is looked at. */
function drawAttention(place, text, layer, position) {
  const count = text.tokens.length;
  const side = Math.min(360, Math.max(280, place.clientWidth)) - 60;
  const label = `Attention in layer ${layer}, the mean over heads: which tokens look at which`;
  const drawing = drawingIn(place, { height: side + 78, label, margins: { top: 32, bottom: 46 } });
  drawing.right = drawing.left + side;
  const across = linearScale([0, count], [drawing.left, drawing.right]);
  const down = linearScale([0, count], [drawing.top, drawing.bottom]);
  const cell = across(1) - across(0);
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 14 }, "token that looks"));
  for (let row = 0; row < count; row += 1) {
    attentionOf(text.attention[layer], row).forEach((share, column) => {
      if (share >= 0.02) {
        const at = { x: across(column), y: down(row), width: cell + 0.3, height: cell + 0.3 };
        drawing.svg.append(shape("rect", { class: "attention", "fill-opacity": Math.sqrt(share).toFixed(2), ...at }));
      }
    });
  }
  const chosen = { x: drawing.left, y: down(position), width: across(position + 1) - drawing.left, height: cell };
  drawing.svg.append(shape("rect", { class: "chosen", ...chosen }));
  const ticks = roundTicks(0, count - 1, 4);
  axisBelow(drawing, (index) => across(index + 0.5), ticks, "token looked at");
  const group = shape("g", { class: "axis" });
  for (const tick of ticks) {
    group.append(shape("text", { x: drawing.left - 6, y: down(tick + 0.5) + 4, "text-anchor": "end" }, String(tick)));
  }
  drawing.svg.append(group);
  place.replaceChildren(drawing.svg);
}

/** The length of the chosen token's state before and after each layer, beside the median of all tokens. */
function drawNorms(place, text, layer, position) {
  const label = "Length of the chosen token's state in the stream, layer by layer, and the median of all tokens";
  const drawing = drawingIn(place, { height: 340, label, margins: { top: 52, left: 58 } });
  const all = text.norms.flat();
  const [low, high] = [Math.log10(Math.min(...all)), Math.log10(Math.max(...all))];
  const depths = text.norms.length - 1;
  const across = linearScale([0, depths], [drawing.left, drawing.right]);
  const decades = linearScale([low, high], [drawing.bottom, drawing.top]);
  const up = (norm) => decades(Math.log10(norm));
  axisBelow(drawing, across, roundTicks(0, depths, 5), "after this many layers");
  axisLeft(drawing, up, decadeTicks(10 ** low, 10 ** high), "", (tick) => tick.toLocaleString("en"));
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 14 }, "length of the state (log scale)"));
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 32 }, "solid: this token; dashed: median of all"));
  const median = text.norms.map((row) => [...row].sort((left, right) => left - right)[Math.floor(row.length / 2)]);
  drawing.svg.append(lineThrough(median.map((norm, depth) => [across(depth), up(norm)]), { class: "curve random bare" }));
  const own = text.norms.map((row, depth) => [across(depth), up(row[position])]);
  drawing.svg.append(lineThrough(own, { class: "curve price" }));
  const x = across(layer + 1);
  drawing.svg.append(shape("line", { class: "cursor", x1: x, x2: x, y1: drawing.top, y2: drawing.bottom }));
  place.replaceChildren(drawing.svg);
}
