// Part 4: the same budget spent in four ways over the layers, or by hand.

import { choice, slider, verdictLine } from "./controls.js";
import { axisBelow, axisLeft, change, drawAtEachWidth, drawingIn, element, linearScale, roundTicks, shape } from "./drawing.js";
import { listSetting, numberSetting, wordSetting } from "./state.js";
import { harmOfOneWidth, predictedHarms, removedShare, sumOf } from "./widths.js";

const PLANS = {
  uniform: "one width",
  measured: "own widths",
  layers: "layers dropped",
  groups: "a KV group less",
  own: "by hand",
};

export function budgetSettings(numbers) {
  const isLength = (length) => length === 0 || length === numbers.neurons.length;
  return {
    "budget.ratio": numberSetting(0.2, 0.05, 0.5),
    "budget.plan": wordSetting("measured", Object.keys(PLANS)),
    "budget.widths": listSetting([], 0, Math.max(...numbers.neurons), isLength),
  };
}

/** The plan that is shown: { widths, kvGroups, removed, increase }, increase with its interval or null. */
export function budgetPlan(numbers, name, ratio, ownWidths) {
  if (name === "own") {
    const widths = ownWidths.length ? ownWidths : numbers.plans.uniform[nearestRatio(numbers, ratio)].widths;
    return { widths, kvGroups: numbers.kv_groups, removed: removedShare(numbers, widths, numbers.kv_groups), increase: null };
  }
  const plan = numbers.plans[name][nearestRatio(numbers, ratio)];
  return { widths: plan.widths, kvGroups: plan.kv_groups, removed: plan.removed, increase: plan.increase ?? null };
}

function nearestRatio(numbers, ratio) {
  const known = Object.keys(numbers.plans.uniform);
  return known.reduce((best, text) => (Math.abs(text - ratio) < Math.abs(best - ratio) ? text : best));
}

/** What is predicted and what was measured, in sentences. */
export function budgetVerdict(numbers, plan) {
  const sentences = [`${(100 * plan.removed).toFixed(1)}% of the decoder is removed.`];
  const dropped = plan.widths.filter((width) => width === 0).length;
  if (dropped) {
    sentences.push(`${dropped} whole layers go, of which the prediction says nothing: it is made for narrower layers.`);
  } else if (plan.kvGroups < numbers.kv_groups) {
    sentences.push(`Each layer has ${plan.kvGroups} KV groups instead of ${numbers.kv_groups}, of which the prediction says nothing.`);
  } else {
    const share = sumOf(predictedHarms(numbers, plan.widths)) / harmOfOneWidth(numbers, plan.widths);
    const percent = Math.round(100 * Math.abs(1 - share));
    const words = percent === 0 ? "as much harm as" : `${percent}% ${share < 1 ? "less" : "more"} harm than`;
    sentences.push(`Predicted: ${words} one width with as many neurons does.`);
  }
  if (plan.increase) {
    const [mean, low, high] = plan.increase.map((value) => value.toFixed(2));
    sentences.push(`Measured: the loss rises by ${mean} nats per token (95% interval: ${low} to ${high}), from ${numbers.dense_loss.toFixed(2)}.`);
  } else {
    sentences.push("The loss of this plan was not measured.");
  }
  return sentences.join(" ");
}

/** The four plans of a ratio in a table: what goes, and what was predicted and measured. */
export function budgetRows(numbers, ratio) {
  return Object.keys(numbers.plans).map((name) => {
    const plan = budgetPlan(numbers, name, ratio, []);
    const predicts = plan.widths.every((width) => width > 0) && plan.kvGroups === numbers.kv_groups;
    const predicted = predicts ? sumOf(predictedHarms(numbers, plan.widths)).toFixed(2) : "not predicted";
    const [mean, low, high] = (plan.increase ?? []).map((value) => value.toFixed(2));
    const measured = plan.increase ? `${mean} (${low} to ${high})` : "not measured";
    return [PLANS[name], `${(100 * plan.removed).toFixed(1)}%`, predicted, measured];
  });
}

function makeTable() {
  const head = ["plan", "removed", "predicted harm", "measured rise of the loss"].map((words) => element("th", { scope: "col" }, words));
  const body = element("tbody", {});
  const caption = element("caption", {}, "Predicted harm has no unit: compare it with the others of this table only. The rise is in nats per token, with its 95% interval.");
  const root = element("table", { class: "numbers narrow plain" }, caption, element("thead", {}, element("tr", {}, ...head)), body);
  const show = (rows) => {
    body.replaceChildren(
      ...rows.map(([name, ...cells]) =>
        element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell))),
      ),
    );
  };
  return { root, show };
}

