// Part 2: two neurons whose arrows share a plane, and one that writes where they cannot reach.

import { choicesOf, gramOfArrows, refitOf, worthOf } from "./arrows.js";
import { button, choice, verdictLine } from "./controls.js";
import { change, drawAtEachWidth, element, lineThrough, linearScale, shape } from "./drawing.js";
import { listSetting, wordSetting } from "./state.js";

const LOW = -2; // the board goes from LOW to HIGH
const HIGH = 5;
const STEP = 0.1; // of an arrow, by key or by mouse
const FOOLED_BY_ENERGY = [2, 0, 2, 1, 1]; // x and y of neurons 1 and 2, and what neuron 3 writes: lesson 02's toy
const CASES = {
  "Energy is fooled": FOOLED_BY_ENERGY,
  "The condition is fooled": [4, 0, 4, 2, 0.3],
  "A near copy": [4, 4.3, 4.3, 4, 3],
  "A right angle": [3, 0, 0, 5, 4],
};
const GOING = { none: "none", energy: "by energy", condition: "by condition", price: "by price" };

export const neuronsSettings = {
  "neurons.arrows": listSetting(FOOLED_BY_ENERGY, LOW, HIGH, (length) => length === 5),
  "neurons.gone": wordSetting("none", Object.keys(GOING)),
};

/** The arrows of three neurons in three outputs: the first two neurons share a plane, the third has the third. */
export function arrowsOf([x1, y1, x2, y2, z3]) {
  return [
    [x1, y1, 0],
    [x2, y2, 0],
    [0, 0, z3],
  ];
}

/** All that the part shows: for the numbers of the arrows and a rule or "none". */
export function neuronsView(numbers, rule) {
  const gram = gramOfArrows(arrowsOf(numbers));
  const worth = worthOf(gram);
  const choices = choicesOf(worth);
  const gone = rule === "none" ? -1 : choices[rule];
  const refit = refitOf(gram, gone < 0 ? [] : [gone]);
  const least = Math.min(...worth.map(({ price }) => price));
  const fooled = ["energy", "condition"].filter((name) => worth[choices[name]].price > least + 1e-9);
  return { gram, worth, choices, gone, refit, fooled };
}

/** Sentences that say what the three rules do, and what is lost. */
export function neuronsVerdict({ worth, choices, gone, refit, fooled }) {
  const sentences = [];
  const lost = (index) => `${number(worth[index].price)}`;
  if (fooled.length === 0) {
    sentences.push(`Here no rule is fooled: removing neuron ${choices.price + 1} loses ${lost(choices.price)} after the refit.`);
  }
  for (const rule of fooled) {
    sentences.push(
      `${rule === "energy" ? "Energy" : "The condition"} is fooled: it removes neuron ${choices[rule] + 1}, which loses ` +
        `${lost(choices[rule])} after the refit. The price removes neuron ${choices.price + 1}, which loses ${lost(choices.price)}.`,
    );
  }
  if (gone >= 0) {
    const changed = refit.factors.findIndex((factor, index) => index !== gone && Math.abs(factor - 1) > 1e-9);
    const energy = worth[gone].energy;
    sentences.push(`Neuron ${gone + 1} goes, and without a refit its energy is lost: ${number(energy)}.`);
    if (changed < 0) {
      sentences.push("No other neuron writes in its direction, so the refit changes nothing.");
    } else {
      sentences.push(
        `The refit multiplies neuron ${changed + 1} by ${number(refit.factors[changed])}, and ${number(refit.error)} is ` +
          `lost (${percent(refit.error / energy)} of its energy).`,
      );
    }
  }
  return sentences.join(" ");
}

function number(value) {
  return Number.isFinite(value) ? value.toFixed(2) : "∞";
}

function percent(value) {
  return `${Math.round(100 * value)}%`;
}

