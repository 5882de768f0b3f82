// Part 1: what the model writes and loses as more of its decoder is removed.

import { choice, slider, verdictLine } from "./controls.js";
import { axisBelow, change, drawAtEachWidth, drawingIn, element, linearScale, roundTicks, shape } from "./drawing.js";
import { numberSetting, wordSetting } from "./state.js";

const FIRST_PROMPT = 3; // that about a planet, whose answer goes early
const WAYS = { stock: "one width for all layers (stock)", tailored: "own widths (the default)" };

/** The ways that have a run. */
export function knownWays(numbers) {
  return Object.keys(WAYS).filter((way) => Object.keys(numbers.runs[way] ?? {}).length > 0);
}

/** The ratios of a way that were run, ascending, with 0 for the dense model. */
export function knownRatios(numbers, way) {
  return [0, ...Object.keys(numbers.runs[way] ?? {}).map(Number)].sort((left, right) => left - right);
}

export function costsSettings(numbers) {
  const ways = knownWays(numbers);
  return {
    "costs.ratio": numberSetting(0.2, 0, 0.5),
    "costs.way": wordSetting(ways.includes("tailored") ? "tailored" : (ways[0] ?? "tailored"), Object.keys(WAYS)),
    "costs.prompt": numberSetting(FIRST_PROMPT, 0, numbers.prompts.length - 1),
  };
}

/** The run that is nearest to a ratio; the dense model's for 0. */
export function runAt(numbers, way, ratio) {
  const known = knownRatios(numbers, way);
  const nearest = known.reduce((best, each) => (Math.abs(each - ratio) < Math.abs(best - ratio) ? each : best));
  return nearest === 0 ? numbers.dense : numbers.runs[way][String(nearest)];
}

export function meanLoss(run) {
  const losses = Object.values(run.losses);
  return losses.reduce((total, loss) => total + loss, 0) / losses.length;
}

/** Size, bytes and loss in sentences. */
export function costsVerdict(numbers, run) {
  const millions = (count) => `${(count / 1e6).toFixed(0)} million`;
  const megabytes = (count) => `${(count / 1e6).toFixed(0)} MB`;
  if (run === numbers.dense) {
    return (
      `This is the dense model: ${millions(run.parameters)} parameters, so ${megabytes(run.bytes)} are read for each token (in bfloat16). ` +
      `Its loss is ${meanLoss(run).toFixed(2)} nats per token.`
    );
  }
  const rise = meanLoss(run) - meanLoss(numbers.dense);
  return (
    `${(100 * run.removed).toFixed(1)}% of the decoder is removed. The embeddings are no part of it, and stay whole: of ` +
    `${millions(numbers.dense.parameters)} parameters ${millions(run.parameters)} stay, so ${megabytes(run.bytes)} instead of ${megabytes(numbers.dense.bytes)} are read for each token ` +
    `(in bfloat16). The loss rises by ${rise.toFixed(2)} nats per token, from ${meanLoss(numbers.dense).toFixed(2)} to ${meanLoss(run).toFixed(2)}.`
  );
}

/** The number of characters that two texts have in common at their beginnings, up to a whole word. */
export function commonBeginning(left, right) {
  let length = 0;
  while (length < left.length && left[length] === right[length]) {
    length += 1;
  }
  if (length === left.length && length === right.length) {
    return length;
  }
  return Math.max(0, left.slice(0, length).search(/\S*$/));
}