export function startBudget(place, state, numbers) {
  const chart = element("div", { class: "chart" });
  const verdict = verdictLine();
  const ratio = slider({
    name: "budget-ratio",
    label: "Part of the decoder to remove",
    low: 0.05,
    high: 0.5,
    step: 0.05,
    value: state.get("budget.ratio"),
    words: (value) => `${Math.round(100 * value)}%`,
    moved: (value) => {
      state.set("budget.ratio", Number(value.toFixed(2)));
      if (state.get("budget.plan") === "own") {
        setPlan("uniform");
      }
      show();
    },
  });
  const plans = choice({
    name: "budget-plan",
    label: "How it is spent",
    options: PLANS,
    value: state.get("budget.plan"),
    chosen: (name) => {
      if (name === "own") {
        const shown = current().widths.map((width) => Math.max(width, numbers.fewest));
        state.set("budget.widths", shown);
      }
      setPlan(name);
      show();
    },
  });
  const hint = element(
    "p",
    { class: "hint" },
    "Drag a bar to give its layer another width, or move to it by the tab key: left and right choose a layer, up and down change its width.",
  );
  const table = makeTable();
  place.replaceChildren(ratio.root, plans.root, chart, hint, verdict, table.root);
  const bars = makeBars(numbers, setWidth);
  drawAtEachWidth(chart, show);

  function setPlan(name) {
    state.set("budget.plan", name);
    plans.show(name);
  }
  function current() {
    return budgetPlan(numbers, state.get("budget.plan"), state.get("budget.ratio"), state.get("budget.widths"));
  }
  function setWidth(layer, width) {
    const widths = current().widths.map((each) => Math.max(each, numbers.fewest));
    const whole = Math.round(width / numbers.multiple) * numbers.multiple;
    widths[layer] = Math.min(numbers.neurons[layer], Math.max(numbers.fewest, whole));
    state.set("budget.widths", widths);
    setPlan("own");
    show();
  }
  function show() {
    const plan = current();
    bars.draw(chart, plan);
    verdict.textContent = budgetVerdict(numbers, plan);
    table.show(budgetRows(numbers, state.get("budget.ratio")));
  }
}

/** One bar for each layer, which is a slider, and below it the predicted harm. */
function makeBars(numbers, setWidth) {
  let scale = null;
  let chosen = 0;
  const most = Math.max(...numbers.neurons);
  const step = { ArrowUp: numbers.multiple, ArrowDown: -numbers.multiple };
  const bars = numbers.neurons.map((_, layer) => {
    const bar = shape("g", { class: "bar", role: "slider", tabindex: layer === 0 ? 0 : -1 }, shape("rect", { class: "room" }), shape("rect", { class: "stays" }));
    bar.addEventListener("keydown", (event) => {
      const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (side) {
        const next = (layer + side + bars.length) % bars.length;
        choose(next);
        bars[next].focus();
      } else if (step[event.key]) {
        setWidth(layer, Number(bar.getAttribute("aria-valuenow")) + step[event.key]);
      } else {
        return;
      }
      event.preventDefault();
    });
    const drag = (event) => {
      const top = bar.ownerSVGElement.getBoundingClientRect().top;
      setWidth(layer, scale.numberAt(event.clientY - top));
    };
    bar.addEventListener("pointerdown", (event) => {
      bar.setPointerCapture(event.pointerId);
      choose(layer);
      bar.focus();
      event.preventDefault();
      drag(event);
    });
    bar.addEventListener("pointermove", (event) => {
      if (bar.hasPointerCapture(event.pointerId)) {
        drag(event);
      }
    });
    return bar;
  });
  const group = shape("g", {}, ...bars);
  function choose(layer) {
    chosen = layer;
    bars.forEach((bar, index) => change(bar, { tabindex: index === chosen ? 0 : -1 }));
  }
  let svg = null;
  function draw(chart, plan) {
    const label = "Neurons that stay in each layer, and below them the harm that is predicted of each";
    const drawing = drawingIn(chart, { height: 380, label, margins: { top: 28, bottom: 150 } });
    const lower = { top: drawing.bottom + 52, bottom: drawing.bottom + 106 };
    const across = linearScale([0, bars.length], [drawing.left, drawing.right]);
    const up = linearScale([0, most], [drawing.bottom, drawing.top]);
    scale = { numberAt: linearScale([drawing.bottom, drawing.top], [0, most]) };
    axisLeft(drawing, up, roundTicks(0, most, 4), "neurons that stay (pale: all)", (tick) => tick.toLocaleString("en"));
    const harms = predictedHarms(numbers, plan.widths);
    const highest = Math.max(0.01, ...harms.filter((harm) => !Number.isNaN(harm)));
    const harmUp = linearScale([0, highest], [lower.bottom, lower.top]);
    drawing.svg.append(shape("text", { class: "axis-words", x: 2, y: lower.top - 10 }, "predicted harm at that width (no unit)"));
    bars.forEach((bar, layer) => {
      const width = plan.widths[layer];
      const x = across(layer) + 1;
      const breadth = Math.max(2, across(1) - across(0) - 2);
      const [room, stays] = bar.children;
      change(room, { x, width: breadth, y: drawing.top, height: drawing.bottom - drawing.top });
      change(stays, { x, width: breadth, y: up(width), height: drawing.bottom - up(width) });
      change(bar, {
        "aria-label": `Layer ${layer}`,
        "aria-valuemin": numbers.fewest,
        "aria-valuemax": numbers.neurons[layer],
        "aria-valuenow": width,
        "aria-valuetext": width ? `${width} neurons` : "dropped",
        "aria-orientation": "vertical",
      });
      const harm = Number.isNaN(harms[layer]) ? 0 : harms[layer];
      drawing.svg.append(shape("rect", { class: "harm", x, width: breadth, y: harmUp(harm), height: lower.bottom - harmUp(harm) }));
    });
    const beneath = { ...drawing, bottom: lower.bottom };
    const middle = (layer) => across(layer + 0.5);
    axisBelow(beneath, middle, roundTicks(0, bars.length - 1, 6), "layer");
    // The bars stay in the page, so that one that has the focus keeps it.
    if (svg === null) {
      svg = shape("svg", { role: "group" });
      chart.replaceChildren(svg);
      svg.append(shape("g", {}), group);
    }
    change(svg, { width: drawing.width, height: drawing.height, viewBox: `0 0 ${drawing.width} ${drawing.height}`, "aria-label": label });
    svg.firstChild.replaceChildren(...drawing.svg.childNodes);
  }
  return { draw };
}