/** Fills the part's place on the page. */
export function startNeurons(place, state) {
  const board = element("div", { class: "board" });
  const verdict = verdictLine();
  const rows = makeTable();
  const gone = choice({
    name: "neurons-gone",
    label: "Remove a neuron",
    options: GOING,
    value: state.get("neurons.gone"),
    chosen: (rule) => {
      state.set("neurons.gone", rule);
      show();
    },
  });
  const cases = element("div", { class: "buttons", role: "group", "aria-label": "Examples" });
  for (const [words, numbers] of Object.entries(CASES)) {
    cases.append(button(words, () => move(numbers)));
  }
  place.replaceChildren(cases, board, gone.root, verdict, rows.root);

  const parts = makeBoard(board, moveArrow);
  drawAtEachWidth(board, show);

  function numbers() {
    return state.get("neurons.arrows");
  }

  function move(values) {
    state.set("neurons.arrows", values);
    show();
  }

  /** Neuron `index` shall write [x, y], or [z] if it is the third. */
  function moveArrow(index, values) {
    const moved = [...numbers()];
    values.forEach((value, axis) => {
      moved[2 * index + axis] = Number(Math.min(HIGH, Math.max(LOW, value)).toFixed(1));
    });
    move(moved);
  }

  function show() {
    const view = neuronsView(numbers(), state.get("neurons.gone"));
    drawBoard(parts, board, numbers(), view);
    rows.show(numbers(), view, moveArrow);
    verdict.textContent = neuronsVerdict(view);
  }
}

/** The table of numbers, in which arrows can be typed as well. */
function makeTable() {
  const head = element("tr", {});
  for (const words of ["neuron", "writes", "energy", "condition", "price", "removed"]) {
    head.append(element("th", { scope: "col" }, words));
  }
  const body = element("tbody", {});
  const root = element(
    "table",
    { class: "numbers narrow" },
    element("caption", {}, "Energy and price are squared lengths. Price = energy / condition²."),
    element("thead", {}, head),
    body,
  );
  const fields = [];
  const cells = [];
  for (let index = 0; index < 3; index += 1) {
    const axes = index < 2 ? ["to the right", "upwards"] : ["to the third output"];
    const inputs = axes.map((axis) =>
      element("input", {
        type: "number",
        min: LOW,
        max: HIGH,
        step: STEP,
        "aria-label": `neuron ${index + 1} writes, ${axis}`,
      }),
    );
    fields.push(inputs);
    const row = ["energy", "condition", "price", "removed"].map(() => element("td", {}));
    cells.push(row);
    body.append(
      element("tr", {}, element("th", { scope: "row", class: `arrow-${index + 1}` }, `${index + 1}`), element("td", {}, ...inputs), ...row),
    );
  }
  let typed = () => {};
  fields.forEach((inputs, index) =>
    inputs.forEach((input) =>
      input.addEventListener("input", () => {
        const values = inputs.map((each) => each.valueAsNumber);
        if (!values.some(Number.isNaN)) {
          typed(index, values);
        }
      }),
    ),
  );
  const show = (numbers, { worth, choices }, moveArrow) => {
    typed = moveArrow;
    worth.forEach(({ energy, price, condition }, index) => {
      fields[index].forEach((input, axis) => {
        if (input !== document.activeElement) {
          input.value = numbers[2 * index + axis];
        }
      });
      const rules = Object.keys(choices).filter((rule) => choices[rule] === index);
      const words = [number(energy), number(condition), number(price), rules.length ? `by ${rules.join(", ")}` : ""];
      cells[index].forEach((cell, column) => {
        cell.textContent = words[column];
      });
    });
  };
  return { root, show };
}

/** The drawing: what is drawn anew at each step, and one handle for each arrow, which keeps the focus. */
function makeBoard(board, moveArrow) {
  const svg = shape("svg", { role: "group", "aria-label": "The arrows that three neurons write" });
  const picture = shape("g", { "aria-hidden": "true" });
  svg.append(picture);
  const parts = { svg, picture, handles: [], place: null };
  for (let index = 0; index < 3; index += 1) {
    const handle = shape(
      "g",
      { class: "handle", tabindex: 0, role: "button" },
      shape("circle", { class: "target", r: 22 }),
      shape("circle", { class: `tip arrow-${index + 1}`, r: 9 }),
      shape("text", { "text-anchor": "middle", y: 4 }, `${index + 1}`),
    );
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus();
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) {
        const corner = svg.getBoundingClientRect();
        const values = parts.place.numbersAt(event.clientX - corner.left, event.clientY - corner.top);
        moveArrow(index, index < 2 ? values : values.slice(1));
      }
    });
    handle.addEventListener("keydown", (event) => {
      const directions = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const direction = directions[event.key];
      if (direction) {
        event.preventDefault();
        const step = event.shiftKey ? 10 * STEP : STEP;
        const values = parts.place.arrows[index].map((value, axis) => value + step * direction[axis]);
        moveArrow(index, index < 2 ? values.slice(0, 2) : [parts.place.arrows[2][1] + step * direction[1]]);
      }
    });
    parts.handles.push(handle);
    svg.append(handle);
  }
  board.append(svg);
  return parts;
}

