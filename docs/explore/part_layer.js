// Part 3: one layer of the real model. A worker sweeps, and the reader drags the width and removes neurons by hand.

import { button, slider, verdictLine } from "./controls.js";
import { axisBelow, axisLeft, change, decadeTicks, drawAtEachWidth, drawingIn, element, lineThrough, linearScale, roundTicks, shape } from "./drawing.js";
import { bytesOf } from "./packing.js";
import { listSetting, numberSetting } from "./state.js";

const SHOWN = 24; // neurons that can be removed by hand
const RACERS = { price: "price", energy: "energy", random: "random" };
const LOWEST_ERROR = 1e-4; // of the axis, as a share of the output
const HIGHEST_ERROR = 2;

/** The settings of the part, for the numbers of a layer. */
export function layerSettings(numbers) {
  return {
    "layer.width": numberSetting(numbers.compared_width, numbers.fewest, numbers.size),
    "layer.removed": listSetting([], 0, numbers.size - 1, (length) => length <= SHOWN),
  };
}

/** The error at a width, on straight lines between the rounds of a curve { counts, errors }. */
export function errorAtWidth(counts, errors, size, width) {
  const gone = size - width;
  const next = counts.findIndex((count) => count >= gone);
  const [fromCount, fromError] = next > 0 ? [counts[next - 1], errors[next - 1]] : [0, 0];
  return fromError + ((errors[next] - fromError) * (gone - fromCount)) / (counts[next] - fromCount);
}

export function percentOf(share) {
  if (share === 0) {
    return "0%";
  }
  return `${(100 * share).toPrecision(share < 0.1 ? 2 : 3)}%`;
}

/** The neurons that can be removed by hand: those of the highest conditions, which the others replace best. */
export function replaceableNeurons(conditions) {
  const order = Array.from(conditions.keys()).sort((left, right) => conditions[right] - conditions[left]);
  return order.slice(0, SHOWN).sort((left, right) => left - right);
}

export function startLayer(place, state, numbers, packed, workerText) {
  const chart = element("div", { class: "chart" });
  const progress = element("p", { class: "progress", role: "status" });
  const verdict = verdictLine();
  const hand = element("div", { class: "hand" });
  const race = {}; // name -> { counts, refitted, bare }
  window.exploreRace = race; // for those who look at the page's own numbers in the console, and for its test
  const width = slider({
    name: "layer-width",
    label: "Neurons that stay",
    low: numbers.fewest,
    high: numbers.size,
    step: numbers.per_round,
    value: state.get("layer.width"),
    words: (value) => `${value.toLocaleString("en")} of ${numbers.size.toLocaleString("en")}`,
    moved: (value) => {
      state.set("layer.width", value);
      showWidth();
    },
  });
  const whole = element(
    "p",
    { class: "hint" },
    `These shares are of the ${numbers.outputs} directions in which the layer writes most, with ${percentOf(numbers.energy_share)} of its energy. ` +
      `Of all its outputs, ${numbers.compared_width.toLocaleString("en")} neurons by price lose ${percentOf(numbers.whole_error)} with the refit.`,
  );
  place.replaceChildren(width.root, chart, verdict, whole, progress, hand);
  let cursor = null; // moves the upright line
  drawAtEachWidth(chart, draw);

  function draw() {
    cursor = drawRace(chart, numbers, race);
    showWidth();
  }
  function showWidth() {
    const shown = state.get("layer.width");
    cursor(shown);
    verdict.textContent = raceVerdict(numbers, race, shown);
  }

  const showStored = (words) => {
    Object.keys(RACERS).forEach((name) => {
      race[name] = { counts: numbers.race.counts, ...numbers.race[name] };
    });
    progress.textContent = words;
    draw();
  };
  const worker = workerOf(workerText);
  if (worker === null) {
    showStored("This browser has no workers, so you see the race as comp_lib ran it, and no neuron can be removed by hand.");
    return;
  }
  worker.addEventListener("error", () => {
    showStored("The computation stopped, so you see the race as comp_lib ran it.");
  });
  const board = makeHand(hand, state, worker);
  const started = performance.now();
  worker.addEventListener("message", ({ data }) => {
    if (data.kind === "progress") {
      progress.textContent =
        `Your browser computes: ${data.what}, ${Math.round(100 * data.share)}%. Until then the curves are stored ones.`;
    } else if (data.kind === "ready") {
      board.ready(data);
    } else if (data.kind === "curve") {
      race[data.name] = data;
      draw();
    } else if (data.kind === "prices") {
      board.show(data);
    } else {
      const seconds = (performance.now() - started) / 1000;
      progress.textContent = `Your browser has computed all this from the layer's matrix, in ${seconds.toFixed(1)} seconds.`;
      place.dataset.done = "true";
    }
  });
  showStored("These curves are stored ones. Your browser will compute its own.");
  const start = () => {
    worker.postMessage({
      kind: "start",
      gram: bytesOf(packed.gram),
      weights: bytesOf(packed.weights),
      size: numbers.size,
      outputs: numbers.outputs,
      ridge: numbers.ridge,
      perRound: numbers.per_round,
      fewest: numbers.fewest,
      randomOrder: numbers.race.random_order,
    });
  };
  whenSeen(place, start);
}

