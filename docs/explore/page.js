// The page: it reads the numbers, reads the state from the address, and starts each part that has numbers.

import { budgetSettings, startBudget } from "./part_budget.js";
import { costsSettings, startCosts } from "./part_costs.js";
import { layerSettings, startLayer } from "./part_layer.js";
import { neuronsSettings, startNeurons } from "./part_neurons.js";
import { startTokens, tokensSettings } from "./part_tokens.js";
import { PageState } from "./state.js";

const PARTS = ["costs", "neurons", "layer", "budget", "tokens"];
const WAIT = 200; // ms without a change, after which the address is written
const WORKER_MODULES = ["condition.js", "packing.js", "layer_worker.js"];

/** The numbers of a part, or null where they were not taken yet. */
function numbersOf(name) {
  const script = document.getElementById(`numbers-${name}`);
  return script ? JSON.parse(script.textContent) : null;
}

function textOf(id) {
  return document.getElementById(id).textContent;
}

/** The worker's program: three modules of this page, and what answers messages. */
function workerText() {
  const answer = 'self.onmessage = ({ data }) => modules["layer_worker.js"].answerMessage(data, (words) => postMessage(words));';
  return ["const modules = {};", ...WORKER_MODULES.map(textOf), answer].join("\n");
}

/** Writes the fragment once the reader rests. */
function keepAddress() {
  let timer = 0;
  return (fragment) => {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(null, "", fragment), WAIT);
  };
}

export function startPage() {
  const numbers = Object.fromEntries(PARTS.map((name) => [name, numbersOf(name)]));
  const settings = {
    ...(numbers.costs ? costsSettings(numbers.costs) : {}),
    ...neuronsSettings,
    ...(numbers.layer ? layerSettings(numbers.layer) : {}),
    ...(numbers.budget ? budgetSettings(numbers.budget) : {}),
    ...(numbers.tokens ? tokensSettings(numbers.tokens) : {}),
  };
  const state = new PageState(PARTS, settings, location.hash, keepAddress());
  const starts = {
    costs: (place) => startCosts(place, state, numbers.costs),
    neurons: (place) => startNeurons(place, state),
    layer: (place) => startLayer(place, state, numbers.layer, packedLayer(), workerText()),
    budget: (place) => startBudget(place, state, numbers.budget),
    tokens: (place) => startTokens(place, state, numbers.tokens),
  };
  for (const name of PARTS) {
    if (name === "neurons" || numbers[name]) {
      starts[name](document.getElementById(`${name}-live`));
    }
  }
  sayDamage(state.damaged);
  if (state.part) {
    document.getElementById(state.part).scrollIntoView();
  }
  // An address that is changed by hand, or by a link of another's: the page starts anew from it.
  window.addEventListener("hashchange", () => {
    const part = location.hash.replace(/^#/, "");
    if (!PARTS.includes(part)) {
      location.reload();
    }
  });
}

function packedLayer() {
  return { gram: textOf("layer-gram").trim(), weights: textOf("layer-weights").trim() };
}

function sayDamage(damaged) {
  if (damaged.length) {
    const line = document.getElementById("damaged");
    const pieces = damaged.map((piece) => `“${piece}”`).join(", ");
    line.textContent = `The address of this page says ${pieces}, which it does not understand. You see what is shown at first instead.`;
    line.hidden = false;
  }
}