function drawBoard(parts, board, numbers, { gone, refit }) {
  const width = Math.max(280, board.clientWidth);
  const side = Math.min(width - 76, 420);
  const top = 22;
  change(parts.svg, { width, height: side + top + 8, viewBox: `0 0 ${width} ${side + top + 8}` });
  const across = linearScale([LOW, HIGH], [8, side]);
  const up = linearScale([LOW, HIGH], [top + side, top]);
  const third = side + 40; // where the third output stands, in pixels from the left
  const place = {
    // the third arrow is drawn upright, so its second number is its length
    arrows: [numbers.slice(0, 2), numbers.slice(2, 4), [0, numbers[4]]],
    numbersAt: (x, y) => [
      linearScale([8, side], [LOW, HIGH])(x),
      linearScale([top + side, top], [LOW, HIGH])(y),
    ],
  };
  parts.place = place;
  const pixel = ([x, y], index) => [index === 2 ? third : across(x), up(y)];
  const origin = (index) => pixel([0, 0], index);
  parts.picture.replaceChildren();
  const grid = shape("g", { class: "axis" });
  for (let tick = LOW; tick <= HIGH; tick += 1) {
    const kind = tick === 0 ? "zero" : "grid";
    grid.append(shape("line", { class: kind, x1: across(tick), x2: across(tick), y1: top, y2: top + side }));
    grid.append(shape("line", { class: kind, x1: 8, x2: side, y1: up(tick), y2: up(tick) }));
  }
  grid.append(shape("line", { class: "zero", x1: third, x2: third, y1: top, y2: top + side }));
  grid.append(shape("line", { class: "zero", x1: third - 8, x2: third + 8, y1: up(0), y2: up(0) }));
  grid.append(shape("text", { x: 8, y: 14 }, "first two outputs"));
  grid.append(shape("text", { x: Math.min(width, third + 40), y: 14, "text-anchor": "end" }, "third output"));
  parts.picture.append(grid);
  place.arrows.forEach((arrow, index) => {
    const line = [origin(index), pixel(arrow, index)];
    parts.picture.append(lineThrough(line, { class: `arrow arrow-${index + 1}${index === gone ? " gone" : ""}` }));
  });
  if (gone >= 0) {
    drawLoss(parts.picture, place.arrows, gone, refit, pixel);
  }
  parts.handles.forEach((handle, index) => {
    const [x, y] = pixel(place.arrows[index], index);
    const [right, upwards] = place.arrows[index].map((value) => value.toFixed(1));
    const where = index < 2 ? `${right} to the right and ${upwards} upwards` : `${upwards} to the third output`;
    change(handle, {
      transform: `translate(${x} ${y})`,
      "aria-label": `Neuron ${index + 1} writes ${where}. Drag it, or move it with the arrow keys.`,
    });
  });
}

/** What the refit makes of the others, and what is lost, as a dashed line. */
function drawLoss(picture, arrows, gone, refit, pixel) {
  const tip = arrows[gone];
  let reached = [0, 0]; // what the others write in the place of the one that went
  arrows.forEach((arrow, index) => {
    if (index !== gone && (index === 2) === (gone === 2)) {
      const more = refit.factors[index] - 1;
      reached = reached.map((value, axis) => value + more * arrow[axis]);
      if (Math.abs(more) > 1e-9) {
        const turned = arrow.map((value) => refit.factors[index] * value);
        picture.append(lineThrough([pixel([0, 0], index), pixel(turned, index)], { class: `refit arrow-${index + 1}` }));
      }
    }
  });
  const [x1, y1] = pixel(reached, gone);
  const [x2, y2] = pixel(tip, gone);
  picture.append(shape("line", { class: "lost", x1, y1, x2, y2 }));
  const middle = { x: (x1 + x2) / 2 + 8, y: (y1 + y2) / 2 + 4 };
  picture.append(shape("text", { class: "lost-word", ...middle }, "lost"));
}