/** A worker that runs this text, or null where there are none. */
function workerOf(text) {
  if (typeof Worker === "undefined") {
    return null;
  }
  return new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
}

/** Calls `start` once the place comes near the window, so that who does not read so far does not compute. */
function whenSeen(place, start) {
  const observer = new IntersectionObserver(
    (entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        start();
      }
    },
    { rootMargin: "400px" },
  );
  observer.observe(place);
}

/** Draws the curves; returns a function that moves the upright line to a width. */
function drawRace(chart, numbers, race) {
  const drawing = drawingIn(chart, {
    height: 340,
    label: "Error of the layer's output against the number of neurons that stay, for three orders of removal",
    margins: { left: 58, top: 64 },
  });
  const across = linearScale([numbers.size, numbers.fewest], [drawing.left, drawing.right]);
  const decades = linearScale([Math.log10(LOWEST_ERROR), Math.log10(HIGHEST_ERROR)], [drawing.bottom, drawing.top]);
  const up = (error) => decades(Math.log10(Math.max(LOWEST_ERROR, Math.min(HIGHEST_ERROR, error))));
  const widths = roundTicks(0, numbers.size, drawing.width < 480 ? 4 : 8).filter((tick) => tick >= numbers.fewest);
  axisBelow(drawing, across, widths, "neurons that stay", (tick) => tick.toLocaleString("en"));
  axisLeft(drawing, up, decadeTicks(LOWEST_ERROR, 1), "", (share) => `${Number((100 * share).toPrecision(1))}%`);
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 14 }, "error, % of the output's energy (log scale)"));
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 32 }, "solid: refitted; dashed: not refitted"));
  for (const [name, words] of Object.entries(RACERS)) {
    if (race[name]) {
      const { counts, refitted, bare } = race[name];
      const points = (errors) => errors.map((error, index) => [across(numbers.size - counts[index]), up(error)]);
      drawing.svg.append(lineThrough(points(bare), { class: `curve ${name} bare` }));
      drawing.svg.append(lineThrough(points(refitted), { class: `curve ${name}` }));
    }
    const at = { x: 2 + 70 * Object.keys(RACERS).indexOf(name), y: 50 };
    drawing.svg.append(shape("text", { class: `curve-word ${name}`, ...at }, words));
  }
  const line = shape("line", { class: "cursor", y1: drawing.top, y2: drawing.bottom });
  drawing.svg.append(line);
  chart.replaceChildren(drawing.svg);
  return (width) => change(line, { x1: across(width), x2: across(width) });
}