export function startCosts(place, state, numbers) {
  const ways = knownWays(numbers);
  const ratios = () => knownRatios(numbers, state.get("costs.way"));
  const chart = element("div", { class: "chart" });
  const verdict = verdictLine();
  const texts = element("div", { class: "side-by-side" });
  const options = Object.fromEntries(numbers.prompts.map((prompt, index) => [index, prompt]));
  const select = element("select", { id: "costs-prompt" });
  for (const [index, prompt] of Object.entries(options)) {
    select.append(element("option", { value: index }, prompt));
  }
  select.value = state.get("costs.prompt");
  select.addEventListener("change", () => {
    state.set("costs.prompt", Number(select.value));
    show();
  });
  const prompt = element("div", { class: "slider" }, element("label", { for: "costs-prompt" }, "The model goes on from"), select);
  const ratio = slider({
    name: "costs-ratio",
    label: "Part of the decoder that is removed",
    low: 0,
    high: Math.max(...ratios()),
    step: 0.05,
    value: state.get("costs.ratio"),
    words: (value) => `${Math.round(100 * value)}%`,
    moved: (value) => {
      state.set("costs.ratio", Number(value.toFixed(2)));
      show();
    },
  });
  const way = choice({
    name: "costs-way",
    label: "How",
    options: Object.fromEntries(ways.map((name) => [name, WAYS[name]])),
    value: state.get("costs.way"),
    chosen: (name) => {
      state.set("costs.way", name);
      show();
    },
  });
  const controls = ways.length > 1 ? [ratio.root, way.root] : [ratio.root];
  const hint = element("p", { class: "hint" }, "Underlined: where the text differs from that of the dense model.");
  place.replaceChildren(...controls, verdict, prompt, texts, hint, chart);
  drawAtEachWidth(chart, show);

  function show() {
    const run = runAt(numbers, state.get("costs.way"), state.get("costs.ratio"));
    verdict.textContent = costsVerdict(numbers, run);
    const index = state.get("costs.prompt");
    const [dense, pruned] = [numbers.dense.texts[index], run.texts[index]];
    const common = commonBeginning(dense, pruned);
    const words = run === numbers.dense ? "dense" : `${(100 * run.removed).toFixed(0)}% removed`;
    texts.replaceChildren(
      textBox("dense", numbers.prompts[index], dense, dense.length),
      textBox(words, numbers.prompts[index], pruned, common),
    );
    drawLosses(chart, numbers, run);
  }
}

/** A text that a model wrote; from `common` on it differs from the dense model's, which is marked. */
function textBox(words, prompt, text, common) {
  const rest = text.slice(common);
  const marked = rest ? [element("mark", {}, rest)] : [];
  const ended = text ? [] : [element("i", {}, " (it ends the text here)")];
  const written = element("p", { class: "written" }, element("b", {}, prompt), text.slice(0, common), ...marked, ...ended);
  return element("div", {}, element("h4", {}, words), written);
}

/** The highest loss of all runs on a kind of text. */
function highestLoss(numbers) {
  const runs = [numbers.dense, ...Object.values(numbers.runs).flatMap((way) => Object.values(way))];
  return Math.max(...runs.flatMap((run) => Object.values(run.losses)));
}

/** Two bars for each kind of text. */
function drawLosses(chart, numbers, run) {
  const row = 34;
  const label = "Loss of the dense and the pruned model on eight kinds of text";
  const height = 30 + row * numbers.kinds.length + 46;
  const drawing = drawingIn(chart, { height, label, margins: { left: 112, right: 92, top: 30 } });
  const highest = Math.ceil(highestLoss(numbers));
  const across = linearScale([0, highest], [drawing.left, drawing.right]);
  drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: 14 }, "upper bar: dense; lower bar: pruned, and the rise"));
  numbers.kinds.forEach((kind, index) => {
    const y = drawing.top + row * index;
    const group = shape("g", { class: "axis" });
    group.append(shape("text", { x: drawing.left - 8, y: y + 18, "text-anchor": "end" }, kind));
    drawing.svg.append(group);
    [numbers.dense, run].forEach((each, which) => {
      const x = across(each.losses[kind]);
      const rise = each.losses[kind] - numbers.dense.losses[kind];
      const words = which ? `${each.losses[kind].toFixed(2)} (+${rise.toFixed(2)})` : each.losses[kind].toFixed(2);
      const bar = shape("rect", { class: which ? "pruned" : "dense", x: drawing.left, y: y + 3 + 13 * which, height: 11 });
      change(bar, { width: x - drawing.left });
      drawing.svg.append(bar, shape("text", { class: "value", x: x + 4, y: y + 13 + 13 * which }, words));
    });
  });
  axisBelow(drawing, across, roundTicks(0, highest, 4), "loss, nats per token");
  chart.replaceChildren(drawing.svg);
}