/** What the curves say at a width. */
export function raceVerdict(numbers, race, width) {
  if (width === numbers.size) {
    return "All neurons stay, so nothing is lost.";
  }
  const found = Object.entries(RACERS)
    .filter(([name]) => race[name])
    .map(([name, words]) => {
      const { counts, refitted, bare } = race[name];
      const fitted = percentOf(errorAtWidth(counts, refitted, numbers.size, width));
      const lost = percentOf(errorAtWidth(counts, bare, numbers.size, width));
      return `${name === "random" ? "at random" : `by ${words}`} ${fitted} with the refit and ${lost} without it`;
    });
  if (found.length === 0) {
    return "";
  }
  const gone = (numbers.size - width).toLocaleString("en");
  return `With ${gone} neurons removed the layer loses, of its output's energy: ${found.join("; ")}.`;
}

/** The neurons that the reader removes and puts back. */
function makeHand(hand, state, worker) {
  const title = element("h4", {}, "Remove neurons by hand");
  const words = element(
    "p",
    {},
    `These are the ${SHOWN} neurons that the others can replace best. Press one to remove it, and see whose price rises: ` +
      "those are the neurons that could have replaced it. Press it again to put it back.",
  );
  const grid = element("div", { class: "grid", role: "group", "aria-label": "Neurons that can be removed" });
  const verdict = verdictLine();
  const back = button("Put all back", () => choose([]), { disabled: true });
  hand.append(title, words, grid, back, verdict);
  let first = null; // the prices of the whole layer
  let shown = [];
  let last = null; // the neuron that was pressed last, and the prices before it
  let before = null;
  const buttons = new Map();

  function choose(removed, pressed = null) {
    last = pressed;
    state.set("layer.removed", removed);
    worker.postMessage({ kind: "remove", removed });
  }
  function ready(data) {
    first = data.prices;
    before = data.prices;
    shown = replaceableNeurons(data.conditions);
    const named = state.get("layer.removed").filter((neuron) => !shown.includes(neuron));
    for (const neuron of [...shown, ...named]) {
      const made = button("", () => {
        const removed = state.get("layer.removed");
        const without = removed.filter((other) => other !== neuron);
        choose(without.length < removed.length ? without : [...removed, neuron], neuron);
      });
      made.setAttribute("aria-pressed", "false");
      buttons.set(neuron, made);
      grid.append(made);
    }
    if (state.get("layer.removed").length) {
      choose(state.get("layer.removed"));
    } else {
      show({ ...data, removed: [] });
    }
  }
  function show({ prices, error, removed }) {
    back.disabled = removed.length === 0;
    for (const [neuron, made] of buttons) {
      const gone = removed.includes(neuron);
      const rise = prices[neuron] / first[neuron];
      made.setAttribute("aria-pressed", String(gone));
      const price = gone ? "removed" : (1e6 * prices[neuron]).toLocaleString("en", { maximumSignificantDigits: 3 });
      const risen = !gone && rise > 1.005 ? `×${rise.toFixed(2)}` : "";
      made.replaceChildren(
        element("span", { class: "neuron" }, `neuron ${neuron}`),
        element("span", { class: "price" }, price),
        element("span", { class: "rise" }, risen),
      );
      made.style.setProperty("--rise", gone ? 0 : Math.min(1, Math.log2(Math.max(1, rise)) / 2));
    }
    verdict.textContent = handVerdict({ prices, before, last, removed, error });
    before = prices;
  }
  return { ready, show };
}

/** What happened when a neuron was removed or put back. */
export function handVerdict({ prices, before, last, removed, error }) {
  const unit = "A price is in millionths of the output's energy.";
  if (removed.length === 0) {
    return `All neurons are there. ${unit}`;
  }
  const sentences = [`${removed.length === 1 ? "One neuron is" : `${removed.length} neurons are`} removed, and after the refit ${percentOf(error)} of the output's energy is lost.`];
  if (last !== null && removed.includes(last)) {
    const rises = Array.from(prices.keys()).filter((neuron) => !removed.includes(neuron));
    const most = rises.reduce((best, neuron) => (prices[neuron] / before[neuron] > prices[best] / before[best] ? neuron : best));
    const times = prices[most] / before[most];
    sentences.push(`Without neuron ${last} the price of neuron ${most} rises most: it is now ${times.toFixed(2)} times what it was.`);
  }
  sentences.push(unit);
  return sentences.join(" ");
}
